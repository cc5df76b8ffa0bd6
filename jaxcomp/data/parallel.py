"""Prepare whole sets with several processes (`jaxcomp prepare`)."""

from __future__ import annotations

import functools
import multiprocessing as mp
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from jaxcomp.config import Config, config_hash
from jaxcomp.data.blocks import Blocks
from jaxcomp.data.corpus import DOCUMENTS, corpus
from jaxcomp.data.documents import DataError
from jaxcomp.data.prepare import example_blocks, lm_blocks
from jaxcomp.data.tokenizer import load_tokenizer
from jaxcomp.runtime import live
from jaxcomp.runtime.plugins import load_plugins


class Set(NamedTuple):
    """One prepared set: `what` is "examples", "answers" or "lm"; the tokenizers are folders."""

    what: str
    cfg: Config
    comp: str
    dec: str

    def blocks(self) -> Blocks[Any]:
        """Raises DataError for text that cannot be used."""
        text, comp = corpus(self.cfg), load_tokenizer(self.comp)
        if self.what == "lm":
            return lm_blocks(self.cfg, comp, text, (self.cfg.pretrain.seq_len - 2) // 2)
        dec = load_tokenizer(self.dec)
        return example_blocks(self.cfg, comp, dec, text, asks=self.what == "answers")


def prepare(sets: Sequence[Set], workers: int) -> list[Blocks[Any]]:
    """Make what is missing of these sets, equal ones once; killed, the same call goes on with the
    next shard. Returns the sets, each once.

    Raises DataError: unusable text, a cache that cannot be written, a process that died.
    """
    found = list({(s.what, s.comp, s.dec, config_hash(s.cfg.data)): s for s in sets}.values())
    blocks = [each.blocks() for each in found]
    todo = [(i, shard) for i, each in enumerate(blocks) for shard in each.missing()]
    if not todo:
        return blocks
    size = {(i, shard): DOCUMENTS * len(blocks[i].numbers(shard)) for i, shard in todo}
    context = mp.get_context("spawn")  # fork is not safe once JAX has threads
    what = f"tokenising with {workers} processes"
    with (
        live.phase(what, sum(size.values()), "documents") as progress,
        ProcessPoolExecutor(workers, context, initializer=_start, initargs=(found,)) as pool,
    ):
        try:
            jobs = {pool.submit(_make, *each): each for each in todo}
            for done in as_completed(jobs):
                if not done.result():
                    raise DataError(
                        f"{blocks[0].folder.parent}: cannot be written; set JAXCOMP_CACHE to a "
                        "folder with room"
                    )
                progress.done += size[jobs[done]]
        except BrokenProcessPool as error:
            raise DataError(
                "a process that tokenised has died (killed, or out of memory?); run the same "
                "command again, perhaps with fewer --workers: it goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return blocks


_sets: Sequence[Set] = ()


def _start(sets: Sequence[Set]) -> None:
    """Begin a worker, which ends with its parent, however that ends."""
    global _sets
    _sets = sets
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many processes as cores
    for each in sets:
        load_plugins(each.cfg)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@functools.cache
def _blocks(number: int) -> Blocks[Any]:
    return _sets[number].blocks()


def _make(number: int, shard: int) -> bool:
    return _blocks(number).make_shard(shard)
