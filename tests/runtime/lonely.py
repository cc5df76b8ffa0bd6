"""A process of a cluster that only talks: `lonely.py MODE` of test_runtime_distributed_commands."""

import os
import sys
import time
from pathlib import Path

import numpy as np
from jax.experimental import multihost_utils

from jaxcomp.cli import main as cli
from jaxcomp.runtime import distributed


def main(mode):
    distributed.start([], config=os.environ.get("LONELY_CONFIG", ""))
    if mode == "error" and not distributed.is_lead():
        raise OSError(28, "No space left on device", "metrics.jsonl")
    if mode == "lead":
        distributed.by_lead(lambda: Path("/nowhere/at/all").write_text(""))
    print("together", flush=True)
    while True:
        multihost_utils.process_allgather(np.arange(3))
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        sys.exit(cli._failed(error))
