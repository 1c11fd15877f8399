"""A stopping rule applied to the models of a group, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src.stopping.rule import StoppingRule, StoppingVerdict


class Best(NamedTuple):
    """A model's best epoch (from 1) so far: its measured value (smaller is better) and its weights by name."""

    value: float
    epoch: int
    weights: Mapping[str, Any]


@dataclass
class GroupStopping:
    """Decides after every epoch which models of a group stop."""

    rule: StoppingRule
    n_epochs: int
    """Epochs of the whole stage."""
    measure: Callable[[], Sequence[float]]
    """Measures the value of every model; called only after epochs that the rule measures."""
    weights: Callable[[], Sequence[Mapping[str, Any]]]
    """Copies the weights of every model; called only where the rule keeps the best."""
    best: dict[int, Best] = field(default_factory=dict)
    """Model -> its best epoch, where the rule keeps it."""

    def after_epoch(self, epoch: int, running: Sequence[int]) -> dict[int, StoppingVerdict]:
        """The models among `running` that stop after `epoch` (from 1)."""
        measurement = self.rule.measurement
        if measurement is None or (epoch % measurement.every and epoch < self.n_epochs):
            return {}
        values = [math.inf if math.isnan(value) else value for value in self.measure()]  # undefined is never the best
        if self.rule.keeps_best:
            improved = [m for m in running if m not in self.best or values[m] < self.best[m].value]
            weights = self.weights() if improved else []
            self.best |= {m: Best(values[m], epoch, weights[m]) for m in improved}
        verdicts = {m: self.rule.after_epoch(epoch, values[m], self._best_epoch(m)) for m in running}
        return {m: verdict for m, verdict in verdicts.items() if verdict is not None}

    def at_end(self, model: int) -> StoppingVerdict:
        """The verdict on a model that trained for its whole length."""
        return self.rule.at_end(self._best_epoch(model))

    def restored(self, model: int, verdict: StoppingVerdict) -> Mapping[str, Any] | None:
        """The weights that the verdict restores; None: the model keeps its own."""
        return None if verdict.best_epoch is None else self.best[model].weights

    def _best_epoch(self, model: int) -> int | None:
        return self.best[model].epoch if model in self.best else None
