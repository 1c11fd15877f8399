"""A sweep with two devices per run: the metrics of one device up to rounding, each written once.

Batches that do not divide by two, a last batch of one, and a stopping rule that all processes must apply alike are included.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import compose
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.workers.device_group import torchrun
from src.sweep.workers.worker import work
from src.training.store.store import Store

WORDS = [
    "trainer=cpu",
    "split.sizes=[45,29]",  # 3 x 14 + 3 and 2 x 14 + 1
    "optimizer.batch_size=14",
    "stopping=convergence",
    "stopping.max_epochs=3",
    "stopping.tolerance=0.6",
    "tracking=off",
    "seeds=1",
    "sweep=s",
]


def bodies(multirun: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(multirun.glob("s/cells/*/*/result.json"))}


def test_runs_on_two_devices_have_the_metrics_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.sweep.workers.worker.StopRequest.listen", lambda _: None)  # pytest keeps its signals
    config = compose([*WORDS, f"multirun={tmp_path / 'two'}", "trainer.devices=2"])
    folder = SweepFolder(tmp_path / "two", "s")
    cell = resolve(config).hash
    with Process(folder, "sweep") as process:
        folder.write_queue(None)
        queue = WorkQueue(folder, process)
        queue.enqueue([(cell, Cell(config))], queue.parameters([Cell(config)]), alone=True)
        assert work(folder) == 1
        (trial,) = queue.trials()
        queue.close()
    assert trial.state.name == "COMPLETE", trial.user_attrs
    run_cell(resolve(compose([*WORDS, f"multirun={tmp_path / 'one'}"])))
    one, two = bodies(tmp_path / "one"), bodies(tmp_path / "two")
    assert one.keys() == two.keys() == {"sequential-0", "combined-0"}
    for name, a in one.items():
        b = two[name]
        assert a["run"] == b["run"], "devices are no part of a run's address"
        assert a["result"]["stages"] == b["result"]["stages"]
        assert a["result"]["cost"] == b["result"]["cost"]
        for metric, value in a["result"]["metrics"].items():
            assert b["result"]["metrics"][metric] == pytest.approx(value, abs=1e-4 if "loss" in metric else 1e-6), (
                metric
            )
        for key in a["provenance"]["stage_keys"]:
            mine, theirs = (Store(tmp_path / where / ".stages").get(key) for where in ("one", "two"))
            assert mine is not None
            assert theirs is not None
            for weight, tensor in mine.weights.items():
                assert float((tensor - theirs.weights[weight]).abs().max()) < 1e-5
            assert theirs.curves.train_loss == pytest.approx(mine.curves.train_loss, abs=1e-5)
    converged = {stage["converged"] for body in one.values() for stage in body["result"]["stages"]}
    assert converged == {True, False}, "some stages must converge, others reach the cap"
    written = [
        sorted(p.name for p in (tmp_path / where / "s/cells").rglob("*.*") if p.is_file()) for where in ("one", "two")
    ]
    assert set(written[1]) - set(written[0]) == {".lock", "cell.yaml"}
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize("way", ["hang", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_rank_that_hangs_or_dies_ends_the_run_within_a_minute(way: str) -> None:
    words = torchrun(2, "tests.training.dying_rank", [way])
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    printed, failed_at = [], None
    for line in process.stdout:
        printed.append(line)
        if "fails now" in line:
            failed_at = time.monotonic()
    assert process.wait() != 0
    assert failed_at is not None, "".join(printed)
    assert time.monotonic() - failed_at < 60
    if way == "hang":
        told = {rank for line in printed for rank in "01" if f"rank {rank} is told to train" in line}
        assert told == {"0", "1"}, "a decision may take longer than a step"
        assert any("Timed out" in line for line in printed)
