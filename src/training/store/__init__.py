"""Trained stages on disk, shared by all sweeps of a multirun folder."""
