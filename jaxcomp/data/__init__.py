"""Text; nothing about models.

`world.py`, `facts.py` and `lexicon.py` are the controlled world; `sources.py`, `documents.py`,
`readers.py`, `parquet.py`, `large.py`, `tfds.py` and `splits.py` documents from files and TFDS;
`spec.py`, `tokenizer.py` and `segments.py` tokens and cuts; `examples.py`, `prepare.py`,
`keeping.py` and `packing.py` what is tokenised ahead; `qa.py` and `qa_batches.py` questions;
`eval_sets.py` evaluation sets; `stream.py` and `batches.py` the batches. Most callers need only the
names of `batches.__all__`.
"""
