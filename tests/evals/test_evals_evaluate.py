import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mesh_of
from flax import nnx

from jaxcomp.compress.autoencoder import build
from jaxcomp.compress.quantize import FORMATS, bits
from jaxcomp.config import (
    Config,
    DataConfig,
    EvalConfig,
    MemoryConfig,
    ModelConfig,
    PeopleConfig,
    WorldConfig,
)
from jaxcomp.data.batches import batch_examples, data_tokenizer, eval_examples
from jaxcomp.data.facts import KINDS, OUTCOMES
from jaxcomp.data.sources import TEXT_SET, WORLD_SETS, source_of
from jaxcomp.evals.evaluate import Rebuilder, evaluate, rebuild
from jaxcomp.evals.metric import EDITS, PLACEHOLDERS, WITHOUT
from jaxcomp.evals.metrics import edits, every, reconstruction
from jaxcomp.evals.pairs.edit_rules import DIMENSIONS
from jaxcomp.evals.rate import rates
from jaxcomp.inference import decode
from jaxcomp.models import generate
from jaxcomp.models.generate import Generated
from jaxcomp.models.model import Transformer
from jaxcomp.runtime.sharding import put_batch, use_mesh

SMALL = ModelConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    intermediate_size=32,
)
WORLD = Config(
    data=DataConfig(segment=48, target=52, eval_passages=7, val_passages=5),
    memory=MemoryConfig(ratio=4),
    eval=EvalConfig(batch=8, samples=2, sampled_passages=3, edits_per_kind=4),
    world=WorldConfig(base_favourites=1),  # so that every number of the table is measured
)


def prose(folder: Path) -> Path:
    """Documents of real-looking sentences in which every kind of edit finds a place."""
    rng, lines = random.Random(0), []
    names = ["Alice", "Robert", "Martha", "Edmund", "Sparta", "Lisbon", "Vienna", "Oswald"]
    sentences = (
        "In {year} the {word} of {a} was long gone.",
        "They say {word} that {a} followed {b} to the {word}, and {c} stayed.",
        "But the {word} is cold there.",
        "He gave nine horses for a {word} near {b}.",
    )
    for i in range(60):
        said = []
        for _ in range(12):
            a, b, c = rng.sample(names, 3)
            # Words of its own for each document: wording shared with training text is not held out.
            word, year = "".join(rng.choices("bcdfglmnprst", k=6)), rng.randrange(1200, 1990)
            said.append(rng.choice(sentences).format(a=a, b=b, c=c, word=word, year=year))
        lines.append(json.dumps({"id": f"doc-{i}", "source": f"s{i}", "text": " ".join(said)}))
    file = folder / "prose.jsonl"
    file.write_text("\n".join(lines))
    return file


