"""Hundreds of damaged files of each kind: a value or one sentence, within time and memory."""

import os
import subprocess
import sys
from pathlib import Path

import fuzzing
import pytest

pytestmark = pytest.mark.slow

CASES = 300


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_a_damaged_file_is_a_value_or_one_sentence(tmp_path, kind):
    # A process of its own: a fault in a native library would end the tests, and its memory is
    # bounded.
    asked = [sys.executable, str(Path(fuzzing.__file__)), kind, "0", str(CASES)]
    done = subprocess.run(
        asked,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"JAXCOMP_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    refused = int(done.stdout.split()[-2])
    assert CASES // 10 < refused < CASES  # some of either: the damage is neither none nor total
