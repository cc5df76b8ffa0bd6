"""jaxcomp: train, evaluate and dissect soft context compressors in JAX."""
