"""A trained network leaves its sweep: a program, weights, a model card, a registered model."""
