"""What every process of a cluster does for test_distributed_training.py; also done there, alone.

`python scenario.py FOLDER` joins the cluster of the environment, trains the tiny pair of
tests/training, resumes what other numbers of processes left half done, loads weights,
and leaves what it found in FOLDER/found-N-I.json (N processes, process I).
"""

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
from training import training_models as tiny

from jaxcomp.config import MeshConfig
from jaxcomp.data.batches import Batch
from jaxcomp.data.stream import WindowIterator
from jaxcomp.models import hf, safetensors
from jaxcomp.runtime import distributed
from jaxcomp.runtime.sharding import make_mesh, on_host, put_batch, use_mesh
from jaxcomp.training.loop import fit

DEVICES = 4
# (replica, fsdp, tp) by the number of processes; with four, tp reaches over two of them.
SHAPES = {1: (1, 4, 1), 2: (1, 4, 1), 4: (1, 2, 2)}


def mesh():
    shape = SHAPES[jax.process_count()]
    return make_mesh(MeshConfig(*shape), jax.devices()[:DEVICES])


class Window:
    """Twelve rows, so that a batch reaches over its end; counts what is taken of it."""

    rows, taken = 12, 0

    def __init__(self, number):
        self.batch = tiny.batch(rows=self.rows, seed=number)

    def take(self, lo, hi):
        Window.taken += hi - lo
        return tuple(x[lo:hi] for x in self.batch)


class Stopped(Exception):
    pass


class Dying(WindowIterator):
    """The same batches, and then an error: two steps after the checkpoint of step 3."""

    drawn = 0

    def __next__(self):
        if self.drawn == 5:
            raise Stopped
        self.drawn += 1
        return super().__next__()


def digest(params):
    sha = hashlib.sha256()
    for name in sorted(params):
        sha.update(name.encode() + on_host(params[name]).tobytes())
    return sha.hexdigest()


def trained(folder, mesh, kind=WindowIterator):
    run = tiny.run(make_batches=lambda: kind(Window, Batch, tiny.OPTIM.batch))
    fitted = fit(run, folder, mesh)
    return {"numbers": fitted.numbers, "digest": digest(fitted.trained)}


def bytes_read(folder, mesh):
    """Bytes of values that loading the weights of `folder` reads on this process."""
    read, before = [0], safetensors._finite

    def counted(x, stored):
        read[0] += x.nbytes
        return before(x, stored)

    safetensors._finite = counted
    try:
        with use_mesh(mesh):
            model = hf.load(folder / "weights")
            # Each process must have got the same model.
            emb = hashlib.sha256(on_host(model.emb[...]).tobytes()).hexdigest()
    finally:
        safetensors._finite = before
    return {"bytes": read[0], "emb": emb}


def scenario(folder, resume=()):
    """`resume`: how many processes the half-done runs had that are to be finished here."""
    count, here = jax.process_count(), mesh()
    Window.taken = 0
    found = {"whole": trained(folder / f"whole-{count}", here), "rows": Window.taken}
    for other in resume:
        half_done, place = folder / f"half-{other}", folder / f"half-{other}-done-by-{count}"
        if distributed.is_lead():
            shutil.copytree(half_done, place)
        distributed.barrier("copied")
        found[f"from-{other}"] = trained(place, here)
    with contextlib.suppress(Stopped):
        trained(folder / f"half-{count}", here, Dying)
    found["loaded"] = bytes_read(folder, here)
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    found["back"] = bool((on_host(put_batch(rows, here)) == rows).all())
    return found


if __name__ == "__main__":
    distributed.start(sys.argv)
    where = Path(sys.argv[1])
    made = scenario(where, list(map(int, sys.argv[2:])))
    name = f"found-{jax.process_count()}-{jax.process_index()}.json"
    (where / name).write_text(json.dumps(made))
    distributed.finish()
