"""Every command with the flags it takes; what they do: commands.py, evaluating.py, using.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from jaxcomp import commands, evaluating, using
from jaxcomp.commands import Flags
from jaxcomp.settings import integer, shipped

FIELDS = """
Any field of the config can be set: --train.optim.lr=3e-4 --data.path=FILE --sweep.ratios=4,16
(see jaxcomp/config.py for all of them). An unknown field is an error that suggests the nearest.
"""


class Command(NamedTuple):
    name: str
    help: str
    about: str  # the first paragraphs of its --help
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Flags], int]
    epilog: str = FIELDS
    # Of a cluster: "any" does not ask, "one" runs alone, "all" run it together.
    processes: str = "any"


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="a config file, such as my.py:full, or one that ships with jaxcomp: "
        f"{', '.join(shipped())}",
    )
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config's name>")


def _train_flags(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--profile",
        default="",
        metavar="FIRST:LAST",
        help="trace the steps FIRST to LAST - 1, counted from 0, into WORKDIR/profile (TensorBoard "
        "and Perfetto read it)",
    )


def _parallel(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--workers",
        type=integer,
        metavar="N",
        help="local processes (default: sweep.workers; 0: one a core on CPU, else one)",
    )


def _sweep_flags(parser: argparse.ArgumentParser) -> None:
    _parallel(parser)
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="i/n",
        help="run only the i-th of n parts (0 <= i < n), for machines that share the workdir",
    )
    parser.add_argument(
        "--reuse",
        default="",
        metavar="DIR[,DIR]",
        help="take over finished jobs of other sweeps whose config hash is the same",
    )


def _report_flags(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--beside",
        metavar="DIR[,DIR]",
        action="append",
        default=[],
        help="the same sizes swept against another decoder: an effect of size is claimed only "
        "where both show it; or at another strength of the prior, or from bases of another text: "
        "does that change what size does? (docs/controls.md)",
    )


def _bench_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="tiny",
        help="the config whose shapes are measured (default: tiny)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WHAT[,WHAT]",
        help="step, data, memory, generate, reconstruct, probe, transformers, load",
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        help="with reconstruct and probe: measure this finished run, not an untrained pair",
    )


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        required=True,
        metavar="DIR",
        help="workdir of a finished `jaxcomp train`, a sweep's jobs/JOB, or an exported folder",
    )
    parser.add_argument(
        "--ratio", type=integer, default=0, metavar="N", help="one of those it was trained at"
    )
    _batch_and_places(parser)


def _batch_and_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=integer, default=32, metavar="N", help="rows at once (32)")
    for base in ("compressor", "decoder"):
        parser.add_argument(
            f"--{base}",
            default="",
            metavar="DIR",
            help=f"where the {base}'s base model is, if it is no longer where it was",
        )


def _compress_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help=".txt (one text), .jsonl[.gz] or .parquet (a text a row), a folder of them, or - for "
        "standard input (the default)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="one NAME.safetensors, or a folder for files of --part texts each, which a rerun "
        "completes",
    )
    parser.add_argument("--part", type=integer, default=256, metavar="N", help="texts a file (256)")
    parser.add_argument("--field", default="text", help="the field of a row that holds the text")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the stored vectors (float32)",
    )


def _memory_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument(
        "memories", nargs="+", metavar="MEMORY", help="files or folders of `jaxcomp compress`"
    )
    parser.add_argument(
        "--max_new", type=integer, default=0, metavar="N", help="most decoder tokens of an output"
    )


def _ask_flags(parser: argparse.ArgumentParser) -> None:
    _memory_flags(parser)
    parser.add_argument(
        "--question", metavar="TEXT", help="default: standard input, one question a line"
    )


def _eval_flags(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    evaluating.add_flags(parser)


def _inspect_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help="a finished run")
    parser.add_argument(
        "--limit", type=integer, default=64, metavar="N", help="passages of each held-out set (64)"
    )
    _batch_and_places(parser)
    parser.add_argument(
        "--out", default="", metavar="FILE", help="the page (default: inspect.html in the run)"
    )


def _export_flags(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument("--out", required=True, metavar="PATH", help="folder to write")
    parser.add_argument(
        "--prompt_embeds",
        metavar="MEMORY",
        help="write the decoder's prompt for each text of that memory file instead, as "
        "embeddings (--out is then a .safetensors file)",
    )
    parser.add_argument(
        "--question", metavar="TEXT", help="with --prompt_embeds: ask it, instead of rebuilding"
    )


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        default="paper",
        help="default: paper, the paper's 27 setups",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="SLICE[,SLICE]",
        help="v5e:4x4, v5p:4x4x4, v6e:8x8, ... (chips along each axis) or h100:8; of several, each "
        "setup takes the first that holds it",
    )
    parser.add_argument(
        "--rate", type=float, metavar="USD", help="price of a chip's hour (default: a list price)"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the roofline's speed that a step is assumed to reach (0.5)",
    )
    parser.add_argument("--out", metavar="FILE", help="write the table there too (Markdown)")


COMMANDS = (
    Command(
        "pretrain",
        "make base language models and the decoder",
        "Pretrains the language models a config starts from, into WORKDIR/bases and "
        "WORKDIR/decoders:\nall bases of the grid and the decoder, or one with "
        "--compressor=FAMILY/SIZE [--base_seed=N],\nor the decoder alone with "
        "--compressor=decoder. Finished ones are left as they are.",
        _parallel,
        commands.pretrain,
        processes="all",
    ),
    Command(
        "train",
        "train one compressor against the frozen decoder",
        "Trains --compressor=FAMILY/SIZE at --memory.ratio. A killed run is resumed by the same\n"
        "command; SIGTERM ends it after its step, saved. Several processes train one together:\n"
        "docs/distributed.md.",
        _train_flags,
        commands.train,
        processes="all",
    ),
    Command(
        "eval",
        "measure what survived in one trained pair, or probe it with questions",
        "Rebuilds held-out text with the run in --run=DIR, or with that of `jaxcomp train` with\n"
        "the same flags, and writes eval.json and passages.jsonl beside it. --all: minimal pairs\n"
        "too; --checkpoints=all: every saved checkpoint (docs/trajectories.md).\n\n"
        "With --run=DIR --probe=NAME --data=FILE, asks questions about passages: from nothing,\n"
        "from the full text, from its memory and from the text rebuilt from that. overwriting: an\n"
        "answer was replaced, so is it the passage's or the world's that comes? qa: SQuAD's exact\n"
        "match and F1. drift: does a memory prefer its text to a twin (docs/drift.md)? rate: the\n"
        "same memories in fewer bits. bounds: the run's memory between none and the best.\n"
        "A stopped probe goes on where it stopped; what is finished is printed and not measured\n"
        "again. If the base models of --run have moved, --compressor=DIR and\n"
        "--decoder=DIR say where they are; for several runs one folder, or one for each: DIR,DIR.\n"
        "Definitions: docs/metrics.md.",
        _eval_flags,
        evaluating.evaluate,
        processes="all",
    ),
    Command(
        "sweep",
        "run the whole grid: train, evaluate, report",
        "Every family x size x ratio x seed of the config. Finished jobs are kept in "
        "WORKDIR/ledger,\nso the same command resumes after any interruption, retries what "
        "failed, and does nothing\nwhen all is done. The report is WORKDIR/report/report.html.",
        _sweep_flags,
        commands.sweep,
        processes="all",
    ),
    Command(
        "report",
        "write tables, plots and the verdict of a sweep",
        "Works on an unfinished sweep too and says what is missing. Only --workdir is needed, "
        "neither\nthe data nor the models.",
        _report_flags,
        commands.report,
        "",
    ),
    Command(
        "plan",
        "does it fit a TPU slice, how fast, at what price; before booking one",
        "Compiles the training step, and compressing, prefill and decoding, of every setup for a\n"
        "TPU slice, with the real compiler and without a TPU (extra `tpu`). Mesh, micro-batches\n"
        "and remat are chosen by estimate, at most two choices compiled. Exits with 1 where a\n"
        "setup fits no given slice. What is compiled is kept in $JAXCOMP_CACHE, so the same\n"
        "command resumes, and prints at once when all is done. For h100:N the same arithmetic\n"
        "without a compiler.",
        _plan_flags,
        commands.plan,
        processes="one",
    ),
    Command(
        "bench",
        "measure rates and ratios of this machine",
        "One table: the training step against plain PyTorch (if that is installed) and where it "
        "spends\nits time, the wait for data, growth of memory, the rates of decoding (also "
        "against\ntransformers), of rebuilding and of probing many texts at once, and of loading.\n"
        "Nothing is kept. What each number means: docs/bench.md.",
        _bench_flags,
        commands.bench,
        processes="one",
    ),
    Command(
        "doctor",
        "look at one batch before a long run",
        "Prints a text and its segments, where everything stands, what attends to what, what "
        "carries\nloss, the parameters and the first loss; then checks for bugs that have spoilt "
        "such runs.\nExits with 1 where a check fails. --compressor=FAMILY/SIZE (default: the "
        "first). Writes nothing.",
        _common,
        commands.doctor,
        processes="one",
    ),
    Command(
        "compress",
        "texts into memory files",
        "Writes the memory vectors of texts from files, folders or standard input. Long texts\n"
        "become many segments. With a folder as --out, a stopped run goes on where it stopped.",
        _compress_flags,
        using.compress,
        "",
        "one",
    ),
    Command(
        "reconstruct",
        "memory files into texts",
        "Prints the rebuilt text (greedy, free-running); of several texts one JSON object a line,\n"
        '{"id": ..., "text": ...}.',
        _memory_flags,
        using.reconstruct,
        "",
        "one",
    ),
    Command(
        "ask",
        "answer questions from memory files alone",
        "Prints the decoder's greedy answer to each question about each text; of several texts or\n"
        "questions one JSON object a line. The decoder answers as well as it was trained to: one\n"
        "that only learned to rebuild and continue is a base model.",
        _ask_flags,
        using.ask,
        "",
        "one",
    ),
    Command(
        "inspect",
        "a page that shows where every rebuilt word came from",
        "Rebuilds held-out passages of a finished run and writes one HTML page: source and\n"
        "rebuilt text side by side, every word copied, overwritten by the prior, replaced, lost\n"
        "or invented, with the decoder's entropy under it; of the controlled world also what a\n"
        "linear probe reads from the memory. Definitions: docs/metrics.md. The same again writes\n"
        "nothing.",
        _inspect_flags,
        using.inspect,
        "",
        "one",
    ),
    Command(
        "export",
        "a finished run as a folder to hand on",
        "Writes a compressor: a PEFT adapter or a Hugging Face folder, connector and markers as\n"
        "safetensors, and a card. `jaxcomp.load(DIR)` reads it.",
        _export_flags,
        using.export,
        "",
        "one",
    ),
)
