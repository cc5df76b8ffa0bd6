"""Evaluations: every file is one, `jaxcomp eval --task=<its name>` (see `evals.evaluation`)."""
