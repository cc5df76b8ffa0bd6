"""Eight fake CPU devices for the whole suite, and the meshes that tests run under."""

import ctypes
import gc
import mmap
import shutil
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxcomp.config import MeshConfig
from jaxcomp.runtime.sharding import make_mesh, use_mesh

# Not through XLA_FLAGS: child processes (the CLI) shall see the machine as a user does.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tests compile far more than they compute; this halves the time XLA takes.
jax.config.update("jax_disable_most_optimizations", True)
COMPILED = getattr(jax.config, "jax_compilation_cache_dir", None)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """What can be remade goes to a folder of this run. Here and not in a package's own conftest: a
    second conftest.py would take the place of this one for `from conftest import mesh_of`."""
    patch = pytest.MonkeyPatch()
    patch.setenv("JAXCOMP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _compiled():
    """What one test's commands keep of compiled steps, and where, is no matter of the next."""
    yield
    if getattr(jax.config, "jax_compilation_cache_dir", None) != COMPILED:
        jax.config.update("jax_compilation_cache_dir", COMPILED)
        compilation_cache.reset_cache()


HANGS_S = 300.0  # to wait for what must come: a machine with other work to do takes its time
STATM = Path("/proc/self/statm")
MOST_BYTES = 1_100_000_000


@pytest.fixture(autouse=True, scope="module")
def _programs():
    """Compiled programs hold memory, and mappings of memory of which Linux gives a process 65,530:
    between modules they are let go where they have become many."""
    yield
    if STATM.exists() and int(STATM.read_text().split()[1]) * mmap.PAGESIZE > MOST_BYTES:
        jax.clear_caches()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc gives nothing back by itself


def mesh_of(shape):
    """Explicit mesh of `shape` over the first fake devices."""
    count = shape[0] * shape[1] * shape[2]
    return make_mesh(MeshConfig(*shape), jax.devices()[:count])


@pytest.fixture
def mesh():
    """A (1, 1, 1) mesh, active during the test."""
    one = mesh_of((1, 1, 1))
    with use_mesh(one):
        yield one


@pytest.fixture(params=[(1, 8, 1), (1, 2, 4), (2, 2, 2)], ids=lambda s: "x".join(map(str, s)))
def mesh8(request):
    """An 8-device mesh, active during the test; give shapes by indirect parametrisation."""
    eight = mesh_of(request.param)
    with use_mesh(eight):
        yield eight


@pytest.fixture
def undrawn(request, monkeypatch):
    """Charts are described but not drawn, except in tests that ask for `drawn`."""
    from jaxcomp.analysis import charts, document

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(charts, "png", lambda *_: b"\x89PNG")
        monkeypatch.setattr(charts, "pdf", lambda *_: b"%PDF")
        monkeypatch.setattr(document, "_vega", lambda: "")


@pytest.fixture
def drawn():
    """The real charts."""


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, where there is one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="uv sync --group browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    place = next(filter(None, map(shutil.which, names)), "")
    if not place:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield found
        found.close()
