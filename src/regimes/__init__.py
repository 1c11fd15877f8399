"""Regimes: short functions that turn a stream of data sets into stages."""
