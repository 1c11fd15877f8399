"""Every file of a sweep's folder x every damage x every command, before it starts and while it runs.

Each is named in one line or written again, and the same command then completes the sweep. Commands and their workers run in
this process, because the start of a process takes longer than all that they do here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from src import cli, status, sync, worker
from src.config import Config
from src.errors import ConfigError
from src.sweep import __main__ as sweep
from src.sweep.folder import SweepFolder
from src.sweep.supervisor import LAUNCHERS
from src.sweep.workers.worker import work
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
TRAINS = ("sweep", "search")
"""They take seconds each."""
CASES = [
    pytest.param(command, file, damage, marks=pytest.mark.slow if command in TRAINS and damage != "truncated" else ())
    for command, files in READ_BY.items()
    for file in files
    for damage in DAMAGES
]

STRIKES = [("a worker starts", "deleted", ()), ("a run is written", "garbage", pytest.mark.slow)]
WHILE_RUNNING = [
    *(*CELL_FILES, "cells/*/cell.yaml", "queue.json", "study.journal", "processes/*.json"),
    *("outbox/promised/0-killed.json", "outbox/0-waiting.json", "searches/*/search.json"),
]
"""The files that are damaged while a command trains a run."""


class Here:
    """Workers that run in this process when the command starts them. A refusal ends one, as it would end its process."""

    detached = False
    on_start: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, folder: SweepFolder, config: Config, engine: str, search: str) -> None:
        del config
        self._folder, self._engine, self._search = folder, engine, search
        self._n_deaths = 0

    @property
    def hopeless(self) -> bool:
        return self._n_deaths > 1

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        del n_ended
        if not n_useful:
            return 0
        self.on_start()
        try:
            work(self._folder, self._search, self._engine, os.getppid())
        except ConfigError as error:
            self.log(0).parent.mkdir(exist_ok=True)
            self.log(0).write_text(f"error: {error}\n")
            self._n_deaths += 1
            return 1
        return 0

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        del seconds
        return True

    def log(self, slot: int) -> Path:
        return self._folder.logs / f"worker-{slot}.log"


def damage(folder: Path, file: str, kind: str) -> list[Path]:
    """Damages the files of a pattern; returns them."""
    paths = sorted(path for path in folder.glob(file) if path.is_file())
    for path in paths:
        content = DAMAGES[kind](path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)
    return paths


def results(folder: Path) -> dict[str, object]:
    found = {}
    for path in folder.glob("cells/*/*/result.json"):
        body = json.loads(path.read_text())
        found[f"{path.parent.parent.name}/{path.parent.name}"] = body["result"]
    return found


@pytest.fixture(scope="module", autouse=True)
def workers_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAUNCHERS, "local", Here)
        patch.setattr("src.sweep.supervisor.TICK_SECONDS", 0.01)
        patch.setattr("src.sweep.drawing.difference_maps", lambda *_, **__: None)
        patch.setattr("logging.raiseExceptions", False)  # handlers of other tests hold closed streams
        yield


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
        monkeypatch.setattr("src.sync.open_tracker", lambda *_: Bin())

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
        except ConfigError as error:  # which `cli.command` prints
            print(f"error: {error}", file=sys.stderr)
            code = 2
        output = self._capsys.readouterr()
        return Done(code, output.out, output.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.mark.parametrize(("name", "file", "kind"), CASES)
def test_a_damaged_file_is_named_in_one_line_or_written_again(
    name: str, file: str, kind: str, finished: Path, tmp_path: Path, run: Runner
) -> None:
    multirun = tmp_path / "multirun"
    shutil.copytree(finished, multirun)
    damaged = damage(multirun / "s", file, kind)
    assert damaged, file
    done = run(name, multirun)
    assert "Traceback" not in done.err
    if done.code:
        assert names_one_of(damaged, done), done.err
    else:
        assert run(name, multirun).code == 0


def names_one_of(paths: Sequence[Path], done: Done) -> bool:
    """Whether a line names one of the files, or the cell whose result is missing."""
    lines = done.err.splitlines()
    missing = [f"cell {path.parent.parent.name}" for path in paths if path.name == "result.json"]
    return any(word in line for line in lines for word in [*(path.name for path in paths), *missing])


@pytest.mark.parametrize(
    ("file", "moment", "kind"),
    [
        *(pytest.param(file, *strike, marks=mark) for file in WHILE_RUNNING for *strike, mark in STRIKES),
        ("study.journal", "a run is written", "deleted"),
    ],
)
def test_a_file_damaged_while_a_command_runs_is_named_or_written_again_and_no_result_is_lost(
    file: str, kind: str, moment: str, finished: Path, tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    multirun = tmp_path / "multirun"
    shutil.copytree(finished, multirun)
    whole = results(multirun / "s")
    (lacking,) = (multirun / "s").glob("cells/*/combined-0")
    shutil.rmtree(lacking)
    file = file.replace("cells/*", f"cells/{lacking.parent.name}")
    damaged: list[Path] = []

    def strike(*_: object) -> None:
        if not damaged:
            damaged.extend(damage(multirun / "s", file, kind))
            assert damaged, file

    if moment == "a worker starts":
        monkeypatch.setattr(Here, "on_start", strike)
    else:
        monkeypatch.setattr("src.sweep.workers.worker.WorkerControl.on_run", strike)
    done = run("sweep", multirun)
    assert damaged
    assert "Traceback" not in done.err
    assert not done.code or names_one_of(damaged, done), done.err
    again = run("sweep", multirun)
    assert again.code == 0, again.err
    assert results(multirun / "s") == whole


def test_a_folder_keeps_its_identity_when_queue_json_is_lost(tmp_path: Path) -> None:
    """A study in a database serves one folder, and recognises it by the id."""
    folder = SweepFolder(tmp_path, "s")
    first = folder.write_queue("postgresql://h/d")
    (folder.root / "queue.json").unlink()
    assert folder.write_queue("postgresql://h/d") == first
    (folder.root / "queue.id").write_text("\x00garbage")
    (folder.root / "queue.json").unlink()
    assert folder.write_queue("postgresql://h/d")["id"] != first["id"]
