"""A healthy run passes every check; each bug, planted where it would be, fails exactly its own."""

import dataclasses

import planted
import pytest
from conftest import mesh_of
from preview_models import CFG, KV, OTHER, T, preview, with_folders

from jaxcomp.compress.recipes import recipe
from jaxcomp.config import MemoryConfig
from jaxcomp.data.batches import data_tokenizer
from jaxcomp.evals.eval_set import Row
from jaxcomp.evals.preview import loss, memory, picture
from jaxcomp.evals.preview.main import CHECKS
from jaxcomp.evals.preview.measures import forced_and_free
from jaxcomp.runtime.sharding import use_mesh

pytestmark = pytest.mark.slow

TRAINED = "a trained pair runs by itself"
READS, LEARNS = "the decoder reads all memory, no more", "a step moves what is trained, no more"


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
        found = {check.name: check(sick).ok for check in CHECKS}
        assert [name for name, ok in found.items() if ok is None] == [TRAINED]
        return {name for name, ok in found.items() if ok is False}

    return names


@pytest.fixture(scope="module")
def step(root):
    """Of the healthy run."""
    with use_mesh(mesh_of((1, 1, 1))):
        return preview(with_folders(CFG, root)).step


FROZEN = MemoryConfig(ratio=4, trained="connector", **recipe("mean_pool")["memory"])
FROZEN = dataclasses.replace(CFG, memory=FROZEN)


REPLAY = dataclasses.replace(OTHER, train=dataclasses.replace(OTHER.train, replay=0.1))
LAST = dataclasses.replace(KV, memory=MemoryConfig(ratio=4, trained="last_layer"))
HEALTHY = {
    "last layer": LAST,
    "plain": CFG,
    "everything else": OTHER,
    "frozen": FROZEN,
    "replay": REPLAY,
}


@pytest.mark.parametrize("cfg", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_run_passes(examined, cfg):
    assert examined(cfg) == set()


def test_keys_and_values_are_looked_at_in_the_place_of_inputs(root, mesh):
    sick = preview(with_folders(KV, root))
    assert loss.memory_read(sick).ok
    healthy = memory.scale(sick)
    assert healthy.ok
    assert "times the size of the tokens' keys and values" in healthy.found
    vars(sick)["keys_and_values"] = 100 * sick.keys_and_values
    assert not memory.scale(sick).ok


TWO = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, segments=2, target=2 * T + 2))
# What is planted, into which config, and the check that fails. A step is compiled where the bug
# can touch what it moves: that takes as long as all the rest.
MODEL, STEP = True, False
BUGS = {
    "memory tokens attend to padding": (
        planted.kind(planted.SeesPadding), CFG, MODEL, "memory ignores padding",
    ),
    "loss on padding": (planted.pair(planted.LossOnPadding), CFG, MODEL, "no loss on padding"),
    "all-ones mask of the decoder": (
        planted.pair(planted.ReadsEmpty), CFG, MODEL, READS,
    ),
    "labels masked with an unshifted mask": (
        planted.pair(planted.UnshiftedMask), CFG, MODEL, "labels",
    ),
    "labels not shifted": (planted.pair(planted.UnshiftedLabels), CFG, MODEL, "labels"),
    "one vector too many": (
        planted.kind(planted.OneMore), CFG, MODEL, "number of memory vectors",
    ),
    "only the first token compressed": (
        planted.kind(planted.FirstItem), CFG, MODEL, "the whole context is in the memory",
    ),
    "a vector the decoder cannot see": (
        planted.pair(planted.HidesLast), CFG, MODEL, READS,
    ),
    "texts mixed": (planted.kind(planted.MixesTexts), CFG, MODEL, "texts are compressed apart"),
    "segments mixed": (
        planted.pair(planted.MixesSegments), TWO, MODEL, "texts are compressed apart",
    ),
    "memory tokens of N(0, 1)": (planted.loud_memory, CFG, MODEL, "scale of the memory"),
    "prediction and reference swapped": (
        planted.swapped_bleu, CFG, MODEL, "direction of BLEU",
    ),
    "teacher-forced argmax as reconstruction": (
        planted.forced_argmax, CFG, MODEL, "rebuilds are free-running",
    ),
    "a mean over padding": (planted.padded_mean, CFG, MODEL, "the loss is a mean over labels"),
    "bits for nats": (planted.bits_for_nats, CFG, MODEL, "evaluation scores what is trained"),
    "the decoder is tuned": (planted.tuned_decoder, CFG, STEP, LEARNS),
    "the connector is not trained": (planted.idle_connector, CFG, STEP, LEARNS),
    "only first characters tokenised": (
        planted.first_characters, OTHER, STEP, "the whole text is in the segments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_fails_its_check_alone(examined, step, monkeypatch, tmp_path, bug):
    plant, cfg, of_model, expected = BUGS[bug]
    if plant is planted.first_characters:  # other tests want the true blocks
        monkeypatch.setenv("JAXCOMP_CACHE", str(tmp_path))
    plant(monkeypatch)
    assert examined(cfg, step if of_model else None) == {expected}


@pytest.mark.parametrize(
    ("correct", "same", "ok"),
    [
        (15, False, False),  # right after the true tokens only: alone, it starts elsewhere
        (16, True, True),
        (8, False, True),  # weak in both ways is no contradiction; the numbers say it
    ],
)
def test_a_pair_that_only_follows_the_true_tokens_fails(correct, same, ok):
    ids = list(range(100, 100 + T))
    row = Row("", "", ids, ids if same else ids[::-1], 4.0, correct, T)
    found = forced_and_free([row] * 2)
    assert found.ok == ok
    forced, free = f"teacher-forced {correct / T:.1%}", f"free-running {float(same):.1%}"
    assert f"{forced}, {free} of tokens, 2 texts" in found.found


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
