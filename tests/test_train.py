"""One run from the command line.

Properties: the command trains, shows and names the run's folder, and does it once; its exit code is 0, 1 for a run that failed
and 2 for a mistake of the user's; a run on several devices is started once for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import src.training.execute as execute_module
from src import train
from tests.command import Command

SMALL = ("split.size=60", "stopping.epochs=2", "tracking=off", "trainer=cpu")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command("train", train.main, monkeypatch, capsys)


def bodies(multirun: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(multirun.glob("*/cells/*/*/result.json"))]


def test_a_run_is_trained_shown_and_then_only_shown(command: Command, tmp_path: Path) -> None:
    words = ("regime=sequential", "seed=3", *SMALL, f"multirun={tmp_path}", "storage=postgresql://lab:geheim@host/db")
    first = command(*words)
    assert first.code == 0
    (body,) = bodies(tmp_path)
    assert (body["regime"], body["seed"]) == ("sequential", 3)
    metrics = body["result"]["metrics"]
    for name in ("d1", "d2", "union"):
        assert f"{100 * metrics[f'test/{name}/accuracy']:.1f} %" in first.out
    assert f"forgetting of earlier data sets: {100 * metrics['forgetting']:+.1f} points" in first.out
    assert "120 samples" in first.out
    folder = next(tmp_path.glob("*/cells/*/sequential-3"))
    assert f"written to {folder}" in first.out
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]
    again = command(*words)
    assert again.code == 0
    assert f"finished earlier, in {folder}" in again.out
    assert bodies(tmp_path) == [body]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("regime=sequental", "regime=sequental"),
        ("split.size=-3", "split.size"),
        ("optimizer.lrr=1", "optimizer.lrr"),
        ("split.size=5000", "split.size"),
        ("seeds=3", "seeds=3: is of a comparison"),
        ("n_workers=2", "n_workers=2: is of a sweep"),
        ("+n_workers=2", "n_workers=2: is a setting of every command; write it without +"),
        ("seeding.max=9", "seeding.max=9: is of a sweep"),
        ("dry_run=true", "dry_run=true: is of a sweep"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(word: str, key: str, command: Command, tmp_path: Path) -> None:
    done = command(*SMALL[1:], f"multirun={tmp_path}", word)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith(f"error: {key}")
    assert not list(tmp_path.iterdir())


def test_a_failed_run_reports_the_reason_and_the_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(execute_module, "fit", broken)
    done = command(*SMALL, f"multirun={tmp_path}")
    assert done.code == 1
    assert "RuntimeError: planted" in done.err
    (file,) = tmp_path.glob("*/cells/*/sequential-0/failed.json")
    assert str(file) in done.err
    assert json.loads(file.read_text())["error"] == "RuntimeError: planted"


def test_a_run_on_several_devices_starts_itself_under_torchrun(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """tests/test_devices.py tests the processes themselves."""
    started: list[list[str]] = []

    def call(words: list[str], *, env: dict[str, str]) -> int:
        assert env["OMP_NUM_THREADS"] == "1"
        started.append(words)
        return 3

    monkeypatch.setenv("WORLD_SIZE", "1")  # a shell's; it was answered by the advice to use src.train, which this is
    monkeypatch.setattr(train.subprocess, "call", call)
    words = [*SMALL, "trainer.devices=2", f"multirun={tmp_path}"]
    assert command(*words).code == 3, "its exit status is the group's"
    ((python, *rest),) = started
    assert python == sys.executable
    assert rest == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "src.train", *words]
    assert not list(tmp_path.iterdir()), "the parent trains nothing itself"
