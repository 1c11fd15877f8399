"""Stopping rules, one file each, and the lengths of stages."""
