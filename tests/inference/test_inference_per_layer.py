"""A pair whose memory is keys and values, from a run to a file, an export and back."""

import dataclasses

import numpy as np
import pytest
from conftest import mesh_of
from inference.inference_runs import config, texts

import jaxcomp
from jaxcomp.compress import recipes
from jaxcomp.inference import Memory, MemoryFileError, PairError, export, prompt_embeds
from jaxcomp.inference.format import ExportError
from jaxcomp.runtime.sharding import use_mesh
from jaxcomp.training import compressor, pretrained

WIDTH = 2 * 2 * 4 * 16  # keys and values of the shipped decoder: 2 layers of 4 heads of 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Untrained: what it writes is read all the same."""
    folder, cfg = tmp_path_factory.mktemp("run"), config()
    found = {"decoder": str(pretrained.resolve_decoder(cfg))}
    cfg = dataclasses.replace(recipes.with_memory(cfg, "500x"), folders=found)
    optim = dataclasses.replace(cfg.train.optim, steps=0)
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, optim=optim))
    with use_mesh(mesh_of((1, 1, 1))):
        compressor.train(cfg, folder / "run")
        assert export(folder / "run", folder / "out")
    return folder


@pytest.fixture(scope="module")
def pair(run):
    return jaxcomp.load(run / "run", mesh=mesh_of((1, 1, 1)), batch=4)


def test_a_file_and_an_export_say_what_the_run_says(run, pair, tmp_path):
    memory = pair.compress([*texts()[:2], ""])
    assert memory.vec_ND.shape == (memory.counts_G.sum(), WIDTH)
    memory.save(tmp_path / "m.safetensors")
    stored, again = (
        Memory.load(tmp_path / "m.safetensors"),
        jaxcomp.load(run / "out", mesh=pair.mesh),
    )
    found = again.compress([*texts()[:2], ""])
    np.testing.assert_array_equal(found.vec_ND, stored.vec_ND)
    asked = [*texts()[:2], "nothing"]
    assert again.score(stored, asked) == pair.score(memory, asked)
    assert again.reconstruct(stored, max_new=6) == pair.reconstruct(memory, max_new=6)


def test_an_option_costs_what_the_same_text_costs_in_a_score(pair):
    memory = pair.compress(texts()[:2])
    options = [pair.dec_tok.encode_batch(["the fox", "a bear"])] * 2
    ((which, prefix),) = pair.asked(memory, ["", ""])
    found = pair.likelihoods(prefix, options)
    for row, scores in zip(which, found, strict=True):
        for text, score in zip(("the fox", "a bear"), scores, strict=True):
            wanted = pair.score(memory[row], text, mode="continue")[0]
            assert score.tokens == wanted.tokens
            assert score.nats == pytest.approx(wanted.nats, rel=1e-4)


def test_what_has_no_meaning_is_refused(pair, tmp_path):
    memory = pair.compress(texts()[0])
    narrow = dataclasses.replace(memory, vec_ND=memory.vec_ND[:, :64])
    with pytest.raises(MemoryFileError, match=rf"vectors of 64, .* decoder reads {WIDTH}"):
        pair.reconstruct(narrow)
    with pytest.raises(PairError, match=r"which no prompt .* train one of another memory\.kind"):
        pair.prompts(memory)
    with pytest.raises(ExportError, match=r"which no prompt .* train one of another memory\.kind"):
        prompt_embeds(pair, memory, tmp_path / "p.safetensors")
