"""Every field a user can set, as frozen dataclasses: the one vocabulary that all packages share.

The type of a number says which values it may have (`check_numbers`).

`configs/*.py` build these trees through ml_collections at the edge (`jaxcomp.cli.main`); inside the
package only the dataclasses travel. `config_hash` names a tree, so results can be matched to what
made them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

# Metadata of a field that came after results were published: while it has its default it is left
# out of every tree and hash, so that those results keep their names.
OMIT_IF_DEFAULT = {"omit_if_default": True}


@dataclass(frozen=True)
class Range:
    """The values that a number may have: finite, and between `low` and `high`."""

    low: float
    high: float = math.inf
    above: bool = False  # without `low` itself
    below: bool = False  # without `high` itself

    def __contains__(self, value: Any) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and value not in (math.inf, -math.inf)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low}"
        high = f"{'under' if self.below else 'at most'} {self.high}"
        return f"a finite number {low}" if self.high == math.inf else f"{low} and {high}"


MOST = 2**31 - 1  # of an integer: arrays of token ids, places and seeds have 32 bits
Count = Annotated[int, Range(0, MOST)]
Size = Annotated[int, Range(1, MOST)]
Seed = Annotated[int, Range(0, MOST)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class RopeScaling:
    """RoPE scaling of Hugging Face's config.json; `linear` reads the factor alone."""

    factor: Positive = 8.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Size = 8192
    rope_type: str = field(default="llama3", metadata=OMIT_IF_DEFAULT)  # llama3 | linear


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one transformer, by the names of Hugging Face's config.json."""

    model_type: str = "llama"  # a row of jaxcomp.models.families
    vocab_size: Count = 0  # 0: as large as the tokenizer's
    hidden_size: Size = 64  # D (E when it is the compressor)
    num_hidden_layers: Size = 2  # Y
    num_attention_heads: Size = 4  # N
    num_key_value_heads: Size = 2  # K
    head_dim: Size = 16  # H; never derived from hidden_size / heads
    intermediate_size: Size = 128  # F
    rms_norm_eps: Positive = 1e-5
    rope_theta: Positive = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = True
    max_position_embeddings: Size = 4096
    # Only of families that list them (`Family.fields`). Layer y (from 1) attends to the whole text
    # where `sliding_window_pattern` divides y, the others to `sliding_window` places; 0: all do.
    sliding_window: Count = field(default=0, metadata=OMIT_IF_DEFAULT)
    sliding_window_pattern: Count = field(default=0, metadata=OMIT_IF_DEFAULT)
    # rope_theta of the layers with a window; their RoPE is not scaled
    rope_local_base_freq: Positive = field(default=10_000.0, metadata=OMIT_IF_DEFAULT)
    # scores are divided by its square root; 0: by that of head_dim
    query_pre_attn_scalar: Count = field(default=0, metadata=OMIT_IF_DEFAULT)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685); rank 0 means none: the tower is trained fully."""

    rank: Count = 0
    alpha: Positive = 32.0
    dropout: Fraction = 0.0


@dataclass(frozen=True)
class WorldConfig:
    """The controlled world (`jaxcomp.data.world`)."""

    seed: Seed = 0  # which world: lexicon order and every entity's favourites
    prior_strength: Share = 0.95  # P(slot takes its entity's favourite value) in pretraining text
    train_prior_strength: Share = 0.95  # the same in the compressor's training text
    # Only of the text that compressors' base models are pretrained on (docs/controls.md). The seed
    # of a world that shares every word with this one and has other favourites; 0: this world's own
    base_favourites: Seed = field(default=0, metadata=OMIT_IF_DEFAULT)
    # the words of each sentence in random order: the same words without grammar
    base_scrambled: bool = field(default=False, metadata=OMIT_IF_DEFAULT)


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it is cut."""

    source: str = "world"  # world | text | tfds | qa
    # text: a .jsonl[.gz], .parquet or .txt file, or a glob; qa: the same, no .txt, of rows with
    # question, context and answers; tfds: the data_dir
    path: str = ""
    text_field: str = "text"  # jsonl, parquet and tfds: the field that holds the text
    tfds_name: str = ""
    tfds_split: str = "train"
    tokenizer: str = ""  # a Hugging Face tokenizer folder; "": made from the text
    vocab_size: Annotated[int, Range(257, MOST)] = 2048  # of a tokenizer trained on `path`
    segment: Size = 64  # T, compressor tokens of a segment
    segments: Size = 1  # G, segments of one example
    target: Annotated[int, Range(2, MOST)] = 72  # L, decoder tokens of a target with its end token
    train_passages: Size = 262_144  # distinct training passages of the world; then they repeat
    eval_passages: Size = 256  # held-out passages an evaluation set has
    val_passages: Size = 256  # passages of the validation set (learning rates are chosen on it)
    seed: Seed = 0  # split and shuffle


