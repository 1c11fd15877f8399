"""Measurements inside a network that claims refer to."""
