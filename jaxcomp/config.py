"""All config fields, as frozen dataclasses with bounds.

A field's type says which values it may have; pydantic reads it (`jaxcomp.runtime.fields`).
`configs/*.py` build these trees through ml_collections at the edge (`jaxcomp.cli.main`); inside the
package only the dataclasses travel. `config_hash` names a tree, so results can be matched to what
made them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Predicate

# Metadata of a field that came after results were published. While it has its default it is left
# out of every tree and hash, so those results keep their names.
OMIT_IF_DEFAULT = {"omit_if_default": True}


def like(pattern: str, expected: str) -> Predicate:
    """The bound of a type: its text matches `pattern`; an error says what was `expected`."""

    def holds(value: Any) -> bool:
        if re.fullmatch(pattern, str(value)):
            return True
        raise ValueError(f"expected {expected}")

    return Predicate(holds)


MOST = 2**31 - 1  # of an integer: arrays of token ids, places and seeds have 32 bits
Count = Annotated[int, Interval(ge=0, le=MOST)]
Size = Annotated[int, Interval(ge=1, le=MOST)]
Seed = Count
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Probability = Annotated[float, Interval(gt=0, lt=1)]  # -log2 of it and of the rest is finite
Fraction = Annotated[float, Interval(ge=0, lt=1)]
# Halves of surrogate pairs are bytes of a command line that is not UTF-8.
Text = Annotated[
    str, like("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*", "text without control characters, in UTF-8")
]
FolderName = Annotated[Text, like(r"(?!\.{1,2}$)[^/]+", "the name of a folder, without '/'")]
# A part of job ids and file names, in which "-" separates.
ShortName = Annotated[str, like(r"[A-Za-z0-9_.]+", "a name of letters, digits, '_' and '.'")]
Devices = Annotated[int, Interval(ge=-1, le=MOST), like("(?!0$).*", "-1 or at least 1")]
Remat = Literal["none", "full", "offload"]
Dtype = Literal["float32", "bfloat16"]
Positions = Literal["spread", "consecutive"]
Trained = Literal["tower", "last_layer", "connector"]  # each also trains what those after it do


@dataclass(frozen=True)
class RopeScaling:
    """RoPE scaling of Hugging Face's config.json; `linear` reads the factor alone."""

    factor: Positive = 8.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Size = 8192
    rope_type: Literal["llama3", "linear"] = field(default="llama3", metadata=OMIT_IF_DEFAULT)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one transformer, by the names of Hugging Face's config.json."""

    model_type: Text = "llama"  # a row of jaxcomp.models.families
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
    prior_strength: Probability = 0.95  # P(a fact is its entity's favourite) in pretraining text
    train_prior_strength: Probability = 0.95  # the same in the compressor's training text
    # Only of the text that compressors' base models are pretrained on
    # (docs/explanation/controlled-world.md). The seed of a world that shares every word with this
    # one and has other favourites; 0: this world's own
    base_favourites: Seed = field(default=0, metadata=OMIT_IF_DEFAULT)
    # the words of each sentence in random order: the same words without grammar
    base_scrambled: bool = field(default=False, metadata=OMIT_IF_DEFAULT)


