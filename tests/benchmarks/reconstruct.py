"""`Pair.reconstruct` of many memories in one call, beside a call for each."""

from __future__ import annotations

from pathlib import Path

from jaxcomp.config import Config
from jaxcomp.data.batches import eval_examples
from jaxcomp.inference import Memory, Pair
from jaxcomp.inference.load import load, open_run
from jaxcomp.inference.pair import Traits
from jaxcomp.training import pretrained
from tests.benchmarks.fixture import BenchError, Fixture, Times, interleaved


def measure(pair: Pair, memory: Memory, repeats: int) -> tuple[dict[str, Times], int]:
    """Seconds to rebuild every text of `memory`: "batched" in one call, "single" in one call each;
    and for how many texts the two gave the same.

    Compressing is not counted. Raises BenchError where `pair.batch` would split the call.
    """
    if pair.batch < len(memory):
        raise BenchError(f"pair.batch is {pair.batch}, for {len(memory)} texts in one call")
    texts: dict[str, list[str]] = {}

    def batched() -> None:
        texts["batched"] = pair.reconstruct(memory)

    def single() -> None:
        texts["single"] = [pair.reconstruct(memory[row])[0] for row in range(len(memory))]

    times = interleaved({"batched": batched, "single": single}, repeats)
    same = sum(a == b for a, b in zip(texts["batched"], texts["single"], strict=True))
    return times, same


def of_run(run: Path, texts: int) -> tuple[Pair, list[str]]:
    """A finished run's pair, and its first validation texts, so many at once."""
    pair = load(run, batch=texts)
    cfg, _ = open_run(run)
    return pair, _texts(pair, cfg, texts)


def untrained(fix: Fixture, texts: int) -> tuple[Pair, list[str]]:
    """The same of a pair that has learned nothing, at the shapes of the fixture."""
    cfg = fix.cfg
    comp, dec = (pretrained.tokenizer_of(Path(cfg.folders[n])) for n in (cfg.compressor, "decoder"))
    traits = Traits(cfg.memory.ratio, cfg.data.segments, cfg.data.target, "bench", "bench")
    pair = Pair(fix.model, (comp, dec), traits, fix.mesh, texts)
    return pair, _texts(pair, cfg, texts)


def _texts(pair: Pair, cfg: Config, texts: int) -> list[str]:
    found = [e.text for e in eval_examples(cfg, "val", pair.comp_tok, pair.dec_tok)][:texts]
    return [found[i % len(found)] for i in range(texts)]
