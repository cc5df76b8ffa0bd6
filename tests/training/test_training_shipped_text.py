"""Models that were pretrained on a text serve another text, which their tokenizer can read."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxcomp.cli import overrides
from jaxcomp.config import ConfigError
from jaxcomp.data.batches import data_stats, data_tokenizer, tokenizer_folder
from jaxcomp.data.documents import DataError
from jaxcomp.training import identity as ids

LATIN, GREEK = "abcdefghijklmnopqrstuvwxyz", "αβγδεζηθικλμνξοπρστυφχψω"


def prose(file, seed, letters=LATIN, blank=0):
    """Documents of 60 made-up words, the same ones for all seeds."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*letters], 6)) for _ in range(60)]
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(words, 300)) for _ in range(80)] + [" \n"] * blank
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The config that makes models, and the tokenizer's folder."""
    folder = tmp_path_factory.mktemp("text")
    cfg = load(prose(folder / "a.jsonl", 0))
    return cfg, shutil.copytree(tokenizer_folder(cfg), folder / "tokenizer")


def load(file, **given):
    cfg = overrides.load(f"text:path={file},models=own", [("data.vocab_size", "400")])
    if not given:
        return cfg
    tokenizer, text = given["tokenizer"], given["text"]
    decoder = dataclasses.replace(
        cfg.decoder, pretrain=dataclasses.replace(cfg.decoder.pretrain, text=text)
    )
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, tokenizer=str(tokenizer)),
        pretrain=dataclasses.replace(cfg.pretrain, text=text),
        decoder=decoder,
    )


def documents(cfg):
    return ids.lm_identity(cfg, cfg.decoder.model, cfg.pretrain, 0)["data"]["documents"]


def test_models_of_a_text_are_found_for_another(made, tmp_path):
    cfg, tokenizer = made
    other = load(
        prose(tmp_path / "b.jsonl", 1),
        tokenizer=tokenizer,
        text=documents(cfg),
    )
    hashes = [(ids.base_hash(c, "llama", "32", 1), ids.decoder_hash(c)) for c in (cfg, other)]
    assert hashes[0] == hashes[1]
    without = dataclasses.replace(other, pretrain=cfg.pretrain)
    assert ids.base_hash(without, "llama", "32", 1) != hashes[0][0]
    ids.check_text(cfg, cfg.pretrain)
    ids.check_text(cfg, other.pretrain)  # its own text
    with pytest.raises(ConfigError, match=r"none can be made of another text.*models=own"):
        ids.check_text(other, other.pretrain)


def test_a_script_that_the_tokenizer_never_saw_is_refused(made, tmp_path):
    cfg, tokenizer = made
    given = {"tokenizer": tokenizer, "text": documents(cfg)}
    latin = load(prose(tmp_path / "l.jsonl", 1), **given)
    tok = data_tokenizer(latin)
    assert data_stats(latin, tok, tok).counts.examples
    greek = load(prose(tmp_path / "g.jsonl", 1, GREEK), **given)
    with pytest.raises(DataError, match=r"g\.jsonl: 1\.\d bytes a token.*models=own"):
        data_stats(greek, tok, tok)


def test_documents_without_text_are_counted(tmp_path, caplog):
    caplog.set_level("INFO", logger="jaxcomp")
    cfg = load(prose(tmp_path / "e.jsonl", 1, blank=3))
    assert documents(cfg)
    assert "e.jsonl: 3 documents without text are left out" in caplog.text


def test_english_models_are_made_until_they_ship(tmp_path):
    file = prose(tmp_path / "a.jsonl", 0)
    cfg = overrides.load(f"text:path={file},models=english,seeds=3")
    assert (cfg.data.vocab_size, cfg.sweep.base_seeds) == (2048, (0, 1, 2))
    with pytest.raises(ConfigError, match="models=french: expected english or own"):
        overrides.load(f"text:path={file},models=french")
