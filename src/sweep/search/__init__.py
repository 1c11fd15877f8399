"""Searches in place of grids: samplers, pruning, and the boundary between two winners."""
