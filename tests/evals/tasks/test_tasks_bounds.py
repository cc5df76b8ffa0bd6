"""Every memory is measured as evaluation measures it, once, and kept."""

import dataclasses
import json

import numpy as np
import pytest
from inference.inference_runs import LORA, config, trained_pair

from jaxcomp.compress.baselines import Baseline
from jaxcomp.data.batches import eval_examples
from jaxcomp.data.world import World
from jaxcomp.evals.bootstrap import ratio_interval
from jaxcomp.evals.evaluate import rebuild
from jaxcomp.evals.metrics import facts, reconstruction
from jaxcomp.evals.qa.items import EvalError
from jaxcomp.evals.tasks import bounds
from jaxcomp.runtime.sharding import use_mesh

COUNT = 5


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Each baseline by itself: tests/compress/test_compress_baselines.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "STEPS", 4)
        patch.setattr(bounds, "MEMORIES", ("nothing", "lead", "compressor", "crammed"))
        yield


@pytest.fixture(scope="module")
def cfg():
    one = config(LORA)
    data = dataclasses.replace(one.data, eval_passages=COUNT)
    quick = dataclasses.replace(one.eval, batch=COUNT, samples=0)
    return dataclasses.replace(one, data=data, eval=quick)


@pytest.fixture(scope="module")
def pair():
    return trained_pair()


@pytest.fixture(scope="module")
def eval_set(cfg, pair):
    examples = eval_examples(cfg, "counterfactual", pair.comp_tok, pair.dec_tok)
    return bounds.HeldOut(cfg, "counterfactual", examples)


@pytest.fixture(scope="module")
def found(pair, eval_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("bounds") / "b.json"
    return out, bounds.run(pair, eval_set, out).result


def test_the_runs_own_row_is_what_evaluation_says(cfg, pair, eval_set, found):
    """Where both tokenizers are the same, as here, a baseline's is too (tests/compress)."""
    with use_mesh(pair.mesh):
        rebuilt = rebuild(cfg, pair.model, eval_set.examples, pair.dec_tok)
    own = reconstruction.measure([f.row for f in rebuilt])
    row, world = found[1]["memories"]["compressor"], World(cfg.world)
    passages = [(e.passage, f.row.rebuilt) for e, f in zip(eval_set.examples, rebuilt, strict=True)]
    rates = facts.rates([facts.counts(facts.compare(world, *both)) for both in passages])
    assert row["loss"]["value"] == pytest.approx(own["loss"], rel=1e-5)
    assert row["tokens_rebuilt"]["value"] == pytest.approx(own["fr_accuracy"])
    assert row["preserved"]["value"] == pytest.approx(rates["nonfavourite/all/preserved"])
    assert row["overwriting"]["value"] == pytest.approx(rates["overwriting"])
    assert row["vectors"] == np.mean([len(f.vec_MD) for f in rebuilt])
    assert row["bytes"] == row["vectors"] * 64 * 4


@pytest.mark.parametrize("name", ["nothing", "lead"])
def test_a_baselines_row_is_its_loss(cfg, pair, eval_set, found, name):
    with use_mesh(pair.mesh):
        rebuilt = rebuild(cfg, Baseline(name, pair.model), eval_set.examples, pair.dec_tok)
    loss = reconstruction.measure([one.row for one in rebuilt])["loss"]
    assert found[1]["memories"][name]["loss"]["value"] == pytest.approx(loss, rel=1e-5)


def test_a_result_stands_between_nothing_and_crammed(found, eval_set):
    out, result = found
    rows = result["memories"]
    assert tuple(rows) == bounds.MEMORIES
    assert rows["nothing"]["vectors"] == rows["nothing"]["bytes"] == 0
    assert rows["crammed"]["vectors"] == rows["lead"]["vectors"] == rows["compressor"]["vectors"]
    assert rows["crammed"]["loss"]["value"] < min(
        row["loss"]["value"] for name, row in rows.items() if name != "crammed"
    )
    nats, targets = (
        np.array(result["records"][0]["passages"][k], float) for k in ("nats", "targets")
    )
    loss = rows["nothing"]["loss"]
    assert (loss["low"], loss["high"]) == ratio_interval(nats, targets)
    assert loss["low"] < loss["value"] < loss["high"]
    assert targets.tolist() == [len(e.target) for e in eval_set.examples]
    assert set(next(iter(rows.values()))) <= set(bounds.DEFINITIONS)
    lines = bounds.table(result).split("\n")
    (line,) = [line for line in lines if line.startswith("lead")]
    assert line.split()[3] == f"{rows['lead']['loss']['value']:.3f}"
    assert json.loads(out.read_text()) == result


def test_a_stopped_run_goes_on_after_its_last_memory(pair, eval_set, found, monkeypatch):
    out, result = found
    part = out.with_name("c.json.part.jsonl")
    done = [result["about"], *result["records"][:2]]
    part.write_text("".join(json.dumps(line) + "\n" for line in done) + '{"memory": "comp')
    said, measured = [], []
    monkeypatch.setattr(bounds, "_measured", lambda pair, name, _: measured.append(name) or next(
        r for r in result["records"] if r["memory"] == name))  # fmt: skip
    again = bounds.run(pair, eval_set, part.with_name("c.json"), say=said.append)
    assert (again.result, again.made) == (result, True)
    assert measured == ["compressor", "crammed"]
    assert said[0] == "2 memories were done already"
    assert said[1].startswith("2 memories measured in ")
    assert not bounds.run(pair, eval_set, part.with_name("c.json")).made
    assert len(measured) == 2
    part.with_name("c.json").unlink()
    part.write_text(f'{json.dumps(result["about"])}\n{{"memory": "nothing"}}\n')
    with pytest.raises(EvalError, match=r"part\.jsonl is damaged, or of another version"):
        bounds.run(pair, eval_set, part.with_name("c.json"))
    fewer = eval_set._replace(examples=eval_set.examples[:3])
    with pytest.raises(EvalError, match="with another passages; choose another --out"):
        bounds.run(pair, fewer, out)


def test_text_that_the_decoder_has_no_places_for_is_refused(pair, eval_set):
    long = eval_set.examples[0]._replace(text=" ".join(e.text for e in eval_set.examples))
    with pytest.raises(EvalError, match=r"5 segments of 64 .* need 388 positions"):
        bounds.run(pair, eval_set._replace(examples=[long]))


def test_real_text_has_no_facts(found, eval_set):
    result = json.loads(found[0].read_text())
    for row in result["records"]:
        for key in ("odd", "preserved", "overwritten"):
            del row["passages"][key]
    rows = {row["memory"]: bounds._counted(row) for row in result["records"]}
    assert rows["lead"]["preserved"] is None
    assert "facts preserved" not in bounds.table(result | {"memories": rows})
