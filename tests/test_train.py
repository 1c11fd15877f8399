"""One run from the command line, and the same run on several devices.

Properties: the command trains, shows and names the run's folder, and does it once; its exit code is 0, 1 for a run that failed
and 2 for a mistake of the user's; two devices give the result of one up to rounding, batches that do not divide by two
and a last batch of one included, and all that only rank 0 writes is written once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import src.training.execute as execute_module
from src import entry, train
from src.compare import run_cell
from src.config import compose
from src.training.store import Store

PROJECT = Path(train.__file__).parent.parent
SMALL = ("split.size=60", "stopping.epochs=2", "tracking=off", "trainer=cpu")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Command:
    """``python -m src.train`` in this process, as `entry.run` starts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["src/train.py", *arguments])
        code = 0
        try:
            entry.run(train.main)
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = self._capsys.readouterr()
        return Done(code, said.out, said.err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def bodies(multirun: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(multirun.glob("*/cells/*/*/result.json"))]


def test_a_run_is_trained_shown_and_then_only_shown(command: Command, tmp_path: Path) -> None:
    words = ("regime=sequential", "seed=3", *SMALL, f"multirun={tmp_path}")
    first = command(*words)
    assert first.code == 0
    (body,) = bodies(tmp_path)
    assert (body["regime"], body["seed"]) == ("sequential", 3)
    metrics = body["result"]["metrics"]
    for name in ("d1", "d2", "union"):
        assert f"{metrics[f'test/{name}/accuracy']:.4f}" in first.out
    assert f"{metrics['forgetting']:+.4f}" in first.out
    assert "120 samples" in first.out
    folder = next(tmp_path.glob("*/cells/*/sequential-3"))
    assert f"written to {folder}" in first.out
    again = command(*words)
    assert again.code == 0
    assert f"done before, in {folder}" in again.out
    assert bodies(tmp_path) == [body]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("regime=sequental", "regime=sequental"),
        ("split.size=-3", "split.size"),
        ("optimizer.lrr=1", "optimizer.lrr"),
        ("split.size=5000", "split.size"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(word: str, key: str, command: Command, tmp_path: Path) -> None:
    done = command(*SMALL[1:], f"multirun={tmp_path}", word)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith(f"error: {key}")
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_says_why_and_where(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(execute_module, "fit", broken)
    done = command(*SMALL, f"multirun={tmp_path}")
    assert done.code == 1
    assert "RuntimeError: planted" in done.err
    (file,) = tmp_path.glob("*/cells/*/sequential-0/failed.json")
    assert str(file) in done.err
    assert json.loads(file.read_text())["error"] == "RuntimeError: planted"


def test_two_devices_give_the_result_of_one(tmp_path: Path) -> None:
    """45 = 3 x 14 + 3 and 29 = 2 x 14 + 1 samples; convergence and the curves need the ranks to agree after every epoch."""
    words = [
        "split.sizes=[45,29]",
        "optimizer.batch_size=14",
        "stopping=convergence",
        "stopping.max_epochs=3",
        "stopping.tolerance=0.6",
        "tracking=off",
        "loss=cross_entropy",
    ]
    two = subprocess.run(
        [sys.executable, "-m", "src.train", "trainer=ddp", "trainer.devices=2", f"multirun={tmp_path / 'two'}", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("written to") == 1, "one rank speaks"
    run_cell(compose(["trainer=cpu", f"multirun={tmp_path / 'one'}", *words], single_run=True))
    (a,), (b,) = bodies(tmp_path / "one"), bodies(tmp_path / "two")
    assert a["run"] == b["run"], "devices are no part of a run's address"
    assert a["result"]["stages"] == b["result"]["stages"]
    assert {stage["converged"] for stage in a["result"]["stages"]} == {True, False}, "the rule must have had a say"
    assert a["result"]["cost"] == b["result"]["cost"]
    for name, value in a["result"]["metrics"].items():
        if name.endswith("loss"):
            assert b["result"]["metrics"][name] == pytest.approx(value, abs=1e-4)
    for key in a["provenance"]["stage_keys"]:
        mine, theirs = (Store(tmp_path / folder / ".stages").get(key) for folder in ("one", "two"))
        assert mine is not None
        assert theirs is not None
        for name, tensor in mine.weights.items():
            assert float((tensor - theirs.weights[name]).abs().max()) < 1e-5
        assert theirs.curves.train_loss == pytest.approx(mine.curves.train_loss, abs=1e-5)
    written = [{path.name for path in (tmp_path / folder).rglob("*") if path.is_file()} for folder in ("one", "two")]
    assert {name for name in written[0] if not name[0].isdigit()} == {n for n in written[1] if not n[0].isdigit()}
