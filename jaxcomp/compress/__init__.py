"""The pair as a model: a compressor, a connector and the decoder that reads what they wrote."""
