"""Stopping rules: alone on given values, and inside a fit.

Properties: patience counts epochs without improvement, equal is no improvement; the best weights are restored, also at the cap;
convergence is checked periodically and at the cap, and reaching the cap is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from src.stopping.convergence import ConvergenceStopping
from src.stopping.early_stopping import EarlyStopping
from src.stopping.rule import GroupStopping, StoppingRule, StoppingVerdict
from tests.training.cells import executed, tiny


def ends(rule: StoppingRule, values: Sequence[float]) -> tuple[int, StoppingVerdict, int | None]:
    """The epoch after which one model stops, its verdict, and the epoch whose weights are restored."""
    epoch = 0

    def weights() -> list[dict[str, int]]:
        return [{"epoch": epoch}]

    def restored(verdict: StoppingVerdict) -> int | None:
        found = group.restored(0, verdict)
        return None if found is None else found["epoch"]

    group = GroupStopping(rule, len(values), lambda: [values[epoch - 1]], weights)
    for epoch in range(1, len(values) + 1):
        stopped = group.after_epoch(epoch, [0])
        if stopped:
            return epoch, stopped[0], restored(stopped[0])
    verdict = group.at_full_length(0)
    return len(values), verdict, restored(verdict)


NAN = float("nan")


@pytest.mark.parametrize(
    ("patience", "values", "epoch", "why", "best"),
    [
        (1, [3, 2, 1, 2, 0], 4, "patience", 3),
        (2, [3, 2, 1, 2, 0], 5, "cap", 5),
        (2, [3, 2, 2, 2, 1], 4, "patience", 2),  # equal is no improvement
        (3, [1, 2, 3, 4, 0], 4, "patience", 1),
        (9, [5, 4, 3], 3, "cap", 3),
        (2, [NAN, 2, 1, NAN, NAN, 0], 5, "patience", 3),  # undefined is never the best, and later values still count
        (2, [float("inf"), 1, 2, 2], 4, "patience", 2),
    ],
)
def test_patience(patience: int, values: list[float], epoch: int, why: str, best: int) -> None:
    rule = EarlyStopping(name="early_stopping", max_epochs=9, patience=patience, monitor="loss", monitor_on="own")
    ended, verdict, restored = ends(rule, values)
    assert (ended, verdict.stopped_by, verdict.best_epoch, verdict.converged) == (epoch, why, best, None)
    assert restored == best


@pytest.mark.parametrize(
    ("every", "values", "epoch", "converged"),
    [
        (1, [3, 1, 0.5], 2, True),
        (1, [3, 2, 1], 3, True),
        (1, [3, 2, 1.1], 3, False),
        (2, [0, 3, 0, 1, 0], 4, True),  # measured after epochs 2 and 4 only
        (2, [0, 3, 0, 3, 1], 5, True),  # and after the last
        (7, [0, 0, 0], 3, True),
        (1, [NAN, NAN], 2, False),
    ],
)
def test_convergence(every: int, values: list[float], epoch: int, converged: bool) -> None:
    rule = ConvergenceStopping(name="convergence", quantity="loss", tolerance=1, max_epochs=9, check_every=every)
    ended, verdict, restored = ends(rule, values)
    assert (ended, verdict.converged, restored) == (epoch, converged, None)
    assert verdict.stopped_by == ("tolerance" if converged else "cap")


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
