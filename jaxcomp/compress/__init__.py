"""The compressor-decoder pair as a model: compressor, connector, decoder input."""
