"""When a stage ends: the rules by themselves on figures written here, and inside a fit.

Properties: patience counts epochs without improvement, equal is no improvement; the best weights come back, also at the cap;
convergence is asked every so many epochs and at the cap, and hitting the cap says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from src.training.replicas import State
from src.training.stopping import ConvergenceRule, EarlyStoppingRule, Verdict
from tests.training.cells import executed, tiny


class Watch:
    """One model whose weights are the number of the epoch."""

    def __init__(self, figures: Sequence[float]) -> None:
        self.figures, self.epoch = list(figures), 0

    def monitor(self) -> list[float]:
        return [self.figures[self.epoch - 1]]

    def states(self) -> list[State]:
        return [{"epoch": torch.tensor(self.epoch)}]


def ends(
    rule_of: Callable[[Watch], EarlyStoppingRule | ConvergenceRule], figures: Sequence[float]
) -> tuple[int, Verdict]:
    """The epoch after which the model stops, and its verdict."""
    watch = Watch(figures)
    rule = rule_of(watch)
    for watch.epoch in range(1, len(figures) + 1):
        stopped = rule.after_epoch(watch.epoch, [0])
        if stopped:
            return watch.epoch, stopped[0]
    return len(figures), rule.final(0)


def early(patience: int) -> Callable[[Watch], EarlyStoppingRule]:
    return lambda watch: EarlyStoppingRule(1, patience=patience, monitor=watch.monitor, states=watch.states)


NAN = float("nan")


@pytest.mark.parametrize(
    ("patience", "figures", "epoch", "why", "best"),
    [
        (1, [3, 2, 1, 2, 0], 4, "patience", 3),
        (2, [3, 2, 1, 2, 0], 5, "cap", 5),
        (2, [3, 2, 2, 2, 1], 4, "patience", 2),  # equal is no improvement
        (3, [1, 2, 3, 4, 0], 4, "patience", 1),
        (9, [5, 4, 3], 3, "cap", 3),
        (2, [NAN, 2, 1, NAN, NAN, 0], 5, "patience", 3),  # undefined is never the best, and does not hide what comes
        (2, [float("inf"), 1, 2, 2], 4, "patience", 2),
    ],
)
def test_patience(patience: int, figures: list[float], epoch: int, why: str, best: int) -> None:
    ended, verdict = ends(early(patience), figures)
    assert (ended, verdict.stopped_by, verdict.best_epoch, verdict.converged) == (epoch, why, best, None)
    assert verdict.restore is not None
    assert int(verdict.restore["epoch"]) == best


@pytest.mark.parametrize(
    ("every", "figures", "epoch", "converged"),
    [
        (1, [3, 1, 0.5], 2, True),
        (1, [3, 2, 1], 3, True),
        (1, [3, 2, 1.1], 3, False),
        (2, [0, 3, 0, 1, 0], 4, True),  # looked at after epochs 2 and 4 only
        (2, [0, 3, 0, 3, 1], 5, True),  # and after the last
        (7, [0, 0, 0], 3, True),
        (1, [NAN, NAN], 2, False),
    ],
)
def test_convergence(every: int, figures: list[float], epoch: int, converged: bool) -> None:
    def rule_of(watch: Watch) -> ConvergenceRule:
        return ConvergenceRule(1, tolerance=1, check_every=every, n_epochs=len(figures), figure=watch.monitor)

    ended, verdict = ends(rule_of, figures)
    assert (ended, verdict.converged) == (epoch, converged)
    assert verdict.stopped_by == ("tolerance" if converged else "cap")
    assert verdict.restore is None


@pytest.fixture(scope="module")
def converged() -> list[tuple[bool | None, str, int, float]]:
    """(converged, why, epochs, training loss at the end) of stages under a tolerance that some reach."""
    config = tiny("seeds=4", "stopping=convergence", "stopping.max_epochs=7", "stopping.tolerance=1.2")
    plan, execution = executed(config)
    found = []
    for key, result in execution.results.items():
        data = plan.nodes[key].data
        hidden, head = ((result.weights[f"{n}.weight"], result.weights[f"{n}.bias"]) for n in ("hidden_1", "head"))
        x = torch.cat([part.inputs() for part in data.parts]).flatten(1)
        out = (x @ hidden[0].T + hidden[1]).relu() @ head[0].T + head[1]
        loss = float(torch.nn.functional.cross_entropy(out, data.labels))
        found.append((result.ledger.converged, result.ledger.stopped_by, result.ledger.epochs, loss))
    return found


def test_converged_means_that_the_training_loss_is_under_the_tolerance(
    converged: list[tuple[bool | None, str, int, float]],
) -> None:
    assert {flag for flag, *_ in converged} == {True, False}, "the tolerance must divide the stages"
    for flag, why, epochs, loss in converged:
        assert flag == (loss <= 1.2 + 1e-5)
        assert why == ("tolerance" if flag else "cap")
        assert flag or epochs == 7
