"""When the models of a group stop before their length is used up: decided after every epoch, model by model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from src.stopping.config import ConvergenceStopping, EarlyStopping, StoppingConfig
from src.training.replicas import State
from src.training.result import Best, StoppedBy


@dataclass(frozen=True)
class Verdict:
    """One model's end: why, whether it converged, and the weights to go back to (None: as they are)."""

    stopped_by: StoppedBy
    converged: bool | None = None
    best_epoch: int | None = None
    restore: Mapping[str, Tensor] | None = None


@dataclass
class Rule:
    """Trains to the end of the length: `epochs` and `budget`."""

    n_models: int
    best: dict[int, Best] = field(default_factory=dict)
    """Model -> the best it was, where the rule goes back to it."""

    def after_epoch(self, epoch: int, running: Sequence[int]) -> dict[int, Verdict]:
        """The models among `running` that stop after `epoch` (from 1)."""
        del epoch, running
        return {}

    def final(self, model: int) -> Verdict:
        """The end of a model that used its whole length."""
        del model
        return Verdict("length")


@dataclass
class EarlyStoppingRule(Rule):
    """Stops a model whose monitored figure has not improved for `patience` epochs; its best weights come back.

    `monitor()`: the figure of every model, smaller is better. `states()`: copies of every model's weights.
    """

    patience: int = 1
    monitor: Callable[[], Sequence[float]] = field(kw_only=True)
    states: Callable[[], Sequence[State]] = field(kw_only=True)

    def after_epoch(self, epoch: int, running: Sequence[int]) -> dict[int, Verdict]:
        figures = self.monitor()
        states: Sequence[State] | None = None
        stopped = {}
        for model in running:
            figure = math.inf if math.isnan(figures[model]) else figures[model]  # undefined is worse than any
            if model not in self.best or figure < self.best[model].figure:
                states = states if states is not None else self.states()
                self.best[model] = Best(figure, epoch, states[model])
            elif epoch - self.best[model].epoch >= self.patience:
                stopped[model] = self._back("patience", model)
        return stopped

    def final(self, model: int) -> Verdict:
        return self._back("cap", model)

    def _back(self, why: StoppedBy, model: int) -> Verdict:
        best = self.best[model]
        return Verdict(why, best_epoch=best.epoch, restore=best.weights)


@dataclass
class ConvergenceRule(Rule):
    """Stops a model when its figure on its own training data is at most `tolerance`; at the cap it has not converged.

    The figure is asked for every `check_every` epochs, and after the last of `n_epochs`.
    """

    tolerance: float = 0.0
    check_every: int = 1
    n_epochs: int = field(kw_only=True)
    figure: Callable[[], Sequence[float]] = field(kw_only=True)

    def after_epoch(self, epoch: int, running: Sequence[int]) -> dict[int, Verdict]:
        if epoch % self.check_every and epoch < self.n_epochs:
            return {}
        figures = self.figure()
        return {m: Verdict("tolerance", converged=True) for m in running if figures[m] <= self.tolerance}

    def final(self, model: int) -> Verdict:
        del model
        return Verdict("cap", converged=False)


def make_rule(
    stopping: StoppingConfig,
    n_models: int,
    n_epochs: int,
    *,
    monitor: Callable[[], Sequence[float]],
    states: Callable[[], Sequence[State]],
    figure: Callable[[], Sequence[float]],
) -> Rule:
    """The rule of a stage of at most `n_epochs`; `monitor`, `states`, `figure` are asked only by rules that need them."""
    if isinstance(stopping, EarlyStopping):
        return EarlyStoppingRule(n_models, patience=stopping.patience, monitor=monitor, states=states)
    if isinstance(stopping, ConvergenceStopping):
        every = stopping.check_every
        return ConvergenceRule(
            n_models, tolerance=stopping.tolerance, check_every=every, n_epochs=n_epochs, figure=figure
        )
    return Rule(n_models)
