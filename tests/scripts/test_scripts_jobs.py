"""What the states of single workers mean together, and the shapes of slices."""

import subprocess

import pytest
from scripts_stub import SCRIPTS, Cloud

from jaxcomp.sweep.plan import topology

WORKERS = [
    ("none none", "none"),
    ("running running", "running"),
    ("running finished:0", "running"),
    ("finished:0 finished:0", "done"),
    ("finished:0 none", "none"),
    ("unset running", "unset"),
    ("running finished:1", "broken 1"),
    ("running finished:143", "broken"),
    ("running none", "broken"),
    ("running died", "broken"),
    ("running rebooted", "broken"),
    ("finished:143 finished:143", "terminated"),
    ("finished:0 finished:143", "terminated"),
    ("finished:143 finished:1", "failed 1"),
    ("finished:137 finished:0", "failed 137"),
    ("died finished:0", "failed"),
    ("died finished:1", "failed 1"),
    ("rebooted finished:1", "rebooted 1"),
    ("stopped:143 stopped:143", "stopped"),
    ("stopped:143 finished:0", "stopped"),
]


def sourced(cloud, code, *args):
    lines = f". {SCRIPTS}/lib.sh; . {SCRIPTS}/slice.sh; {code}"
    words = ["bash", "-c", lines, "sourced", *args]
    return subprocess.run(words, env=cloud.env(), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("workers", "together"), WORKERS)
def test_one_word_for_all_workers(tmp_path, workers, together):
    rows = [w.partition(":") for w in workers.split()]
    jobs = [f"JAXCOMP w-{i} {s} {c or '-'} a-1 | step 7" for i, (s, _, c) in enumerate(rows)]
    code = 'JOBS=$1; summary_of_jobs; echo "$JOB $JOB_CODE"'
    for order in (jobs, jobs[::-1]):
        assert sourced(Cloud(tmp_path), code, "\n".join(order)).strip() == together


def test_every_slice_of_jaxcomp_plan_can_be_asked_for(tmp_path):
    names = [f"{k}:{s}" for k, shapes in topology.SHAPES.items() if k != "h100" for s in shapes]
    code = 'for n; do resolve_type "$n"; echo "$TOPOLOGY $CHIPS $GENERATION"; done'
    for name, row in zip(names, sourced(Cloud(tmp_path), code, *names).splitlines(), strict=True):
        assert row.split() == [name, str(topology.slice_of(name).chips), name.partition(":")[0]]


def test_table_of_shapes_is_consistent(tmp_path):
    rows = [r.split() for r in sourced(Cloud(tmp_path), 'echo "$SHAPES"').split("\n") if r]
    assert len({r[0] for r in rows}) == len({r[1] for r in rows}) == len(rows)
    for accelerator, name, chips in rows:
        generation, _, shape = name.partition(":")
        product = 1
        for side in shape.split("x"):
            product *= int(side)
        cores = 2 * product if generation == "v5p" else product
        assert int(chips) == product
        assert accelerator == {"v5e": "v5litepod"}.get(generation, generation) + f"-{cores}"
