"""Wrong arguments: one sentence that names the flag, what was found and the mend; exit code 2."""

import re
import shlex
import subprocess

import pytest
from scripts_stub import SCRIPTS, Cloud

CREATE = ("tpu.sh", "create", "--name=x", "--type=v5e:4x4", "--spot")
SWEEP = ("sweep.sh", "start", "--type=v5e:4x4", "--spot", "--config=c", "--workdir=gs://b/r")
BABYSIT = ("babysit.sh", "--names=a", "--type=v5e:4x4", "--spot")
START = ("xpk.sh", "start", "--cluster=c", "--name=x", "--type=v5e:4x4")
WRONG = [
    (("tpu.sh", "crate"), ["crate", "create"]),
    (("tpu.sh", "create"), ["--name is missing"]),
    (("tpu.sh", "create", "--name=My_TPU"), ["--name=My_TPU", "lower-case"]),
    (("tpu.sh", "create", "--name=x"), ["--type is missing", "--type=v5e:4x4"]),
    (("tpu.sh", "create", "--name=x", "--type=v5e:4x4"), ["--spot", "--on-demand"]),
    ((*CREATE, "--on-demand"), ["--spot and --on-demand exclude"]),
    ((*CREATE, "--zoen=z"), ["--zoen", "nearest is --zone"]),
    ((*CREATE, "--zone"), ["--zone has no value", "--zone=VALUE"]),
    ((*CREATE, "--zone="), ["--zone has no value"]),
    ((*CREATE, "--wait=yes"), ["--wait takes no value", "yes"]),
    ((*CREATE, "us-west4-a"), ["us-west4-a is not a flag"]),
    ((*CREATE, "--slices=0"), ["--slices=0", "at least 1"]),
    ((*CREATE, "--slices=two"), ["--slices=two", "whole number"]),
    ((*CREATE, "--poll=08"), ["--poll=08"]),
    ((*CREATE, "--", "jaxcomp"), ["after --", "jaxcomp"]),
    ((*CREATE[:3], "--spot", "--type=v5e:4x5"), ["v5e:4x4 (v5litepod-16)", "v5e:4x8"]),
    ((*CREATE[:3], "--spot", "--type=v5p-130"), ["v5p:4x4x4 (v5p-128)", "v5p:4x4x8"]),
    ((*CREATE[:3], "--spot", "--type=v6e-512"), ["the nearest: v6e:16x16 (v6e-256)"]),
    ((*CREATE[:3], "--spot", "--type=h100:8"), ["h100:8", "v5e, v5p or v6e"]),
    (("tpu.sh", "setup", "--name=x", "--env-file=none"), ["--env-file=none is no file"]),
    (("tpu.sh", "run", "--name=x"), ["no command", "-- jaxcomp"]),
    (("tpu.sh", "run", "--name=x", "--attempt=a b", "--", "c"), ["--attempt='a b'"]),
    (("tpu.sh", "stop", "--name=x", "--force"), ["--force belongs to --delete"]),
    (("sweep.sh", "begin"), ["begin", "start, status or stop"]),
    (SWEEP, ["--prefix is missing", "--names=A,B,C"]),
    ((*SWEEP, "--prefix=p"), ["--count is missing"]),
    ((*SWEEP, "--prefix=p", "--count=2", "--names=a"), ["exclude each other"]),
    ((*SWEEP, "--names=a,b,a"), ["a name twice"]),
    ((*SWEEP, "--names=a,B"), ["--name=B"]),
    ((*SWEEP[:-1], "--workdir=runs/x", "--names=a"), ["--workdir=runs/x", "gs://BUCKET/FOLDER"]),
    ((*SWEEP[:-1], "--names=a"), ["--workdir is missing"]),
    (("sweep.sh", "stop", "--names=a", "--", "x"), ["after --"]),
    (BABYSIT, ["no command"]),
    ((*BABYSIT, "--max-failures=-1", "--", "c"), ["--max-failures=-1", "at least 0"]),
    ((*BABYSIT[:-1], "--", "c"), ["--spot"]),
    ((*BABYSIT, "--state-dir=/dev/null/x", "--", "c"), ["--state-dir=/dev/null/x"]),
    (("xpk.sh", "start"), ["--cluster is missing"]),
    (START, ["no command"]),
    (("xpk.sh", "cluster", "--cluster=c", "--type=v5e:4x4"), ["exactly one", "--reservation"]),
    ((*START[:-1], "--type=v5e:1x1", "--", "c"), ["v5e:1x1", "v5litepod-1", "2x4, 4x4", "tpu.sh"]),
    (
        ("xpk.sh", "cluster", "--cluster=c", "--spot", "--type=v5litepod-4"),
        ["--type=v5litepod-4", "--type=v5e:2x4"],
    ),
    (("slurm.sbatch", "--nodes=2", "jaxcomp"), ["--nodes=2", "sbatch"]),
    (("slurm.sbatch", "jaxcomp", "sweep"), ["not inside a SLURM job"]),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=lambda v: " ".join(v)[-40:])
