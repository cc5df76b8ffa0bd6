"""Real words in a file, for the tests of this room."""

import json

import numpy as np
import pytest

from jaxcomp.data.world import World


@pytest.fixture(scope="session")
def prose(tmp_path_factory):
    """120 numbered documents of real words, some short, one with emoji and Chinese."""
    rng = np.random.default_rng(0)
    words = [w for w in World().words() if w.isalpha()]
    file = tmp_path_factory.mktemp("prose") / "prose.jsonl"
    with file.open("w") as f:
        for i in range(120):
            text = " ".join(rng.choice(words, 6 if i % 10 == 0 else 60 + i))
            text += " 😀 中文 字" * (i % 3)
            f.write(json.dumps({"id": f"s-{i}", "source": "s", "text": text}) + "\n")
    return str(file)
