"""One run: pretraining a base, adapting the decoder, training a compressor."""
