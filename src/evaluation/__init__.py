"""Metrics, accuracy matrix, FLOPs, drift and loss landscape."""
