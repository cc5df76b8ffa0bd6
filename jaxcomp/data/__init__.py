"""Text, tokenizers, splits and batches; independent of models.

`sources.py` is the registry of `data.source`. `world.py`, `facts.py` and `lexicon.py` are the
controlled world, `people.py` and `people_words.py` the people world, `draw.py` what both share;
`readers.py`, `loading.py`, `documents.py`, `tfds.py` and `splits.py` documents; `qa.py` questions;
`spec.py`, `tokenizer.py`, `segments.py` and `sentences.py` tokens and cuts; `examples.py`,
`corpus.py` and `world_corpus.py` examples; `prepare.py`, `blocks.py`, `packing.py` and
`parallel.py` what is tokenised ahead; `eval_sets.py` held-out sets; `stream.py` and `batches.py`
the batches. Most callers need only the names of `batches.__all__`.
"""