class Fixture:
    """A tiny random pair with its configuration, tokenizer and mesh."""

    def __init__(self, cfg: Config):
        self.cfg, self.tok = cfg, data_tokenizer(cfg)
        # Rounded up, so that the vocabulary divides over the tensor axis of a mesh.
        size = dataclasses.replace(SMALL, vocab_size=-(-self.tok.vocab_size // 4) * 4)
        llm = Transformer(size, rngs=nnx.Rngs(1))
        decoder = Transformer(size, rngs=nnx.Rngs(2))
        self.model = build(llm, decoder, cfg.memory, cfg.train, segment=cfg.data.segment, seed=3)

    def loss(self, examples):
        rows = [found.row for found in rebuild(self.cfg, self.model, examples, self.tok)]
        return reconstruction.measure(rows)["loss"]

    def evaluate(self, **changes: Any):
        cfg = dataclasses.replace(self.cfg, eval=dataclasses.replace(self.cfg.eval, **changes))
        return evaluate(cfg, self.model, self.tok, self.tok)


@pytest.fixture(scope="module", autouse=True)
def one_mesh():
    mesh = mesh_of((1, 1, 1))
    with use_mesh(mesh):
        yield mesh


@pytest.fixture(scope="module")
def world(one_mesh):
    return Fixture(WORLD)


@pytest.fixture(scope="module")
def text(one_mesh, tmp_path_factory):
    path = str(prose(tmp_path_factory.mktemp("text")))
    data = dataclasses.replace(WORLD.data, source="text", path=path, vocab_size=400, target=64)
    return Fixture(dataclasses.replace(WORLD, data=data))


@pytest.fixture(scope="module")
def world_result(world):
    return world.evaluate()


@pytest.fixture(scope="module")
def people(one_mesh):
    data = dataclasses.replace(WORLD.data, source="people", segment=64, target=65)
    few = PeopleConfig(people=256, unseen=64)
    return Fixture(dataclasses.replace(WORLD, data=data, people=few, world=WorldConfig()))


@pytest.fixture(scope="module")
def people_result(people):
    return people.evaluate()


@pytest.fixture(scope="module")
def text_result(text):
    return text.evaluate()


def declared_of(cfg):
    """The columns of a config's evaluation, by the declarations."""
    row, found = source_of(cfg), set()
    kinds = ("all", *row.kinds, *row.groups)
    for name in (*row.measured, *([EDITS] if TEXT_SET in row.measured else [])):
        for measure in every():
            if measure.function and measure.applies(cfg):
                mine = measure.columns(name, kind=kinds)
                found |= mine
                found |= {f"{name}/{WITHOUT}/{one}" for one in measure.without if mine}
    return found


def test_every_number_is_declared_and_every_declared_number_is_measured(
    world, world_result, text, text_result, people, people_result
):
    measured = set()
    pairs = ((world, world_result), (text, text_result), (people, people_result))
    for fixture, result in pairs:
        assert result.metrics.keys() == declared_of(fixture.cfg)
        measured |= result.metrics.keys()
    for one in (one for measure in every() if measure.function for one in measure.metrics):
        assert measured & {*one.columns()}, f"{one.name} is never measured"


def test_the_probability_of_the_favourite_is_that_of_a_text_that_says_it(people):
    pair, compared = Rebuilder(people.cfg, people.model, people.tok), 0
    for name in ("counterfactual", "erased"):
        examples = eval_examples(people.cfg, name, people.tok, people.tok)
        for part, batch in pair.batches(examples):
            memory = pair.read(batch)
            for example, row in zip(part, (r.row for r in rebuild(
                people.cfg, people.model, part, people.tok
            )), strict=True):  # fmt: skip
                b = part.index(example)
                for fact, p in zip(example.passage.facts, row.favourites, strict=True):
                    assert (p is None) == (fact.is_favourite or fact.kind == "relation")
                    if p is None:
                        continue
                    word = fact.favourite if fact.value else f" {fact.favourite}"
                    said = people.tok.encode(example.text[: fact.start] + word)
                    tok = np.array(batch.tok_BOL)
                    tok[b, 0, : len(said)] = said
                    nll = pair.forced(batch._replace(tok_BOL=jnp.asarray(tok)), memory).nll_BL
                    assert p == pytest.approx(math.exp(-float(nll[b, len(said) - 1])), rel=1e-4)
                    compared += 1
    assert compared > 20


def test_placeholders_are_those_of_the_code():
    assert PLACEHOLDERS["edit"] == ("all", *edits.KINDS)
    assert PLACEHOLDERS["dimension"] == (*DIMENSIONS, "all")


def test_numbers_are_finite_numbers(world_result, text_result):
    for result in (world_result, text_result):
        for name, value in result.metrics.items():
            assert value is None or type(value) in (int, float), name
        json.dumps([result.metrics, result.passages], allow_nan=False)


def test_identities(world_result):
    m = world_result.metrics
    for name in WORLD_SETS:
        assert m[f"{name}/passages"] == 7
        assert m[f"{name}/perplexity"] == pytest.approx(math.exp(m[f"{name}/loss"]))
        assert m[f"{name}/rank"] <= m[f"{name}/rank_bound"] <= 12
        assert m[f"{name}/pooled_rank"] <= m[f"{name}/pooled_bound"] == 16
        nats = m[f"{name}/loss"] * (m[f"{name}/tokens"] + 7)  # one end token each
        assert m[f"{name}/bits_per_byte"] == pytest.approx(nats / math.log(2) / m[f"{name}/bytes"])
        for group in ("facts", "nonfavourite"):
            assert sum(m[f"{name}/{group}/all/{o}"] for o in OUTCOMES) == pytest.approx(1.0)
    odd = m["counterfactual/nonfavourite/all/n"] / m["counterfactual/facts/all/n"]
    assert odd > 2 * m["ordinary/nonfavourite/all/n"] / m["ordinary/facts/all/n"]
    assert m["counterfactual/passage_bits"] > m["ordinary/passage_bits"] > 40


def test_calibration_is_of_every_slot_whose_value_is_one_word(world, world_result):
    for name in WORLD_SETS:
        examples = eval_examples(world.cfg, name, world.tok, world.tok)
        facts = [
            (s.is_favourite, e.text[s.start : s.end]) for e in examples for s in e.passage.facts
        ]
        single = [favourite for favourite, value in facts if " " not in value]
        assert 0 < len(single) < len(facts)
        assert world_result.metrics[f"{name}/calibration/facts/n"] == len(single)
        assert world_result.metrics[f"{name}/calibration/nonfavourite/n"] == single.count(False)


def test_batches_do_not_matter(world, world_result):
    """One passage at a time gives what eight at a time (one row of them empty) give."""
    single = world.evaluate(batch=1, samples=0)
    assert single.metrics["ordinary/agreement"] is None
    # -1 for what is not measurable: nothing to divide by.
    found, expected = (
        {k: -1 if v is None else v for k, v in result.metrics.items() if "agreement" not in k}
        for result in (single, world_result)
    )
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert [p["rebuilt"] for p in single.passages] == [p["rebuilt"] for p in world_result.passages]


def test_repeated_evaluation_compiles_nothing_and_changes_nothing(world, world_result):
    parts = (decode.read, decode.forced, decode._prefix, generate._prefill, generate._decode)
    functions: tuple[Any, ...] = parts
    before = [f._cache_size() for f in functions]
    again = world.evaluate()
    assert [f._cache_size() for f in functions] == before
    assert again == world_result


def test_loss_is_the_loss_that_training_sees(world, world_result, one_mesh):
    examples = eval_examples(world.cfg, "ordinary", world.tok, world.tok)
    (batch, valid), *rest = batch_examples(examples, 8, world.cfg)
    assert (valid, rest) == (7, [])
    put = put_batch(batch, one_mesh)

    @jax.jit
    def by_hand(put):
        targets = world.model.targets(*put, ratio=4)
        logits_RLV = world.model.decoder.unembed(targets.hidden_RLD)
        logp_RLV = jax.nn.log_softmax(logits_RLV)
        hot_RLV = jax.nn.one_hot(targets.label_RL, logp_RLV.shape[-1])
        nll_RL = -(logp_RLV * hot_RLV).sum(-1) * targets.valid_RL
        return nll_RL.sum() / targets.valid_RL.sum()

    loss = world_result.metrics["ordinary/loss"]
    assert loss == pytest.approx(float(by_hand(put)), rel=1e-5)


def test_the_floor_knows_nothing_of_the_text(world):
    examples = eval_examples(world.cfg, "counterfactual", world.tok, world.tok)
    others = [e._replace(ctx=o.ctx) for e, o in zip(examples, examples[::-1], strict=True)]
    right, wrong = (rebuild(world.cfg, world.model, x, world.tok) for x in (examples, others))
    assert [r.no_memory for r in right] == [w.no_memory for w in wrong]
    moved = [abs(r.row.nll - w.row.nll) for r, w in zip(right, wrong, strict=True)]
    assert max(moved) > 1e-4
    assert len({r.no_memory.rebuilt for r in right}) == 1


def test_rates_in_full_precision_are_those_of_evaluation_and_bits_are_counted(world, world_result):
    found, m = rates(world.cfg, world.model, (world.tok, world.tok)), world_result.metrics
    expected = [(name, form) for name in WORLD_SETS for form in FORMATS]
    assert [(r.name, r.form) for r in found] == expected
    for r in found:
        vectors, size = m[f"{r.name}/vectors"], m[f"{r.name}/bytes"]
        assert r.rate == pytest.approx(vectors * bits(r.form, 16) / size)
        if r.form == "float32":
            assert r.distortion == pytest.approx(m[f"{r.name}/bits_per_byte"])
            assert r.loss == pytest.approx(m[f"{r.name}/loss"])
            assert r.fr_accuracy == m[f"{r.name}/fr_accuracy"]
            assert r.kept == m[f"{r.name}/nonfavourite/all/preserved"]
    whole, coarse = found[0], found[3]
    assert coarse.loss != whole.loss  # four bits do reach the decoder
    assert found[1].loss == pytest.approx(whole.loss, rel=1e-2)  # and bfloat16 is near


def oracle(self, batch, memory, temperature=0.0, seed=0):
    """A decoder that rebuilds the text exactly from a memory, and nothing without one."""
    tok_BL = batch.tok_BOL[:, 0]
    seen_B = memory.seg_BM.sum(1) > 0
    end_BL = jnp.zeros_like(tok_BL) + self.tok.eos_id
    tok_BL = jnp.where(seen_B[:, None], tok_BL, end_BL)
    zero_BL = jnp.zeros(tok_BL.shape)
    return Generated(tok_BL, zero_BL[:, 0], zero_BL, zero_BL)


def test_a_perfect_decoder_keeps_every_slot(world, monkeypatch):
    monkeypatch.setattr(Rebuilder, "free", oracle)
    result = world.evaluate()
    m = result.metrics
    for name in WORLD_SETS:
        ones = ("fr_accuracy", "exact_match", "rouge_l", "agreement", "facts/all/preserved")
        assert [m[f"{name}/{key}"] for key in ones] == [1.0] * len(ones)
        assert m[f"{name}/bleu"] == pytest.approx(100.0)
        assert m[f"{name}/overwriting"] == m[f"{name}/drift"] == m[f"{name}/to_prior"] == 0.0
        zeros = ("fr_accuracy", "exact_match", "bleu", "rouge_l", "facts/all/preserved")
        assert [m[f"{name}/no_memory/{key}"] for key in zeros] == [0.0] * len(zeros)
    for record in result.passages:
        assert record["rebuilt"] == record["text"]
        assert record["fr_same"] == record["fr_length"] == record["targets"] - 1
        counted = [record["counts"].get(f"facts/{k}/preserved", 0) for k in KINDS]
        assert sum(counted) == len(record["facts"])


def test_a_perfect_decoder_keeps_every_edit(text, monkeypatch):
    monkeypatch.setattr(Rebuilder, "free", oracle)
    m = text.evaluate().metrics
    assert m["test/exact_match"] == 1.0
    for kind in ("all", *edits.KINDS):
        assert m[f"edits/{kind}/n"] > 0
        assert m[f"edits/{kind}/control"] == m[f"edits/{kind}/preserved"] == 1.0
        assert m[f"edits/{kind}/reverted"] == 0.0


def test_edits_that_no_longer_fit_are_counted(text, monkeypatch):
    """Every third one puts in as many words as the target holds tokens; of the others too, some
    stand at the end of the context and are longer than what was there."""
    made, real = [], edits.make_edits

    def fits(e):
        ends = [end for _, end in text.tok.encode_with_offsets(e.text)[1]]
        return e.end <= ends[: text.cfg.data.segment][-1]

    def lengthened(texts, *args):
        for i, e in enumerate(real(texts, *args)):
            if i % 3 == 0:
                new = " ".join([e.new] * text.cfg.data.target)
                said = e.text[: e.start] + new + e.text[e.end :]
                e = e._replace(text=said, new=new, end=e.start + len(new))
            made.append(e)
        return list(made)

    monkeypatch.setattr(edits, "make_edits", lengthened)
    monkeypatch.setattr(Rebuilder, "free", oracle)
    m = text.evaluate().metrics
    for kind in ("all", *edits.KINDS):
        mine = [e for e in made if kind in ("all", e.kind)]
        assert m[f"edits/{kind}/n"] == sum(map(fits, mine))
        assert m[f"edits/{kind}/left_out"] == len(mine) - m[f"edits/{kind}/n"]
    assert m["edits/all/n"] > 0 < m["edits/all/left_out"]


def test_an_untrained_decoder_makes_edits_unmeasurable(text_result):
    m = text_result.metrics
    assert m["edits/all/n"] > 0
    assert m["edits/all/measurable"] == 0
    assert m["edits/all/preserved"] is None
    assert m["edits/all/n"] == sum(p["set"] == "edits" for p in text_result.passages)


def test_chunked_logits_change_nothing(world, world_result, monkeypatch):
    """A vocabulary too large for all logits at once is worked off position by position."""
    monkeypatch.setattr(decode, "LOGITS_ELEMENTS", 8 * 7 * world.tok.vocab_size)
    forced: Any = decode.forced
    forced.clear_cache()
    examples = eval_examples(world.cfg, "ordinary", world.tok, world.tok)
    got = world.loss(examples)
    forced.clear_cache()
    assert got == pytest.approx(world_result.metrics["ordinary/loss"], rel=1e-6)


@pytest.mark.slow  # test_inference_pair has the same of its parts
def test_a_sharded_pair_measures_the_same(world_result):
    """Passages over two devices and the vocabulary over two: the numbers of one device."""
    with use_mesh(mesh_of((1, 2, 2))):
        got = Fixture(WORLD).evaluate(samples=0).metrics
    names = ("loss", "entropy_own", "fr_accuracy", "rank", "no_memory/loss", "facts/all/omitted")
    for name in names:
        expected = world_result.metrics[f"ordinary/{name}"]
        assert got[f"ordinary/{name}"] == pytest.approx(expected, rel=1e-4), name
