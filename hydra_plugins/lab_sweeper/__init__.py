"""Hydra 1.3 finds plugins in this namespace only, by the module that defines them; the sweeper itself is elsewhere."""

from src.sweep import sweeper


class LabSweeper(sweeper.LabSweeper):
    """`hydra/sweeper=lab`: see `src.sweep.sweeper.LabSweeper`."""
