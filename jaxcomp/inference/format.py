"""Files of an exported compressor's folder.

README.md            the compressor card
jaxcomp.json         how the pair is put together, of what, and what was measured
pair.safetensors     memory tokens, connector and markers, by their names in a checkpoint
adapter/             LoRA: a PEFT adapter of the base compressor, or
compressor/          trained fully: a Hugging Face folder
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxcomp.runtime import fields, strict_json
from jaxcomp.training.manifest import Weights

FORMAT, VERSION = "jaxcomp-compressor", 1
CARD, ABOUT, PAIR = "README.md", "jaxcomp.json", "pair.safetensors"
ADAPTER, FULL = "adapter", "compressor"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class ExportError(ValueError):
    """A folder cannot be exported to or loaded from; the message says which file and the fix."""


@dataclasses.dataclass(frozen=True)
class About:
    """What jaxcomp.json holds.

    Attributes:
        reader: what can read its memories (`load.readable_by`).
        compressor: the config hash of the run.
        connector_unit: of the decoder's embeddings when it was trained.
        config: the groups of fields that load needs.
        dtype: of the weights in the folder; a LoRA adapter's are float32.
    """

    name: str
    base: Weights
    decoder: Weights
    reader: str
    compressor: str
    connector_unit: float
    config: dict[str, Any]
    seeds: dict[str, int]
    summary: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    dtype: str = "float32"
    format: str = FORMAT
    version: int = VERSION


def read_about(place: Path) -> About:
    """jaxcomp.json of an exported folder. Raises ExportError where it is of another kind,
    ConfigError for a field that is missing or wrong."""
    file = place / ABOUT
    try:
        about = strict_json.read(file, dict)
    except (OSError, strict_json.JsonError) as error:
        raise ExportError(f"{file} cannot be read ({error})") from error
    found = about.get("format"), about.get("version")
    if found != (FORMAT, VERSION):
        raise ExportError(f"{file} is of {str(found)[:80]}; expected {(FORMAT, VERSION)}")
    return fields.read(About, about, str(file))
