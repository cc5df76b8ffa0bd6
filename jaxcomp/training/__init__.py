"""One run: pretraining, decoder adaptation, compressor training."""
