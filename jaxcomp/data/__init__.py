"""Text; nothing about models.

`world.py` and `lexicon.py` are the controlled world; `sources.py` and `splits.py` documents from
files and TFDS; `spec.py`, `tokenizer.py` and `segments.py` tokens and cuts; `examples.py`,
`prepare.py`, `packing.py` and `cache.py` what is tokenised ahead; `eval_sets.py` evaluation sets;
`batches.py` the batches. Most callers need only the names of `batches.__all__`.
"""