@dataclass(frozen=True)
class PeopleConfig:
    """The people world (`jaxcomp.data.people`): some people are read about more than others."""

    seed: Seed = 0  # which world: names, favourites and passages
    people: Annotated[int, Interval(ge=64, le=MOST)] = 2048  # whom texts are about
    unseen: Count = 256  # people of the evaluation sets, never in any training text
    kinds: Annotated[int, Interval(ge=2, le=6)] = 4  # attributes that a person has
    values: Annotated[int, Interval(ge=2, le=16)] = 16  # of each kind
    # The person of rank r (from 0) comes up with weight 1 / (r + 1 + zipf_shift)**zipf.
    zipf: NotNegative = 1.0
    zipf_shift: NotNegative = 8.0
    # P(a value is its person's favourite), at least 1 / values (uniform): in the text that
    # compressors' base models read, in the compressor's training text, and in all text of the
    # decoder and its reference compressor
    prior_strength: Fraction = 0.95
    train_prior_strength: Fraction = 0.95
    decoder_prior_strength: Fraction = 0.0
    filler: Fraction = 0.0  # share of sentences that carry no fact, after a passage's first three


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it is cut."""

    # world | people | text | tfds | qa, or one of your own (docs/how-to/extend.md)
    source: Text = "world"
    # options of a source of your own: name=value,name=value
    options: Text = field(default="", metadata=OMIT_IF_DEFAULT)
    # text: a .jsonl[.gz], .parquet or .txt file, or a glob; qa: the same, no .txt, of rows with
    # question, context and answers; tfds: the data_dir
    path: Text = ""
    text_field: Text = "text"  # jsonl, parquet and tfds: the field that holds the text
    tfds_name: Text = ""
    tfds_split: Text = "train"
    tokenizer: Text = ""  # a Hugging Face tokenizer folder; "": made from the text
    vocab_size: Annotated[int, Interval(ge=257, le=MOST)] = 2048  # of a tokenizer trained on `path`
    segment: Size = 64  # T, compressor tokens of a segment
    segments: Size = 1  # G, segments of one example
    target: Annotated[int, Interval(ge=2, le=MOST)] = 72  # L, decoder tokens with the end token
    train_passages: Size = 262_144  # distinct training passages of the world; then they repeat
    eval_passages: Size = 256  # held-out passages an evaluation set has
    val_passages: Size = 256  # passages of the validation set (learning rates are chosen on it)
    seed: Seed = 0  # split and shuffle


@dataclass(frozen=True)
class MemoryConfig:
    """What the memory is and where it stands."""

    recipe: Text = (
        "pcc"  # a name for kind and connector (jaxcomp/compress/recipes.py); custom: any of them
    )
    # append: learned memory tokens after the segment; interleave: one after every `ratio` tokens;
    # pool: means of blocks of states; kv: appended tokens' keys and values of every layer; or one
    # of your own (docs/how-to/extend.md)
    kind: Text = "append"
    ratio: Size = 4  # context tokens per memory vector; divides data.segment
    # spread: memory vector m has the position id of its block; consecutive: 0, 1, 2, ...
    positions: Positions = "spread"
    # mlp: RMSNorm-Linear-GELU-Linear; relu: Linear-ReLU-Linear; none: states times a constant
    connector: Text = field(default="mlp", metadata=OMIT_IF_DEFAULT)
    connector_hidden: Count = 0  # 0: twice the decoder's width
    marker_steps: Count = 300  # markers are trained this long, then frozen (PCC's warm-up)
    lora: LoraConfig = field(default_factory=LoraConfig)
    # what of the compressor is trained. tower: all of it, or its LoRA adapters where lora.rank > 0;
    # last_layer: the tower's last layer, memory tokens, connector and markers; connector: connector
    # and markers, the tower stays the base model (kind pool only)
    trained: Trained = field(default="tower", metadata=OMIT_IF_DEFAULT)


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
    # rebuilt (data.source=qa or world; docs/how-to/train-in-stages.md); or one of your own
    # (docs/how-to/extend.md)
    objective: Text = "coin"
    p_reconstruct: Share = 0.5  # coin, answer: probability; sum, distil: weight of reconstruction
    # the finished run (its workdir) whose compressor and markers training begins with, such as one
    # that learned to rebuild, before `answer`; "": from the base model
    start: Text = field(default="", metadata=OMIT_IF_DEFAULT)
    # memory dropout, share of examples: a decoder in training stays a language model, and has seen
    # prompts without a memory
    p_blank: Share = 0.0
    # word dropout, share of the target's words that the decoder cannot read where it has a memory
    # (arXiv 1511.06349): a decoder in training learns to read the memory
    word_dropout: Share = 0.0
    # weight of the tower's language-modelling loss on the text that base models read, added to the
    # objective: what the base model knows is kept
    replay: NotNegative = field(default=0.0, metadata=OMIT_IF_DEFAULT)
    train_decoder: bool = False  # only the joint adaptation of a base decoder
    ratios: tuple[Size, ...] = ()  # each step draws one of these; (): memory.ratio (adapt: sweep's)
    curriculum: tuple[Size, ...] = ()  # ratios trained at before that, one after the other
    curriculum_share: Share = 0.5  # of the steps that the curriculum takes
    remat: Remat = "none"
    loss_chunk: Count = 0  # decoder positions per chunk of the cross-entropy; 0: all at once
    # Of frozen weights and of the towers' computation. What is trained, the connector, softmaxes
    # and losses are float32 in any case.
    dtype: Dtype = field(default="float32", metadata=OMIT_IF_DEFAULT)
    log_every: Size = 50
    # tensorboard, wandb, trackio, or one of your own (docs/how-to/log-training.md)
    loggers: tuple[Text, ...] = field(default=("tensorboard",), metadata=OMIT_IF_DEFAULT)
    checkpoint_every: Size = 500
    keep_checkpoints: Size = 2


@dataclass(frozen=True)
class PretrainConfig:
    """Language modelling from scratch."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    # L; documents are packed to this length, which holds a token and its end twice
    seq_len: Annotated[int, Interval(ge=4, le=MOST)] = 128
    # the text of models that are found, not made: its fingerprint in their card; "": that of `data`
    text: Text = field(default="", metadata=OMIT_IF_DEFAULT)
    copy_fraction: Share = 0.5  # share of documents that are a passage followed by itself
    seed: Seed = 0
    remat: Remat = "none"
    loss_chunk: Count = 0
    log_every: Size = 50
    # tensorboard, wandb, trackio, or one of your own (docs/how-to/log-training.md)
    loggers: tuple[Text, ...] = field(default=("tensorboard",), metadata=OMIT_IF_DEFAULT)
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

    families: tuple[Text, ...] = ()  # (): every family of `families`
    sizes: tuple[Text, ...] = ()  # (): every size of a family
    ratios: tuple[Size, ...] = (4, 16, 64)
    # (): the one of `memory`; else each of these (compress/recipes.py), for one decoder
    recipes: tuple[Text, ...] = field(default=(), metadata=OMIT_IF_DEFAULT)
    # of `recipes`, those that run at ratios of their own, such as ones of equal bytes
    own_ratios: dict[Text, tuple[Size, ...]] = field(default_factory=dict, metadata=OMIT_IF_DEFAULT)
    base_seeds: tuple[Seed, ...] = (0,)
    seeds: tuple[Seed, ...] = (0,)
    lr_grid: tuple[Positive, ...] = ()  # multiples of train.optim.lr tried per size
    lr_ratios: tuple[Size, ...] = (16,)  # ratios at which the grid is run
    primary_ratio: Size = 16  # pre-registered endpoint: facts preserved at this ratio
    # pre-registered: a smaller fall of the endpoint (a share) would not matter; the verdict's
    # "absent" is earned by excluding one as large
    smallest_effect: Annotated[float, Interval(gt=0, lt=1)] = field(
        default=0.05, metadata=OMIT_IF_DEFAULT
    )
    workers: Count = 0  # local processes; 0: one a core on CPU, else 1


