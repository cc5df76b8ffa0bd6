"""What the stubs on PATH do; see scripts_stub.py.

Each call is a new process: what only some calls need is imported there.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False  # as pyright knows it; importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import NoReturn

ROOT = os.environ["CLOUD"]
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from scripts_engine_records import PARENT, QUEUED, node_record, project, record  # noqa: E402


@contextlib.contextmanager
def world():
    """world.json, for this process alone; changes are written back, whole: a test may kill us."""
    with open(f"{ROOT}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{ROOT}/world.json") as file:
            now = json.load(file)
        yield now
        with open(f"{ROOT}/world.json.new", "w") as file:
            json.dump(now, file)
        os.replace(f"{ROOT}/world.json.new", f"{ROOT}/world.json")


def log(name, args):
    with open(f"{ROOT}/calls.jsonl", "a") as file:
        file.write(json.dumps([name, *args]) + "\n")


def flags_of(args):
    return dict(a[2:].partition("=")[::2] for a in args if a.startswith("--"))


def error(text, code=1) -> "NoReturn":
    print(text, file=sys.stderr)
    raise SystemExit(code)


# --- gcloud


def gcloud(args):
    with world() as w:
        held = any(words in " ".join(args) for words in w["held"])
        for rule in w["fail"]:
            if rule["times"] > 0 and all(any(m in a for a in args) for m in rule["match"]):
                rule["times"] -= 1
                broken = rule
                break
        else:
            broken = None
    if held:
        time.sleep(600)
    if broken:
        error(broken["stderr"], broken.get("code", 1))
    kind, verb, name, flags = args[2], args[3], args[4], flags_of(args)
    {
        ("queued-resources", "create"): create,
        ("queued-resources", "describe"): describe,
        ("queued-resources", "delete"): delete,
        ("tpu-vm", "describe"): describe_node,
        ("tpu-vm", "delete"): delete_node,
        ("tpu-vm", "ssh"): ssh,
        ("tpu-vm", "scp"): lambda *_: scp(args, flags),
    }[kind, verb](name, flags)


def not_found(verb, what) -> "NoReturn":
    where = f"Resource '{PARENT}/{what}' was not found"
    error(f"ERROR: (gcloud.compute.tpus.{verb}) NOT_FOUND: {where}")


def create(name, flags):
    with world() as w:
        if name in w["resources"]:
            error("ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource")
        states = w["after_create"].pop(0) if w["after_create"] else list(QUEUED)
        count = int(flags.get("node-count", 1))
        new = {
            "states": states,
            "type": flags["accelerator-type"],
            "count": count,
            "spot": "spot" in flags,
        }
        w["resources"][name] = new
    print(f"Create request issued for: [{name}]", file=sys.stderr)


def describe(name, flags):
    with world() as w:
        one = w["resources"].get(name)
        if one is None:
            not_found("queued-resources.describe", f"queuedResources/{name}")
        state = one["states"][0]
        if len(one["states"]) > 1:
            one["states"].pop(0)
    print(project(record(name, one, state), flags["format"]))


def owner(node) -> tuple[dict | None, dict]:
    """The resource of a node: name and record, its state unchanged."""
    with world() as w:
        for name, one in w["resources"].items():
            nodes = [name] if one["count"] == 1 else [f"{name}-{i}" for i in range(one["count"])]
            if node in nodes and one["states"][0] in ("ACTIVE", "SUSPENDING"):
                return one, w
    return None, {}


def describe_node(node, flags):
    one, _ = owner(node)
    if one is None:
        not_found("tpu-vm.describe", f"nodes/{node}")
    print(project(node_record(one.get("node_state", "READY")), flags["format"]))


def delete_node(node, flags):
    one, _ = owner(node)
    empty(node)
    if one is None:
        not_found("tpu-vm.delete", f"nodes/{node}")


def delete(name, flags):
    assert "force" in flags, "a queued resource with nodes is only deleted with --force"
    with world() as w:
        if w["resources"].pop(name, None) is None:
            not_found("queued-resources.delete", f"queuedResources/{name}")
    for node in os.listdir(f"{ROOT}/workers") if os.path.isdir(f"{ROOT}/workers") else []:
        if node == name or (node.startswith(name + "-") and node[len(name) + 1 :].isdigit()):
            empty(node)


def empty(node):
    """A node that is gone: its processes and its disk."""
    import shutil

    base = f"{ROOT}/workers/{node}"
    for worker in os.listdir(base) if os.path.isdir(base) else []:
        group = f"{base}/{worker}/.jaxcomp-job/group"
        with contextlib.suppress(OSError, ValueError), open(group) as file:
            os.killpg(int(file.read()), signal.SIGKILL)
    shutil.rmtree(base, ignore_errors=True)


# --- workers


def homes(node, wanted):
    """(index, home, environment) of the workers that --worker names."""
    one, w = owner(node)
    if one is None or one.get("node_state") in ("PREEMPTED", "TERMINATED"):
        error(f'ERROR: (gcloud.compute.tpus.tpu-vm.ssh) The TPU "{node}" is in an unusable state')
    chips = int(one["type"].rpartition("-")[2])
    for i in range(w["hosts"]):
        if wanted not in ("all", str(i)):
            continue
        home = f"{ROOT}/workers/{node}/{i}"
        os.makedirs(home, exist_ok=True)
        host = f"t1v-n-{node}-w-{i}"
        versions = w["versions"].get(host, "python=3.11.9,jax=0.10.2,libtpu=0.0.40")
        devices = w.get("devices", chips * one["count"])
        about = f"{host} {w['hosts'] * one['count']} {devices} {versions}"
        own = {
            "HOME": home,
            "WORKER_NODE": node,
            "WORKER_INDEX": str(i),
            "WORKER_HOST": host,
            "ABOUT": about,
        }
        yield i, home, os.environ | own


def ssh(node, flags):
    import subprocess

    print("Using ssh batch size of 1. Attempting to SSH into 1 nodes", file=sys.stderr)
    running = []
    for i, home, env in homes(node, flags["worker"]):
        print(f"SSH: Attempting to connect to worker {i}...", file=sys.stderr)
        running.append(subprocess.Popen(["bash", "-c", flags["command"]], cwd=home, env=env))
    codes = [p.wait() for p in running]
    raise SystemExit(next((c for c in codes if c), 0))


def scp(args, flags):
    import shutil

    source, target = [a for a in args[4:] if not a.startswith("--")]
    node, _, place = target.partition(":")
    for _, home, _ in homes(node, flags["worker"]):
        shutil.copy(source, f"{home}/{place}")


def uv(args):
    """`uv sync`: an environment with the two programs that worker.sh starts."""
    assert args[0] == "sync", args
    if "WORKER_NODE" not in os.environ:
        return
    os.makedirs(".venv/bin", exist_ok=True)
    for name, target in (("jaxcomp", "jaxcomp"), ("python", "jaxcomp-python")):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{ROOT}/bin/{target}", f".venv/bin/{name}")


def jaxcomp_python(args):
    sys.stdin.read()
    print("JAXCOMP-CHECK", os.environ["ABOUT"])


def jaxcomp(args):
    """The job. Each run does what the next of world["runs"] says; with none left it finishes."""
    node, worker = os.environ["WORKER_NODE"], os.environ["WORKER_INDEX"]
    os.makedirs(f"{ROOT}/bucket", exist_ok=True)
    path = f"{ROOT}/bucket/{node}-{worker}.jsonl"
    with open(path, "a") as file:
        file.write(json.dumps(args) + "\n")
    with open(path) as file:
        past = len(file.readlines()) - 1
    with world() as w:
        todo = w["runs"][past] if past < len(w["runs"]) else "finish"
    what, _, value = todo.partition(" ")
    print(f"step {100 * past + 7} loss 1.234 token={os.environ.get('HF_TOKEN', '')}", flush=True)
    if what == "fail":
        error("ValueError: the batch does not divide", int(value))
    if what == "finish":
        print("nothing to do: all jobs are done")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if what == "host0":  # one host fails, the others wait for it
        if worker == "0":
            error("RuntimeError: out of memory", int(value))
    elif what == "preempt":
        change = {"states": [value]} if value == "SUSPENDED" else {"node_state": value}
        with world() as w:
            w["resources"][node] |= change
    time.sleep(600)


def git(args):
    """`git archive`: of this checkout the part that the scripts need on a worker."""
    import shutil
    import tarfile

    if "archive" in args:
        with tarfile.open(flags_of(args)["output"], "w:gz") as tar:
            tar.add(f"{HERE}/../../tpu_scripts", "tpu_scripts")
            tar.add(f"{HERE}/../../pyproject.toml", "pyproject.toml")
    elif "rev-parse" in args:
        print("0123456789abcdef0123456789abcdef01234567")
    elif args[0] == "clone":
        os.makedirs(args[-1])
        shutil.copytree(f"{HERE}/../../tpu_scripts", f"{args[-1]}/tpu_scripts")


def main():
    name, args = sys.argv[1], sys.argv[2:]
    log(name, args)
    if name == "gcloud":
        gcloud(args)
    elif name in ("srun", "scontrol", "xpk"):
        raise SystemExit(int(os.environ.get(f"EXIT_{name.upper()}", 0)))
    else:
        {"uv": uv, "git": git, "jaxcomp": jaxcomp, "jaxcomp-python": jaxcomp_python}[name](args)


main()
