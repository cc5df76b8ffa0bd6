"""GKE through xpk, jobset.yaml, and SLURM."""

import shlex
import shutil
import subprocess

import pytest
import yaml
from scripts_stub import SCRIPTS, Cloud

# From `xpk workload create --help` and `xpk cluster create --help` of xpk 1.16.0, as far as used;
# `workload list`, `workload delete` and `cluster delete` share the first four.
XPK = "cluster project zone workload command tpu-type num-slices docker-image base-docker-image"
XPK += " script-dir max-restarts termination-grace-period-seconds spot on-demand reservation"
XPK += " restart-on-exit-codes"
WHERE = ("--cluster=c", "--project=p", "--zone=z")


def xpk(tmp_path, *args):
    cloud = Cloud.make(tmp_path)
    cloud.run("xpk.sh", *args)
    (call,) = cloud.calls()
    assert {a[2:].partition("=")[0] for a in call if a.startswith("--")} <= set(XPK.split())
    return call


def test_xpk_cluster(tmp_path):
    call = xpk(tmp_path, "cluster", *WHERE, "--type=v5e:4x4", "--slices=2", "--reservation=r")
    assert call[:3] == ["xpk", "cluster", "create"]
    own = {"--tpu-type=v5litepod-16", "--num-slices=2", "--reservation=r"}
    assert set(call[3:]) == {*WHERE, *own}


def test_xpk_start_from_this_checkout(tmp_path):
    job = ["jaxcomp", "sweep", "--note=it's a $test"]
    call = xpk(tmp_path, "start", *WHERE, "--name=x", "--type=v5p:4x4x4", "--", *job)
    assert call[:3] == ["xpk", "workload", "create"]
    assert {"--workload=x", "--tpu-type=v5p-128", f"--script-dir={SCRIPTS.parent}"} < set(call)
    command = next(a for a in call if a.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(command)[-len(job) - 1 :] == ["exec", *job]
    assert "uv sync" in command


def test_xpk_start_in_an_image(tmp_path):
    call = xpk(tmp_path, "start", *WHERE, "--name=x", "--type=v6e-8", "--image=i", "--", "jaxcomp")
    assert {"--docker-image=i", "--command=exec jaxcomp"} < set(call)
    assert not any(a.startswith(("--script-dir", "--base")) for a in call)


def test_xpk_exit_code_is_handed_on(tmp_path):
    Cloud.make(tmp_path).run("xpk.sh", "status", "--cluster=c", code=5, EXIT_XPK="5")


def test_without_xpk_it_says_what_to_install(tmp_path):
    cloud = Cloud.make(tmp_path)
    (tmp_path / "bin/xpk").unlink()
    done = cloud.run("xpk.sh", "status", "--cluster=c", code=1)
    assert "pip install xpk" in done.err


VALUES = {
    "NAME": "paper-0",
    "QUEUE": "multislice-queue",
    "IMAGE": "image:1",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "SLICES": "2",
    "HOSTS": "4",
    "CHIPS_PER_HOST": "4",
    "COMMAND": "jaxcomp sweep --workdir='gs://b/a b' --note=$HOME",
}


def test_jobset_filled_as_its_head_says():
    text = (SCRIPTS / "jobset.yaml").read_text()
    if not shutil.which("envsubst"):
        pytest.skip("no envsubst (gettext) here")
    head = text.split("apiVersion")[0]
    names = head.split("envsubst '")[1].split("'")[0]
    assert {n.lstrip("$") for n in names.split()} == set(VALUES)
    done = subprocess.run(
        ["envsubst", names], input=text, env=VALUES, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "multislice-queue"
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert container["resources"]["limits"]["google.com/tpu"] == 4
    assert container["args"] == [f"exec {VALUES['COMMAND']}\n"]
    named = {r["onExitCodes"]["containerName"] for r in spec["podFailurePolicy"]["rules"]}
    assert named == {container["name"]}


def slurm(tmp_path, *args, code: int = 0, exit_code: str = "0"):
    cloud = Cloud.make(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    about = {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(tmp_path), "EXIT_SRUN": exit_code}
    cloud.run("slurm.sbatch", *args, code=code, **about)
    return cloud.calls()


JOB = ("jaxcomp", "sweep", "--note=a b")


def test_slurm_runs_the_command_once_per_task(tmp_path):
    (call,) = slurm(tmp_path, *JOB)
    assert call[0] == "srun"
    assert call[-len(JOB) :] == list(JOB)
    assert "--gpu-bind=none" in call


def test_slurm_queues_again_what_saved_and_stopped(tmp_path):
    calls = slurm(tmp_path, *JOB, exit_code="143")
    assert calls[-1] == ["scontrol", "requeue", "42"]


def test_slurm_does_not_queue_a_failure_again(tmp_path):
    (call,) = slurm(tmp_path, *JOB, code=3, exit_code="3")
    assert call[0] == "srun"


def test_slurm_dry_run(tmp_path):
    cloud = Cloud.make(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    out = cloud.run("slurm.sbatch", "--dry-run", *JOB).out
    assert not (tmp_path / "calls.jsonl").exists()
    rows = [shlex.split(r) for r in out.splitlines()]
    assert [r[0] for r in rows] == ["uv", "srun"]
    assert rows[1][-len(JOB) :] == list(JOB)
