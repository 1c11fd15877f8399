"""A run whose weights, losses, outputs or scores are not finite has diverged, wherever that first shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import src.training.run_files as run_files
from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import compose

WORDS = ("split.size=40", "seeds=2", "trainer=cpu", "tracking=off")


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.lr=1e18", "stopping.epochs=1"],  # weights stay finite, outputs do not
        ["optimizer.lr=1e38", "stopping.epochs=1"],
        ["optimizer.lr=1e15", "loss=mse", "stopping.epochs=1"],
        ["optimizer.lr=1e18", "stopping=early_stopping", "stopping.max_epochs=2"],
        ["optimizer.lr=1e18", "stopping=early_stopping", "stopping.monitor=accuracy", "stopping.max_epochs=2"],
        ["optimizer.lr=1e18", "trainer.replicas=1", "stopping.epochs=1"],
    ],
)
def test_a_run_of_an_absurd_rate_has_diverged_or_has_every_metric(words: list[str], tmp_path: Path) -> None:
    """Nothing in between: a finished run has no undefined loss or accuracy, a diverged one has none that is defined."""
    outcome = run_cell(resolve(compose([*WORDS, *words, f"multirun={tmp_path}"])))
    bodies = [json.loads(path.read_text()) for path in tmp_path.glob("*/cells/*/*/result.json")]
    assert len(bodies) == 4
    assert len(outcome.failures) == sum(body["status"] == "diverged" for body in bodies)
    for body in bodies:
        metrics = {
            name: v for name, v in body["result"]["metrics"].items() if name.split("/")[-1] in ("accuracy", "loss")
        }
        undefined = [name for name, value in metrics.items() if value is None]
        assert undefined == ([] if body["status"] == "finished" else list(metrics)), body["status"]
    if "stopping.epochs=1" in words:  # best weights of early stopping may be those before the overflow
        assert {body["status"] for body in bodies} == {"diverged"}, "finite but huge outputs count as diverged"


def test_outputs_that_are_infinite_on_test_samples_alone_are_a_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = run_files.score_stages

    def overflowing(config, stages, of, *more):  # type: ignore[no-untyped-def]
        rows = scored(config, stages, of, *more)
        if of == "test":
            rows[0]["d1/loss"] = None
        return rows

    monkeypatch.setattr(run_files, "score_stages", overflowing)
    run_cell(resolve(compose([*WORDS, "seeds=1", "stopping.epochs=1", "regimes=[combined]", f"multirun={tmp_path}"])))
    (body,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/cells/*/*/result.json"))
    assert body["status"] == "diverged"
    assert body["result"]["metrics"]["test/union/accuracy"] is None
