"""Caches of these tests go to a folder of their own."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("JAXCOMP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
