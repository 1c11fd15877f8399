"""Runs of another trainer become a sweep: from a CSV file, or from its script, driven stage by stage."""