@dataclass(frozen=True)
class MemoryConfig:
    """What the memory is and where it stands."""

    recipe: str = (
        "pcc"  # a name for kind and connector (jaxcomp/compress/recipes.py); custom: any of them
    )
    # append: learned memory tokens after the segment; interleave: one after every `ratio` tokens;
    # pool: means of blocks of states; kv: appended tokens' keys and values of every layer
    kind: str = "append"
    ratio: Size = 4  # context tokens per memory vector; divides data.segment
    positions: str = "spread"  # spread: memory vector m has its block's position id; consecutive
    # mlp: RMSNorm-Linear-GELU-Linear; relu: Linear-ReLU-Linear; none: states times a constant
    connector: str = field(default="mlp", metadata=OMIT_IF_DEFAULT)
    connector_hidden: Count = 0  # 0: twice the decoder's width
    marker_steps: Count = 300  # markers are trained this long, then frozen (PCC's warm-up)
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up, cosine decay and global-norm clipping."""

    steps: Count = 1000
    batch: Size = 32  # passages (or documents) of one optimiser step
    lr: Positive = 1e-3
    embed_lr: Positive = 1.0  # rate of token embeddings and memory tokens, as a multiple of lr
    final_lr: NotNegative = 0.0  # of the cosine, as a fraction of lr
    warmup: Count = 50
    weight_decay: NotNegative = 0.0
    b1: Fraction = 0.9
    b2: Fraction = 0.95
    clip: Positive = 1.0
    accumulate: Size = 1  # micro-batches of one optimiser step; divides batch


@dataclass(frozen=True)
class TrainConfig:
    """One training run of a compressor (or, with `train_decoder`, of the pair)."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    # coin: each example is rebuilt or continued; sum: both; distil: rebuilt, and continued as the
    # decoder does that reads the whole text (KL); answer: a question about it is answered, or it is
    # rebuilt (data.source=qa or world; docs/training.md)
    objective: str = "coin"
    p_reconstruct: Share = 0.5  # coin, answer: probability; sum, distil: weight of reconstruction
    # the finished run (its workdir) whose compressor and markers training begins with, such as one
    # that learned to rebuild, before `answer`; "": from the base model
    start: str = field(default="", metadata=OMIT_IF_DEFAULT)
    p_blank: Share = 0.0  # share of examples whose memory is withheld: a decoder in training stays
    # a language model, and "no memory" is nothing it has never seen
    word_dropout: Share = 0.0  # share of the target's words hidden from the decoder where it has a
    # memory (arXiv 1511.06349): a decoder in training learns to look there
    train_decoder: bool = False  # only the joint adaptation of a base decoder
    ratios: tuple[Size, ...] = ()  # each step draws one of these; (): memory.ratio (adapt: sweep's)
    curriculum: tuple[Size, ...] = ()  # ratios trained at before that, one after the other
    curriculum_share: Share = 0.5  # of the steps that the curriculum takes
    remat: str = "none"  # none | full | offload
    loss_chunk: Count = 0  # decoder positions per chunk of the cross-entropy; 0: all at once
    # float32 | bfloat16: of frozen weights and of the towers' computation. What is trained, the
    # connector, softmaxes and losses are float32 in any case.
    dtype: str = field(default="float32", metadata=OMIT_IF_DEFAULT)
    log_every: Size = 50
    checkpoint_every: Size = 500
    keep_checkpoints: Size = 2


