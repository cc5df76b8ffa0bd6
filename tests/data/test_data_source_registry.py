"""A data source from outside the package. It is swept and reported in tests/test_extending.py."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from data_configs import world_config

from jaxcomp.cli import overrides
from jaxcomp.cli.validate import validate
from jaxcomp.config import Config, ConfigError, DataConfig, Size
from jaxcomp.data.batches import data_tokenizer, train_batches
from jaxcomp.data.corpus import corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.sources import SOURCES, Document, Question, source

WORDS = ("the", "old", "king", "saw", "a", "red", "fox", "near", "his", "house", "gave", "bread")


@dataclasses.dataclass(frozen=True)
class Tales:
    count: Size = 60
    ending: str = "so it was"


@pytest.fixture(autouse=True)
def tales():
    """The source "tales", for one test."""

    def check(data):
        if data.path:
            raise ConfigError(f"data.path = {data.path!r}: tales are told, not read")

    def questions(data, options):
        return {f"tale-{i}": (Question(f"How does tale {i} end?", options.ending),)
                for i in range(options.count)}  # fmt: skip

    @source("tales", options=Tales, check=check, questions=questions, whole=True)
    def told(data, options):
        for i in range(options.count):
            words = np.random.default_rng(i).choice(WORDS, 20)
            text = f"{' '.join(words)} {options.ending}"
            yield Document(f"tale-{i}", "", f"book {i // 3}", text)

    yield
    del SOURCES["tales"]


def config(**data):
    return world_config(source="tales", segment=64, target=160, vocab_size=300, **data)


def test_its_questions_are_trained_on():
    cfg = config()
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, objective="answer"))
    validate(cfg)
    tok = data_tokenizer(cfg)
    batch = next(train_batches(cfg, tok, tok))
    asked = batch.asked_BO[:, 0] > 0
    assert asked.any()
    row = int(np.argmax(asked))
    said = tok.decode(batch.tok_BOL[row, 0, : batch.tok_len_BO[row, 0]])
    assert said.startswith("\nQuestion: How does tale ")
    assert said.endswith("Answer: so it was")


def test_options_and_content_are_part_of_its_identity():
    one, same, other = (corpus(config(options=o)).fingerprint for o in ("", "count=60", "count=61"))
    assert one == same != other
    assert corpus(config(options="ending=the end")).fingerprint != one


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"options": "cuont=3"}, "'cuont=3' is unknown; did you mean count"),
        ({"options": "count=many"}, "expected count=int"),
        ({"options": "count=0"}, "count = 0: expected a number greater than or equal to 1"),
        ({"path": "a.txt"}, "tales are told, not read"),
        ({"source": "tails"}, "data.source = 'tails': expected one of .*did you mean tales"),
        ({"source": "world", "options": "count=3"}, "'world' has no options"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_any_work(data, message):
    with pytest.raises(ConfigError, match=message):
        validate(Config(data=dataclasses.replace(config().data, **data)))


def test_a_source_without_text_and_a_taken_name():
    with pytest.raises(ValueError, match="'tales' is registered already"):
        source("tales")(lambda data, options: [])
    with pytest.raises(ValueError, match="'world' is registered already"):
        source("world")(lambda data, options: [])
    del SOURCES["tales"]
    source("tales")(lambda data, options: [Document("a", "", "", " ")])
    with pytest.raises(DataError, match=r"data\.source = 'tales': no document with a text"):
        corpus(Config(data=DataConfig(source="tales", seed=5)))


def test_a_config_is_validated_without_jax(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from jaxcomp.data.sources import source\n"
        "@source('mine')\ndef mine(data, options):\n    return []\n"
    )
    code = (
        "import sys; from jaxcomp.cli import overrides;"
        "overrides.load('tiny', [('plugins', 'mine.py'), ('data.source', 'mine')]);"
        "assert not {'jax', 'tokenizers', 'grain'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert overrides.load("tiny", [("data.source", "tales")]).data.source == "tales"
