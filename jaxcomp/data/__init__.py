"""Text; nothing about models.

`world.py` and `lexicon.py` are the controlled world; `sources.py` and `splits.py` documents from
files and TFDS; `spec.py`, `tokenizer.py` and `segments.py` tokens and cuts; `pieces.py`,
`blocks.py`, `packing.py` and `cache.py` what is tokenised ahead; `heldout.py` evaluation sets;
`pipeline.py` the batches. Most callers need only the names of `pipeline.__all__`.
"""
