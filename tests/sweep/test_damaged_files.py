"""Every file of a sweep's folder x every damage x every command: one line with the file, or the file is written again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from src import cli, status, sync, worker
from src.sweep import __main__ as sweep
from src.tracking.record import Record
from tests.command import Command, Done

CELL = ["split.ratio=1", "split.size=40", "stopping.epochs=1", "seeds=1", "n_workers=1", "tracking=off", "sweep=s"]
GRID = [*CELL, "regimes=[sequential,combined]"]
SEARCH = [
    *(*CELL, "regimes=[sequential]", "search=random", "search.n_trials=1"),
    *("objective=sequential/val/union/accuracy", "optimizer.lr=interval(0.1,0.2)"),
]
CELL_FILES = ["cells/*/cell.json", "cells/*/sequential-0/result.json", "summary.json"]
QUEUE_FILES = ["queue.json", "study.journal", "processes/dead-1.json"]
READ_BY = {
    "status": [*QUEUE_FILES, "searches/*/search.json", "cells/*/cell.yaml"],
    "worker": [*QUEUE_FILES, "searches/*/search.json", "cells/*/cell.yaml"],
    "sync": [*CELL_FILES, "outbox/promised/0-killed.json", "outbox/0-waiting.json"],
    "sweep": [*CELL_FILES, "queue.json", "processes/dead-1.json"],
    "search": ["queue.json", "study.journal", "searches/*/search.json"],
}
"""The files that each command reads."""
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "garbage": lambda content: bytes(255 - byte for byte in content),
    "a list": lambda _: b"[]\n",
    "deleted": lambda _: None,
}
CASES = [
    (command, file, damage)
    for command, files in READ_BY.items()
    for file in files
    for damage in (
        ("truncated", "deleted") if command in ("sweep", "search") else DAMAGES
    )  # those two take seconds each
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid and a finished search of one sweep, with entries for MLflow and the entry of a killed process."""
    multirun = tmp_path_factory.mktemp("damaged") / "multirun"
    with pytest.MonkeyPatch.context() as patch:
        for words in (GRID, SEARCH):
            patch.setattr(sys, "argv", ["src/sweep.py", "-m", *words, f"multirun={multirun}"])
            cli.run(sweep.main)
    folder = multirun / "s"
    (cell,) = (path.parent for path in folder.glob("cells/*/combined-0"))
    entry = json.dumps({"schema": 1, "folder": str(cell.relative_to(folder))})
    for name in ("promised/0-killed", "0-waiting"):
        (folder / f"outbox/{name}.json").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"outbox/{name}.json").write_text(entry)
    process = {"id": "dead-1", "role": "worker", "host": "h", "pid": 1, "cell": None, "n_ended": 0}
    (folder / "processes/dead-1.json").write_text(json.dumps(process))
    return multirun


class Bin:
    """A tracker that takes everything."""

    def write(self, records: Sequence[Record]) -> int:
        return len(records)

    def close(self) -> None: ...


class Runner:
    """Runs the commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr("logging.raiseExceptions", False)  # handlers of other tests hold closed streams
        monkeypatch.setattr("src.tracking.sync.open_tracker", lambda *_: Bin())

    def __call__(self, name: str, multirun: Path) -> Done:
        if name in ("sweep", "search"):
            command = Command("sweep", sweep.main, self._monkeypatch, self._capsys)
            return command("-m", *(GRID if name == "sweep" else SEARCH), f"multirun={multirun}")
        words = {"status": [], "worker": ["parent=1"], "sync": ["tracking=local"]}[name]
        self._monkeypatch.setattr(sys, "argv", [f"src/{name}.py", "sweep=s", *words, f"multirun={multirun}"])
        mains: dict[str, Callable[[], int | None]] = {
            "status": status.main,
            "worker": worker.main,
            "sync": lambda: sync.main(sys.argv[1:]),
        }
        try:
            code = mains[name]() or 0
        except SystemExit as end:
            code = int(end.code or 0)
        output = self._capsys.readouterr()
        return Done(code, output.out, output.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.mark.parametrize(("name", "file", "damage"), CASES)
def test_a_damaged_file_is_named_in_one_line_or_written_again(
    name: str, file: str, damage: str, finished: Path, tmp_path: Path, run: Runner
) -> None:
    multirun = tmp_path / "multirun"
    shutil.copytree(finished, multirun)
    damaged = sorted((multirun / "s").glob(file))
    assert damaged, file
    for path in damaged:
        content = DAMAGES[damage](path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)
    done = run(name, multirun)
    assert "Traceback" not in done.err
    if done.code:
        lines = done.err.splitlines()
        assert any(path.name in line for line in lines for path in damaged) or "no such s" in lines[-1], done.err
    else:
        assert run(name, multirun).code == 0
