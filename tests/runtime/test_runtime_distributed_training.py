"""The same numbers on 1, 2 and 4 processes, and checkpoints that pass from one to the other.

Four devices in all: 1 x 4, 2 x 2, 4 x 1. With four processes, the mesh axis tp reaches over two of
them, which then need the same rows.
"""

import json
from pathlib import Path

import pytest
import scenario
from conftest import mesh_of
from processes import Processes, rows
from training import training_models as tiny

from jaxcomp.models import hf
from jaxcomp.runtime.sharding import use_mesh

pytestmark = pytest.mark.slow

SCRIPT = str(Path(scenario.__file__))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Number of processes -> what each of them found; and the folder of all."""
    folder = tmp_path_factory.mktemp("cluster")
    with use_mesh(mesh_of((1, 1, 1))):
        hf.save(tiny.tower(), folder / "weights", dtype="float32")
    made = {1: [scenario.scenario(folder)]}
    for count, resume in ((4, [1]), (2, [1, 4])):
        running = Processes(
            [SCRIPT, str(folder), *map(str, resume)], count, scenario.DEVICES, folder=folder
        )
        try:
            running.ok()
        finally:
            running.close()
        made[count] = [
            json.loads((folder / f"found-{count}-{i}.json").read_text()) for i in range(count)
        ]
    made[1][0]["from-2"] = scenario.trained(folder / "half-2", scenario.mesh())
    return folder, made


@pytest.mark.parametrize("count", [2, 4])
def test_the_loss_of_every_step_is_that_of_one_process(found, count):
    folder, made = found
    alone, several = rows(folder / "whole-1"), rows(folder / f"whole-{count}")
    assert len(alone) == 3
    for one, other in zip(alone, several, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    # Every process holds the same result.
    assert len({one["whole"]["digest"] for one in made[count]}) == 1
    assert made[1][0]["whole"]["numbers"] == pytest.approx(
        made[count][0]["whole"]["numbers"], rel=1e-5
    )


def test_each_process_reads_its_share_of_the_rows(found):
    """Six batches of eight. Where tp reaches over processes, two of four read the same rows."""
    _, made = found
    assert made[1][0]["rows"] == 48
    assert [one["rows"] for one in made[2]] == [24] * 2
    assert [one["rows"] for one in made[4]] == [24] * 4


def test_each_process_reads_its_share_of_the_weights(found):
    """All but the norms are sharded over fsdp and tp."""
    _, made = found
    whole = made[1][0]["loaded"]["bytes"]
    for count in (2, 4):
        for one in made[count]:
            assert whole / count <= one["loaded"]["bytes"] < 1.2 * whole / count
            assert one["loaded"]["emb"] == made[1][0]["loaded"]["emb"]
            assert one["back"]


@pytest.mark.parametrize(("left_by", "done_by"), [(1, 2), (1, 4), (4, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(found, left_by, done_by):
    """Data included: its loss goes on as if nothing had been."""
    folder, made = found
    name = f"half-{left_by}" + (f"-done-by-{done_by}" if done_by > 1 else "")
    for one, other in zip(rows(folder / "whole-1"), rows(folder / name), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    finished = made[done_by][0]
    tokens = finished[f"from-{left_by}"]["numbers"]["tokens"]
    assert tokens == finished["whole"]["numbers"]["tokens"]
