"""--dry-run runs nothing, and what it prints is what would have been run."""

import re

import pytest
from scripts_stub import Cloud

WHERE = ("--project=p", "--zone=us-west4-a")
JOB = ("--", "jaxcomp", "sweep", "--note=it's a $test", "")
CREATE = ("--type=v5e:4x4", "--spot", *WHERE)
CASES = {
    "create": ("tpu.sh", "create", "--name=x", *CREATE, "--service-account=a@b", "--internal-ip"),
    "create-wait": ("tpu.sh", "create", "--name=x", *CREATE, "--slices=2", "--wait"),
    "setup": ("tpu.sh", "setup", "--name=one", *WHERE, "--commit=v1"),
    "setup-slices": ("tpu.sh", "setup", "--name=two", "--slices=2"),
    "setup-url": ("tpu.sh", "setup", "--name=one", "--repo=u r l", "--env-file={env}"),
    "run": ("tpu.sh", "run", "--name=ready", "--attempt=t", *WHERE, *JOB),
    "status": ("tpu.sh", "status", "--name=ready", *WHERE, "--internal-ip"),
    "logs": ("tpu.sh", "logs", "--name=ready", "--worker=0", "--lines=9"),
    "stop": ("tpu.sh", "stop", "--name=ready", "--grace=9"),
    "stop-delete": ("tpu.sh", "stop", "--name=two", "--slices=2", "--delete", *WHERE),
    "sweep": (
        *("sweep.sh", "start", "--prefix=s", "--count=2", "--config=configs/paper.py:family=qwen3"),
        *("--workdir=gs://b/r", "--commit=v1", *CREATE, "--", "--train.optim.steps=9"),
    ),
    "sweep-status": ("sweep.sh", "status", "--names=ready,one"),
    "sweep-stop": ("sweep.sh", "stop", "--names=ready,one", "--delete"),
    "babysit": ("babysit.sh", "--names=x", "--commit=v1", *CREATE, *JOB),
    "xpk-cluster": ("xpk.sh", "cluster", "--cluster=c", "--type=v6e:8x8", "--spot", *WHERE),
    "xpk-start": ("xpk.sh", "start", "--cluster=c", "--name=x", "--type=v5p:4x4x4", *WHERE, *JOB),
    "xpk-stop": ("xpk.sh", "stop", "--cluster=c", "--name=x"),
    "xpk-status": ("xpk.sh", "status", "--cluster=c"),
    "xpk-delete": ("xpk.sh", "delete", "--cluster=c"),
}
AT_ONCE = ("sweep", "sweep-status", "sweep-stop")


def fresh(root):
    """The same cloud each time: nothing called x, three that exist, their workers without a job."""
    root.mkdir()
    cloud = Cloud.make(root, after_create=[["ACTIVE"]] * 4)
    (root / "an env").write_text("A=1\n")
    cloud.resource("one")
    cloud.resource("two", count=2)
    cloud.ready("ready")
    (cloud.home("ready") / ".jaxcomp-job").mkdir()
    (cloud.home("ready") / ".jaxcomp-job/log").write_text("step 1\n")
    return cloud


def args(cloud, case):
    script, *words = CASES[case]
    return script, *[w.format(env=cloud.root / "an env") if "{env}" in w else w for w in words]


def told(cloud, calls):
    """Calls without what differs from run to run: the folder of the test, ids made of the time."""
    made = r"(--attempt=(?:babysit-)?)\d{8}T\d{6}Z(-\d+)?"
    return [[re.sub(made, r"\1T", a.replace(str(cloud.root), "ROOT")) for a in c] for c in calls]


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_runs_nothing_and_prints_what_would_run(tmp_path, case):
    dry, real = fresh(tmp_path / "dry"), fresh(tmp_path / "real")
    script, *words = args(dry, case)
    cut = words.index("--") if "--" in words else len(words)
    printed = dry.run(script, *words[:cut], "--dry-run", *words[cut:]).out
    assert not (dry.root / "calls.jsonl").exists()
    assert not list((dry.root / "home").iterdir())
    assert not list((dry.root / "tmp").rglob("*.tgz"))
    dry.paste(printed)
    real.run(*args(real, case))
    pasted, done = told(dry, dry.calls()), told(real, real.calls())
    assert pasted
    if script == "babysit.sh":  # which looks again until the job has ended
        done = done[: len(pasted)]
    if case in AT_ONCE or "two" in str(words) or "--slices=2" in words:
        pasted, done = sorted(pasted), sorted(done)
    assert pasted == done
    for cloud in (dry, real):
        cloud.close()


def test_each_printed_line_is_a_whole_command(tmp_path):
    """So that one line can be taken out and pasted alone."""
    cloud = fresh(tmp_path / "dry")
    line = r"two\nlines and 'quotes'".replace("\\n", "\n")
    out = cloud.run("tpu.sh", "run", "--name=ready", "--dry-run", "--", "jaxcomp", line).out
    assert [r.split()[0] for r in out.splitlines()] == ["gcloud"] * 3
