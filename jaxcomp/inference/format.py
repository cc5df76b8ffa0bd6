"""What stands in an exported compressor's folder.

README.md            the compressor card
jaxcomp.json         how the pair is put together, of what, and what was measured
pair.safetensors     memory tokens, connector and markers, by their names in a checkpoint
adapter/             LoRA: a PEFT adapter of the base compressor, or
compressor/          trained fully: a Hugging Face folder
"""

from __future__ import annotations

FORMAT, VERSION = "jaxcomp-compressor", 1
CARD, ABOUT, PAIR = "README.md", "jaxcomp.json", "pair.safetensors"
ADAPTER, FULL = "adapter", "compressor"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class ExportError(ValueError):
    """A folder cannot be exported to or loaded from; the message says which file and the mend."""
