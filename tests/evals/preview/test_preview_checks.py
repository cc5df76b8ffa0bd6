"""A healthy run passes every check; each bug, planted where it would be, fails exactly its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from conftest import mesh_of
from preview_models import CFG, KV, OTHER, SHAPE, T, preview, tower, with_folders

from jaxcomp.compress.autoencoder import build
from jaxcomp.data.batches import Example, data_tokenizer
from jaxcomp.evals.evaluate import rebuild
from jaxcomp.evals.preview import loss, memory, picture
from jaxcomp.evals.preview.checks import CHECKS, examine
from jaxcomp.evals.preview.measures import forced_and_free
from jaxcomp.runtime.sharding import use_mesh

pytestmark = pytest.mark.slow

TRAINED = "a trained pair runs by itself"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("check")


@pytest.fixture
def examined(root, mesh):
    """The names of the checks that fail, of a config."""

    def names(cfg, step=None):
        sick = preview(with_folders(cfg, root))
        if step is not None:
            vars(sick)["step"] = step
        found = examine(sick)
        assert list(found) == [check.name for check in CHECKS]
        assert [name for name, f in found.items() if f.ok is None] == [TRAINED]
        failed = {name: f for name, f in found.items() if f.ok is False}
        assert all(f.expected and f.fix for f in failed.values())
        return set(failed)

    return names


@pytest.fixture(scope="module")
def step(root):
    """Of the healthy run."""
    with use_mesh(mesh_of((1, 1, 1))):
        return preview(with_folders(CFG, root)).step


@pytest.mark.parametrize("cfg", [CFG, OTHER], ids=["plain", "everything else"])
def test_a_healthy_run_passes(examined, cfg):
    assert examined(cfg) == set()


def test_keys_and_values_are_looked_at_in_the_place_of_inputs(root, mesh):
    sick = preview(with_folders(KV, root))
    found = {check.__name__: check(sick) for check in (memory.scale, loss.memory_read)}
    assert {name for name, f in found.items() if not f.ok} == set()
    assert "times their tokens' keys and values" in found["scale"].found
    vars(sick)["keys_and_values"] = 100 * sick.keys_and_values
    assert "times the size of the tokens' keys and values" in memory.scale(sick).found


IN_THE_MODEL = {
    "memory tokens attend to padding": (
        planted.kind(planted.SeesPadding),
        "memory ignores padding",
    ),
    "loss on padding": (planted.pair(planted.LossOnPadding), "no loss on padding"),
    "all-ones mask of the decoder": (
        planted.pair(planted.ReadsEmpty),
        "the decoder reads no padding",
    ),
    "labels masked with an unshifted mask": (planted.pair(planted.UnshiftedMask), "labels"),
    "labels not shifted": (planted.pair(planted.UnshiftedLabels), "labels"),
    "one vector too many": (planted.kind(planted.OneMore), "number of memory vectors"),
    "only the first token compressed": (
        planted.kind(planted.FirstItem),
        "the whole context is in the memory",
    ),
    "a vector the decoder cannot see": (
        planted.pair(planted.HidesLast),
        "the decoder reads all memory",
    ),
    "texts mixed": (planted.kind(planted.MixesTexts), "texts are compressed apart"),
    "memory tokens of N(0, 1)": (planted.loud_memory, "scale of the memory"),
    "prediction and reference swapped": (planted.swapped_bleu, "direction of BLEU"),
    "teacher-forced argmax as reconstruction": (
        planted.forced_argmax,
        "rebuilds are free-running",
    ),
    "a mean over padding": (planted.padded_mean, "the loss is a mean over labels"),
    "bits for nats": (planted.bits_for_nats, "evaluation scores what is trained"),
}


@pytest.mark.parametrize("bug", IN_THE_MODEL)
def test_a_bug_of_the_model_or_its_measures_fails_its_check_alone(examined, step, monkeypatch, bug):
    """Such a bug cannot touch which arrays a step moves: that is the healthy run's, as compiling a
    step takes as long as all the rest."""
    plant, expected = IN_THE_MODEL[bug]
    plant(monkeypatch)
    assert examined(CFG, step) == {expected}


IN_THE_STEP = {
    "the decoder is tuned": (planted.tuned_decoder, "frozen parts stay"),
    "the connector is not trained": (planted.idle_connector, "trained parts learn"),
}


@pytest.mark.parametrize("bug", IN_THE_STEP)
def test_a_bug_of_the_training_step_fails_its_check_alone(examined, monkeypatch, bug):
    plant, expected = IN_THE_STEP[bug]
    plant(monkeypatch)
    assert examined(CFG) == {expected}


def test_segments_mixed(examined, step, monkeypatch):
    planted.pair(planted.MixesSegments)(monkeypatch)
    two = dataclasses.replace(CFG.data, segments=2, target=2 * T + 2)
    assert examined(dataclasses.replace(CFG, data=two), step) == {"texts are compressed apart"}


def test_only_first_characters_tokenised(examined, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))  # other tests want the true blocks
    planted.first_characters(monkeypatch)
    assert examined(OTHER) == {"the whole text is in the segments"}


@pytest.fixture
def successor(mesh):
    """A pair whose decoder has learned one thing: token v is followed by v + 1."""
    vocab = data_tokenizer(CFG).vocab_size
    decoder = tower(vocab, 1, dataclasses.replace(SHAPE, tie_word_embeddings=False))
    for name in ("o", "down"):
        linear = getattr(decoder.layers, name)
        linear.w[...] = jnp.zeros_like(linear.w[...])
    # Angles of equal steps: each token's nearest neighbour after a turn by one step is the next.
    angle_V = 2 * np.pi * np.arange(vocab) / vocab
    emb_VD = np.zeros((vocab, 16), np.float32)
    emb_VD[:, 0], emb_VD[:, 1] = np.cos(angle_V), np.sin(angle_V)
    decoder.emb[...] = jnp.asarray(emb_VD)
    step = 2 * np.pi / vocab
    head_VD = np.zeros_like(emb_VD)
    head_VD[:, 0], head_VD[:, 1] = np.cos(angle_V - step), np.sin(angle_V - step)
    assert decoder.head is not None
    decoder.head[...] = jnp.asarray(head_VD)
    return build(tower(vocab, 0), decoder, CFG.memory, CFG.train, segment=T, seed=0)


def test_a_pair_that_only_follows_the_true_tokens_fails(successor):
    """Teacher-forced, all tokens but the first are right; alone, it starts elsewhere."""
    tok = data_tokenizer(CFG)
    passages = [list(range(start, start + T)) for start in range(100, 300, 40)]
    examples = [Example("", "", [ids], ids, [], None) for ids in passages]
    rows = [f.row for f in rebuild(CFG, successor, examples, tok)]
    found = forced_and_free(rows)
    assert found.ok is False
    assert "teacher-forced 93.8%, free-running 0.0%" in found.found


def test_a_pair_that_is_right_by_itself_passes_and_so_does_one_that_is_wrong_twice(successor):
    tok = data_tokenizer(CFG)
    ids = list(range(100, 100 + T))
    (found,) = rebuild(CFG, successor, [Example("", "", [ids], ids, [], None)], tok)
    right = found.row._replace(rebuilt_ids=ids, correct=T)
    assert forced_and_free([right] * 2).ok
    # Weak in both ways is no contradiction; the numbers say it.
    weak = found.row._replace(correct=T // 2)
    assert forced_and_free([weak] * 2).ok


def test_the_picture_shows_what_is_measured(root, mesh, monkeypatch):
    planted.pair(planted.LossOnPadding)(monkeypatch)
    sick = preview(with_folders(CFG, root))
    length, slots = int(sick.sample.tok_len_BO[0, 0]), sick.sample.tok_BOL.shape[2]
    assert length < slots
    shown = "\n".join(picture.loss(sick))
    assert shown.count("[·]") == slots - length
    assert f"{slots} of {slots} places carry loss; {length} are labels" in shown


def test_pieces_of_a_text_are_the_text():
    tok = data_tokenizer(CFG)
    text = "It was said that Leo hit David."
    words = picture.pieces(tok, tok.encode(text))
    assert "".join(words) == text
    assert words[:3] == ["It", " was", " said"]


def test_masks_of_ones_in_both_towers(examined, step, monkeypatch):
    # What was compiled with the true mask must not be taken, nor this by a later test.
    jax.clear_caches()
    planted.all_ones(monkeypatch)
    try:
        expected = {"memory ignores padding", "the decoder reads no padding"}
        assert examined(CFG, step) == expected
    finally:
        jax.clear_caches()
