"""Updates recorded as CUDA graphs, and when they are."""
