"""`jaxcomp bench`: rates and ratios of this machine, measured in one run (docs/bench.md)."""