@dataclass(frozen=True)
class PretrainConfig:
    """Language modelling from scratch."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    # L; documents are packed to this length, which holds a token and its end twice
    seq_len: Annotated[int, Range(4, MOST)] = 128
    copy_fraction: Share = 0.5  # share of documents that are a passage followed by itself
    seed: Seed = 0
    remat: str = "none"
    loss_chunk: Count = 0
    log_every: Size = 50
    checkpoint_every: Size = 1000
    keep_checkpoints: Size = 2


@dataclass(frozen=True)
class DecoderConfig:
    """The one frozen decoder: pretrained, then taught to be steered by a reference compressor."""

    model: ModelConfig = field(default_factory=ModelConfig)
    reference: ModelConfig = field(default_factory=ModelConfig)  # its size is outside the grid
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    adapt: TrainConfig = field(default_factory=lambda: TrainConfig(train_decoder=True))
    seed: Seed = 0


@dataclass(frozen=True)
class EvalConfig:
    """What is measured on held-out text."""

    batch: Size = 64
    samples: Count = 4  # sampled rebuilds per passage for the agreement measure
    sampled_passages: Count = 32
    temperature: NotNegative = 1.0
    edits_per_kind: Count = 64  # real text: edited passages of each kind (number, name, ...)


@dataclass(frozen=True)
class SweepConfig:
    """The grid. A setup is family x size x ratio (x recipe); a job is a setup x base seed x seed x
    lr."""

    families: tuple[str, ...] = ()  # (): every family of `families`
    sizes: tuple[str, ...] = ()  # (): every size of a family
    ratios: tuple[Size, ...] = (4, 16, 64)
    # (): the one of `memory`; else each of these (compress/recipes.py), for one decoder
    recipes: tuple[str, ...] = field(default=(), metadata=OMIT_IF_DEFAULT)
    # of `recipes`, those that run at ratios of their own, such as ones of equal bytes
    own_ratios: dict[str, tuple[Size, ...]] = field(default_factory=dict, metadata=OMIT_IF_DEFAULT)
    base_seeds: tuple[Seed, ...] = (0,)
    seeds: tuple[Seed, ...] = (0,)
    lr_grid: tuple[Positive, ...] = ()  # multiples of train.optim.lr tried per size
    lr_ratios: tuple[Size, ...] = (16,)  # ratios at which the grid is run
    primary_ratio: Size = 16  # pre-registered endpoint: counterfactual slots kept at this ratio
    # pre-registered: a smaller fall of the endpoint (a share) would not matter; the verdict's
    # "absent" is earned by excluding one as large
    smallest_effect: Annotated[float, Range(0, 1, above=True, below=True)] = field(
        default=0.05, metadata=OMIT_IF_DEFAULT
    )
    workers: Count = 0  # local processes; 0: one a core on CPU, else 1


@dataclass(frozen=True)
class MeshConfig:
    replica: Size = 1
    fsdp: Annotated[int, Range(-1, MOST)] = -1  # -1: every device that replica and tp leave
    tp: Size = 1


@dataclass(frozen=True)
class Config:
    """One experiment: everything `pretrain`, `train`, `eval`, `sweep` and `report` need."""

    name: str = "experiment"
    families: dict[str, dict[str, ModelConfig]] = field(default_factory=dict)
    # "family/size" or "decoder" -> a Hugging Face folder, or a hub id (owner/name[@revision])
    folders: dict[str, str] = field(default_factory=dict)
    compressor: str = ""  # family/size of a single `train` or `pretrain`
    base_seed: Seed = 0  # which pretrained base of that size
    seed: Seed = 0  # training seed: memory tokens, connector, order of passages
    world: WorldConfig = field(default_factory=WorldConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # Python files or modules of your own that register memory kinds, objectives, families, metrics
    # or sources (docs/extending.md); imported wherever this config is read
    plugins: tuple[str, ...] = field(default=(), metadata=OMIT_IF_DEFAULT)


class ConfigError(ValueError):
    """A field is unknown or has a value that cannot work; the message names it and the mend."""


def check_numbers(config: Any, where: str = "") -> None:
    """Raises ConfigError that names the first number of a tree which is outside its `Range`.

    `where` begins the message, such as "config.json: ".
    """
    for name, value, allowed in _numbers(type(config), config, ""):
        if value not in allowed:
            # Python refuses to print an integer of thousands of digits.
            shown = value if isinstance(value, float) or abs(value) < 10**30 else "a huge integer"
            raise ConfigError(f"{where}{name} = {shown}: expected {allowed}")


def _numbers(kind: Any, value: Any, path: str) -> Iterator[tuple[str, Any, Range]]:
    """Every number below `value`, which is of the type `kind`: its dotted name, itself, its range.

    Raises TypeError for a number whose type says no range.
    """
    args = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        yield path, value, args[1]
    elif kind in (int, float):
        raise TypeError(f"{path}: its type has no Range")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(args[1], inner, f"{path}.{key}")
    elif isinstance(value, tuple):
        for inner in value:
            yield from _numbers(args[0], inner, path)
    elif dataclasses.is_dataclass(value):
        for name, inner in typing.get_type_hints(type(value), include_extras=True).items():
            yield from _numbers(inner, getattr(value, name), f"{path}.{name}".lstrip("."))


def to_dict(config: Any) -> Any:
    """A tree of dataclasses as JSON-able values, without `OMIT_IF_DEFAULT` fields at defaults."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = ((f, getattr(config, f.name)) for f in dataclasses.fields(config))
        return {
            f.name: to_dict(value)
            for f, value in values
            if not (f.metadata.get("omit_if_default") and value == _default(f))
        }
    if isinstance(config, dict):
        return {k: to_dict(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(v) for v in config]
    return config


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def config_hash(*parts: Any) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of `parts`."""
    text = json.dumps([to_dict(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def parse_arg(arg: str, **defaults: Any) -> types.SimpleNamespace:
    """Read `"full,steps=20"` by the types of `defaults`; a bare name sets a boolean to True.

    Raises ConfigError for names that are not in `defaults`.
    """
    values = dict(defaults)
    for part in filter(None, (p.strip() for p in arg.split(","))):
        name, mark, text = part.partition("=")
        if name not in defaults:
            raise ConfigError(
                f"config argument {part!r} is unknown{suggestion(name, defaults)}; "
                f"known: {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        if not mark and kind is not bool:
            raise ConfigError(f"config argument {name} needs a value: {name}=...")
        values[name] = parsed(text, kind, name) if mark else True
    return types.SimpleNamespace(**values)


def from_dict(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Build a Config; missing fields keep their defaults.

    Raises ConfigError for unknown fields, and for numbers outside their range.
    """
    cfg = _build(Config, tree, where, "")
    check_numbers(cfg, f"{where}: ")
    return cfg


def _build(kind: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {path} = {value!r}; expected fields of {kind.__name__}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise unknown_field(kind, f"{path}.{name}".lstrip("."), where)
        parts = {k: _build(hints[k], v, where, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
        return kind(**parts)
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {path} = {value!r}; expected a dict")
        return {str(k): _build(inner, v, where, f"{path}.{k}") for k, v in value.items()}
    if optional(kind):
        return None if value is None else _build(optional(kind), value, where, path)
    return _coerce(kind, value, f"{where}: {path}")


def optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [k for k in typing.get_args(kind) if k is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return None


def _coerce(kind: Any, value: Any, what: str) -> Any:
    """`value` as `kind`; only what loses nothing passes (int for float, list for tuple)."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{what} = {value!r}; expected a list of {inner.__name__}")
        return tuple(_coerce(inner, v, what) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf  # refused by its range
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise ConfigError(f"{what} = {value!r}; expected {_name(kind)}")
    # Control characters, and halves of surrogate pairs: bytes of a command line that is not UTF-8.
    if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        raise ConfigError(f"{what} = {value!r}; expected text without control characters, in UTF-8")
    return value


def parsed(text: str, kind: Any, what: str) -> Any:
    """A command line's text as a value of type `kind`."""
    if optional(kind):
        if text.lower() in ("none", "null"):
            return None
        kind = optional(kind)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        text = text.strip()
        if text[:1] + text[-1:] in ("()", "[]"):
            text = text[1:-1]
        items = [t.strip().strip("'\"") for t in text.split(",")]
        return tuple(parsed(t, inner, what) for t in items if t)
    if kind is str:
        return _coerce(kind, text, what)
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise ConfigError(f"{what}={text}: expected true or false")
        return known[text.lower()]
    if kind in (int, float):
        try:
            return _coerce(kind, _number(text), what)
        except (ValueError, ConfigError):
            raise ConfigError(f"{what}={text[:80]}: expected {_name(kind)}") from None
    raise ConfigError(f"{what}={text}: is a group of fields; name one of them, as in {what}.FIELD=")


def _number(text: str) -> int | float:
    try:
        return int(text, 0)
    except ValueError:
        return float(text)


def fields(kind: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted field below `kind`; dict entries are left out."""
    out = []
    for name, hint in typing.get_type_hints(kind).items():
        inner = optional(hint) or hint
        if dataclasses.is_dataclass(inner):
            out += fields(inner, f"{prefix}{name}.")
        else:
            out.append(prefix + name)
    return out


def unknown_field(kind: Any, key: str, where: str, prefix: str | None = None) -> ConfigError:
    """The nearest field: first inside the group, then anywhere by its last name, then by path."""
    prefix = key.rpartition(".")[0] if prefix is None else prefix.rstrip(".")
    dot = f"{prefix}." if prefix else ""
    name, _, rest = key[len(dot) :].partition(".")
    tail = f".{rest}" if rest else ""
    inside = list(typing.get_type_hints(kind))
    near = [dot + n + tail for n in difflib.get_close_matches(name, inside, n=1)]
    leaf = key.rpartition(".")[2]
    near = near or [f for f in fields() if f.rpartition(".")[2] == leaf][:3]
    near = near or difflib.get_close_matches(key, fields(), n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known here: {', '.join(inside)}"
    return ConfigError(f"{where}: no field {key}{hint}")


def suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _name(kind: Any) -> str:
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )
