"""What `gcloud compute tpus ... describe` has to tell, and how it prints a part of it.

Nobody has seen these records come from Google Cloud: they are written after the messages of the v2
API, and test_scripts_lint.py holds them and `project` to the library of an installed gcloud.
"""

import re

PARENT = "projects/my-project/locations/us-west4-a"
QUEUED = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
STATES = [*QUEUED, "CREATING", "ACCEPTED", "FAILED", "SUSPENDING", "SUSPENDED", "DELETING"]


def record(name, one, state):
    """A queued resource, with the field names that the v2 API gives it."""
    node = {
        "acceleratorType": one["type"],
        "networkConfig": {"enableExternalIps": True, "network": "default"},
        "queuedResource": f"{PARENT}/queuedResources/{name}",
        "runtimeVersion": "v2-alpha-tpuv5-lite",
        "schedulingConfig": {"spot": one["spot"]},
    }
    spec = {"node": node, "parent": PARENT}
    if one["count"] > 1:
        spec["multisliceParams"] = {"nodeCount": one["count"], "nodeIdPrefix": name}
    else:
        spec["nodeId"] = name
    data = re.sub("_(.)", lambda m: m[1].upper(), state.lower()) + "Data"
    detail = {} if state == "WAITING_FOR_RESOURCES" else {data: {}}
    out = {
        "createTime": "2025-06-20T08:00:00.000000Z",
        "name": f"{PARENT}/queuedResources/{name}",
        "state": {"state": state, "stateInitiator": "SERVICE", **detail},
        "tpu": {"nodeSpec": [spec]},
    }
    return out | ({"spot": {}} if one["spot"] else {})


def node_record(state):
    ends = [{"ipAddress": "10.164.0.2", "port": 8470}]
    return {"state": state, "health": "HEALTHY", "networkEndpoints": ends}


def project(found, form):
    """`csv[no-heading](a.b,c[0].d)` of a record, as gcloud prints it."""
    keys = re.fullmatch(r"csv\[no-heading\]\((.*)\)", form)
    assert keys, f"the stub knows csv[no-heading](...) only, not {form}"
    values = []
    for key in keys[1].split(","):
        value = found
        for part in re.findall(r"\w+", key):
            value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
        values.append("" if value is None else str(value))
    return ",".join(values)


FORMS = {
    "QueuedResource": "csv[no-heading](state.state,tpu.nodeSpec[0].node.acceleratorType,"
    "tpu.nodeSpec[0].multisliceParams.nodeCount)",
    "Node": "csv[no-heading](state,health)",
}
ONE = {"type": "v5litepod-16", "count": 1, "spot": True}
RECORDS = [
    *[("QueuedResource", record("x", ONE, state)) for state in STATES],
    ("QueuedResource", record("x", ONE | {"count": 4, "spot": False}, "ACTIVE")),
    *[("Node", node_record(state)) for state in ("READY", "PREEMPTED", "TERMINATED")],
]
