"""The environment of a run: mesh, processes, preemption, paths, buckets, caches."""
