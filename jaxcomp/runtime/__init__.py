"""What a run stands on: the mesh, processes, preemption, paths and buckets, caches."""
