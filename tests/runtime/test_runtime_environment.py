"""jaxcomp in environments that lack something: devices, a home, UTF-8, somebody who reads."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import HANGS_S, mesh_of

from jaxcomp.config import ConfigError
from jaxcomp.runtime.sharding import use_mesh

TRAIN = ["train", "--config=configs/tiny.py", "--compressor=llama/24"]
# A command that prints and writes what it is given.
SIGNS = "≤ × – ─▶"
ECHO = f"""
import sys
from pathlib import Path
from jaxcomp.cli import main as cli
def run(flags):
    print({SIGNS!a}, file=sys.stdout)
    print({SIGNS!a}, file=sys.stderr)
    Path(flags.workdir).write_text({SIGNS!a})
    return 0
cli.COMMANDS = [c._replace(run=run) for c in cli.COMMANDS if c.name == "report"]
sys.exit(cli.main(sys.argv[1:]))
"""


def run(*args, code="", env=None, out=subprocess.PIPE, err=subprocess.PIPE, cwd=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "jaxcomp"]), *args]
    env = os.environ | (env or {})
    return subprocess.run(
        command, text=True, env=env, timeout=HANGS_S, stdout=out, stderr=err, cwd=cwd
    )


def one_line(done):
    """All that a command that refused has on stderr, but for how far it came until then."""
    assert done.returncode == 2, done.stderr
    said = [x for x in done.stderr.splitlines() if not re.fullmatch(r"jaxcomp: .*, \d+ s.*", x)]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("jaxcomp: error: ")
    return said[0]


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "cudda"])
def test_a_platform_that_is_not_there(platform, tmp_path):
    if any(d.platform == "gpu" for d in jax.devices()):
        pytest.skip("this machine has a GPU")
    done = run(*TRAIN, f"--workdir={tmp_path}", env={"JAX_PLATFORMS": platform})
    line = one_line(done)
    assert f"JAX_PLATFORMS={platform}: JAX has no such device here" in line
    assert "set JAX_PLATFORMS=cpu" in line


def test_a_terminal_without_utf8_loses_no_command(tmp_path):
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("report", f"--workdir={tmp_path}/file", code=ECHO, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == "\\u2264 \\xd7 \\u2013 \\u2500\\u25b6\n"
    assert (tmp_path / "file").read_text(encoding="utf-8") == SIGNS


def test_an_argument_that_is_no_text():
    done = run(*TRAIN, os.fsdecode(b"--name=\xff"))
    assert "is not text in this terminal's encoding" in one_line(done)


@pytest.mark.parametrize("args", [["--help"], ["report", "--workdir=x"]])
def test_output_that_nobody_reads_ends_the_command_quietly(args, tmp_path):
    codes = (0, 141) if "--help" in args else (141,)  # argparse overlooks that its text was cut
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*args, code=ECHO, out=writer, cwd=tmp_path)
    os.close(writer)
    assert done.returncode in codes
    assert done.stderr.replace(f"{SIGNS}\n", "") == ""


def test_an_error_that_nobody_reads_ends_the_command_too():
    reader, writer = os.pipe()
    os.close(reader)
    assert run("report", "--workdir=nowhere", out=writer, err=writer).returncode == 141
    os.close(writer)


def test_no_home():
    code = (
        "import os, pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "for name in ('HOME', 'XDG_CACHE_HOME', 'JAXCOMP_CACHE'): os.environ.pop(name, None)\n"
    )
    command = "from jaxcomp.cli import main as cli\nsys.exit(cli.main())"
    assert "set HOME, or JAXCOMP_CACHE, to a folder" in one_line(run(*TRAIN, code=code + command))
    found = "from jaxcomp.runtime import paths\ntry: paths.cache_dir()\n"
    found += "except paths.StorageError as error: print(error)"
    assert "set JAXCOMP_CACHE, or HOME" in run(code=code + found).stdout


# --- JAX's own switches ---------------------------------------------------------------------------


def test_what_is_computed_under_a_mesh_knows_no_switches():
    def drawn():
        with use_mesh(mesh_of((1, 1, 1))):
            x = jax.random.normal(jax.random.key(0), (4, 4))
            return np.asarray(x @ x * np.ones(4)), np.asarray(jax.grad(total)(x))

    def total(x):
        return jax.nn.softmax(x @ x.T).std()

    expected = drawn()
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.default_matmul_precision("bfloat16"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.softmax_custom_jvp(True),
        jax.disable_jit(True),
    ):
        found = drawn()
        assert jax.random.normal(jax.random.key(0)).dtype == "float64"  # the caller's own again
    for each, other in zip(found, expected, strict=True):
        assert each.dtype == np.float32
        np.testing.assert_array_equal(each, other)


def test_a_switch_of_the_whole_process_is_refused_by_name():
    jax.config.update("jax_random_seed_offset", 1)
    try:
        with (
            pytest.raises(ConfigError, match="JAX_RANDOM_SEED_OFFSET is 1"),
            use_mesh(mesh_of((1, 1, 1))),
        ):
            pass
    finally:
        jax.config.update("jax_random_seed_offset", 0)