@dataclass(frozen=True)
class MeshConfig:
    replica: Size = 1
    fsdp: Devices = -1  # -1: every device that replica and tp leave
    tp: Size = 1


@dataclass(frozen=True)
class Config:
    """One experiment: everything `pretrain`, `train`, `eval`, `sweep` and `report` need.

    A frozen dataclass of sections; the config reference lists all fields. `jaxcomp.load_config`
    makes one from a file.

    Raises:
        ConfigError: a value has the wrong type or is out of bounds.

    Example:
        >>> jaxcomp.Config(name="mine").memory.ratio
        4
    """

    name: FolderName = "experiment"
    families: dict[ShortName, dict[ShortName, ModelConfig]] = field(default_factory=dict)
    # "family/size" or "decoder" -> a Hugging Face folder, or a hub id (owner/name[@revision])
    folders: dict[Text, Text] = field(default_factory=dict)
    compressor: Text = ""  # family/size of a single `train` or `pretrain`
    base_seed: Seed = 0  # which pretrained base of that size
    seed: Seed = 0  # training seed: memory tokens, connector, order of passages
    world: WorldConfig = field(default_factory=WorldConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig, metadata=OMIT_IF_DEFAULT)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # Python files or modules of your own that register memory kinds, objectives, families, metrics
    # or sources (docs/how-to/extend.md); imported wherever this config is read
    plugins: tuple[Text, ...] = field(default=(), metadata=OMIT_IF_DEFAULT)


class ConfigError(ValueError):
    """A config field is unknown or has an invalid value; the message names it and the fix.

    Example:
        >>> jaxcomp.load_config("tiny", {"memory.ratio": 0})
        Traceback (most recent call last):
        jaxcomp.config.ConfigError: ...
    """


def to_dict(config: Any) -> Any:
    """A tree of dataclasses as JSON-able values, without `OMIT_IF_DEFAULT` fields at defaults."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kept = (f for f in dataclasses.fields(config) if not _left_out(f, getattr(config, f.name)))
        return {f.name: to_dict(getattr(config, f.name)) for f in kept}
    if isinstance(config, dict):
        return {k: to_dict(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(v) for v in config]
    return config


def _left_out(f: dataclasses.Field[Any], value: Any) -> bool:
    default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
    return f.metadata == OMIT_IF_DEFAULT and value == default


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
        try:
            flag = {"": True, "true": True, "false": False}
            values[name] = flag[text] if kind is bool else {"=": kind}[mark](text)
        except (KeyError, ValueError):
            raise ConfigError(f"config argument {part}: expected {name}={kind.__name__}") from None
    return types.SimpleNamespace(**values)


def suggestion(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