def test_one_sentence_and_exit_code_2(tmp_path, args, words):
    done = Cloud.make(tmp_path).run(*args, code=2)
    lines = [r for r in done.err.splitlines() if not r.startswith("mkdir:")]
    assert len(lines) == 1
    assert all(w in lines[0] for w in words), lines[0]
    assert not (tmp_path / "calls.jsonl").exists()


COMMANDS = [
    *[("tpu.sh", v) for v in ("create", "setup", "run", "status", "logs", "stop")],
    *[("sweep.sh", v) for v in ("start", "status", "stop")],
    *[("xpk.sh", v) for v in ("cluster", "start", "status", "stop", "delete")],
    ("babysit.sh",),
]
SHOWN = sorted({c[0] for c in COMMANDS})


def flags_in(text):
    return set(re.findall(r"--([a-z][a-z-]+)", text))


# Tries each candidate on the subcommands of one script until one takes it.
TRY = r"""
script=$1 verbs=$2; shift 2
for flag; do
  for verb in $verbs; do
    found=$(bash "$script" ${verb%%-} --"$flag"=$'\t' 2>&1 >/dev/null </dev/null)
    case $found in *"--$flag is not a flag of this command"*) ;; *) echo "$flag"; break ;; esac
  done
done
"""


@pytest.mark.parametrize("script", SHOWN)
def test_help_names_every_flag_and_no_other(tmp_path, script):
    cloud = Cloud.make(tmp_path)
    verbs = " ".join(c[1] if len(c) > 1 else "-" for c in COMMANDS if c[0] == script)
    shown = flags_in(cloud.run(script, "--help").out) - {"shard"}
    # Whatever is a flag of any of the scripts could be one of this.
    helps = [cloud.run(c, "--help").out for c in ("tpu.sh", "sweep.sh", "babysit.sh", "xpk.sh")]
    other = flags_in(" ".join(helps) + (SCRIPTS / script).read_text())
    done = subprocess.run(
        ["bash", "-c", TRY, "try", str(SCRIPTS / script), verbs, *sorted(shown | other)],
        env=cloud.env(),
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) | {"help"} == shown | {"help"}


@pytest.mark.parametrize("script", [*SHOWN, "worker.sh", "slurm.sbatch"])
def test_help_goes_to_stdout_and_calls_nothing(tmp_path, script):
    done = Cloud.make(tmp_path).run(script, "--help")
    assert script in done.out
    assert not done.err
    assert not (tmp_path / "calls.jsonl").exists()


def commands_in(text):
    """The commands of tpu_scripts/ in the code blocks of a document, lines joined."""
    blocks = "".join(re.findall(r"```(?:sh)?\n(.*?)```", text, re.S)).replace("\\\n", " ")
    return re.findall(r"(?m)^(?:\$ )?(tpu_scripts/.*)", blocks)


def test_the_commands_of_the_document_are_ones_that_the_scripts_take(tmp_path):
    cloud = Cloud.make(tmp_path)
    (tmp_path / "my.env").touch()
    text = (SCRIPTS.parent / "docs/tpu.md").read_text()
    found = [shlex.split(c.replace("$SA", "a@b")) for c in commands_in(text)]
    assert {c[0].partition("/")[2] for c in found} == set(SHOWN)
    for script, *words in found:
        words = [w for w in words if w != "--dry-run"]
        cut = words.index("--") if "--" in words else len(words)
        dry = [*words[:cut], "--dry-run", *words[cut:]]
        cloud.run(script.partition("/")[2], *dry)


def test_the_outputs_of_a_dry_run_in_the_document_are_its_outputs(tmp_path):
    text = (SCRIPTS.parent / "docs/tpu.md").read_text()
    for asked in [c for c in commands_in(text) if "--dry-run" in c]:
        script, *words = shlex.split(asked)
        assert Cloud(tmp_path).run(script.partition("/")[2], *words).out in text
