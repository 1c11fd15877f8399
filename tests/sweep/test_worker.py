"""A worker runs its cells on the requested devices, returns them on request, and joins only a compatible sweep.

Queue, leases and processes are real; the engine counts, the list of GPUs is fake (tests/sweep/gpus.py).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from src.config import Config, compose
from src.errors import ConfigError, Interrupted
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell
from src.sweep.processes import Process
from src.sweep.queue.queue import WorkQueue
from src.sweep.workers.local import LocalWorkers
from src.sweep.workers.slurm import WorkerJob
from src.sweep.workers.worker import work
from tests.sweep import fake_engine
from tests.sweep.gpus import pretend

ENGINE = fake_engine.__name__
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore pytest's signal handlers, which a worker replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def queued(folder: SweepFolder, *overrides: str, n_cells: int) -> list[Config]:
    """Cells of 1, 2, ... epochs in the sweep's queue."""
    first = compose([f"multirun={folder.multirun}", "sweep=s", "seeds=1", *overrides])
    stopping = [dataclasses.replace(first.stopping, epochs=k + 1) for k in range(n_cells)]
    configs = [dataclasses.replace(first, stopping=one) for one in stopping]
    with Process(folder, "sweep") as process:
        folder.write_queue(None)
        queue = WorkQueue(folder, process)
        cells = [(fake_engine.resolve(config).hash, Cell(config)) for config in configs]
        queue.enqueue(cells, queue.parameters([cell for _, cell in cells]), alone=True)
        queue.close()
    return configs


def trials(folder: SweepFolder) -> list[FrozenTrial]:
    with Process(folder, "status") as process:
        queue = WorkQueue(folder, process)
        found = queue.trials()
        queue.close()
    return found


def diary(folder: SweepFolder) -> list[str]:
    path = folder.root / "ran.txt"
    return path.read_text().splitlines() if path.exists() else []


def results(folder: SweepFolder) -> list[Path]:
    return sorted(folder.root.glob("cells/*/*/result.json"))


def behave(folder: SweepFolder, **behaviour: object) -> None:
    (folder.multirun / "fake.json").write_text(json.dumps(behaviour))


def test_a_cell_that_finds_too_little_memory_is_tried_again_with_the_gpu_to_itself(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gpu,) = pretend(1, folder.multirun, monkeypatch)
    configs = queued(folder, "trainer.slots=2", n_cells=6)
    behave(folder, seconds=0.1, no_memory_once=[2], no_memory=[3])
    workers = [FORK.Process(target=work, args=(folder, None, ENGINE)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
        assert worker.exitcode == 0
    lines = diary(folder)
    assert all(line.split()[1] == gpu for line in lines if line.startswith("sees"))
    found = {trial.user_attrs["cell"]: trial for trial in trials(folder)}
    cells = [fake_engine.resolve(config).hash for config in configs]
    for epochs, cell in enumerate(cells, start=1):
        assert lines.count(f"cell {cell}") == (2 if epochs in (2, 3) else 1)
        assert found[cell].state.name == ("FAIL" if epochs == 3 else "COMPLETE")
        assert found[cell].user_attrs.get("whole_gpu", False) == (epochs in (2, 3))
        assert "attempt" not in found[cell].user_attrs, "no worker died of it"
    assert found[cells[2]].user_attrs["reason"] == "sequential-0: OutOfMemoryError: planted"
    for cell in cells[1:3]:
        begun = len(lines) - 1 - lines[::-1].index(f"cell {cell}")
        ended = len(lines) - 1 - lines[::-1].index(f"left {cell}")
        assert not any(line.startswith("cell") for line in lines[begun + 1 : ended]), "it has the GPU exclusively"


def test_a_worker_that_wakes_after_others_took_its_cell_over_writes_nothing(folder: SweepFolder) -> None:
    (config,) = queued(folder, "seeds=3", n_cells=1)
    behave(folder, seconds=0.2)
    slow, other = (FORK.Process(target=work, args=(folder, None, ENGINE)) for _ in range(2))
    slow.start()
    while not any(line.startswith("run ") for line in diary(folder)):
        time.sleep(0.01)
    os.kill(slow.pid or 0, signal.SIGSTOP)
    for lock in (*folder.processes.glob("*.lock"), *folder.root.glob("cells/*/.lock")):
        lock.unlink()  # as a file server that drops the locks of a silent host
    other.start()
    other.join(60)
    assert other.exitcode == 0
    os.kill(slow.pid or 0, signal.SIGCONT)
    slow.join(60)
    assert slow.exitcode == 0
    runs = [line for line in diary(folder) if line.startswith("run ")]
    assert sorted(runs) == sorted({f"run {path.parent.parent.name}/{path.parent.name}" for path in results(folder)})
    assert len(runs) == len(config.regimes) * 3
    assert [trial.state.name for trial in trials(folder)] == ["FAIL", "COMPLETE"]


def _job(folder: SweepFolder) -> None:
    job = WorkerJob("s", str(folder.multirun), 1, engine=ENGINE)

    def time_is_nearly_up(*_: object) -> None:
        again = job.checkpoint()
        (folder.multirun / "again.json").write_text(json.dumps(dataclasses.asdict(again.function)))
        os._exit(0)

    signal.signal(signal.SIGUSR2, time_is_nearly_up)
    job()


def test_a_job_at_its_time_limit_returns_its_cell_and_is_requeued(folder: SweepFolder) -> None:
    queued(folder, "seeds=3", n_cells=1)
    behave(folder, seconds=2)
    job = multiprocessing.get_context("spawn").Process(
        target=_job, args=(folder,)
    )  # a fork has no fork server of its own
    job.start()
    deadline = time.monotonic() + 600
    while not any(line.startswith("run") for line in diary(folder)):
        assert time.monotonic() < deadline, "it never ran"
        assert job.is_alive()
        time.sleep(0.05)
    assert job.pid is not None
    os.kill(job.pid, signal.SIGUSR2)
    job.join(60)
    (trial,) = trials(folder)
    assert trial.state.name == "WAITING", "the cell is returned to the queue"
    n_runs = sum(line.startswith("run") for line in diary(folder))
    assert 1 <= n_runs < 6
    assert not list(folder.processes.glob("*.json")), "no process is left"
    behave(folder)
    body = json.loads((folder.multirun / "again.json").read_text())
    WorkerJob(**body)()
    runs = [line for line in diary(folder) if line.startswith("run")]
    assert len(runs) == len(set(runs)) == 6
    assert [trial.state.name for trial in trials(folder)] == ["COMPLETE"]


@pytest.mark.parametrize("step", ["the modules that a run needs", "the data of a cell"])
def test_a_signal_ends_a_worker_that_still_loads(
    step: str, folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued(folder, n_cells=1)
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # its import is not interrupted: the step after it is

    def slow(_: Config) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    if step == "the data of a cell":
        monkeypatch.setattr(fake_engine, "resolve", slow)
    else:
        monkeypatch.setattr(fake_engine, "load", lambda: importlib.import_module("slow"))
    began = time.monotonic()
    assert work(folder, engine=ENGINE) == 0
    assert time.monotonic() - began < 30
    assert [trial.state.name for trial in trials(folder)] == ["WAITING"], "its cell is given back"


def test_a_signal_ends_a_command_that_waits_for_its_first_worker(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: None)

    def start(_: object) -> None:  # as long as the fork server loads its modules
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", start)
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    began = time.monotonic()
    with pytest.raises(Interrupted):
        LocalWorkers(folder, 1, ENGINE).keep_running(n_useful=1, n_ended=0)
    assert received == [signal.SIGINT], "its handler has counted it"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("changed", "output"),
    [
        ({"commit": "0123456789abcdef"}, "commit 0123456789ab (here "),
        ({"versions": {"torch": "1.0"}}, "torch 1.0 (here "),
    ],
)
def test_a_worker_of_other_code_is_refused_before_it_claims(
    changed: dict[str, object], output: str, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued(folder, n_cells=1)
    path = folder.root / "queue.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    monkeypatch.setattr("src.sweep.folder._commit", lambda: "fedcba9876543210")
    with pytest.raises(ConfigError) as refused:
        work(folder, engine=ENGINE)
    assert output in str(refused.value)
    assert [trial.state.name for trial in trials(folder)] == ["WAITING"]


def test_a_commands_own_worker_runs_after_a_commit_in_the_checkout(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued(folder, n_cells=1)
    path = folder.root / "queue.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0123456789abcdef"}))
    monkeypatch.setattr("src.sweep.folder._commit", lambda: "fedcba9876543210")
    assert work(folder, engine=ENGINE, parent=os.getppid()) == 1


def test_a_worker_in_a_folder_that_is_not_the_sweeps_is_refused_and_gives_the_cell_back(folder: SweepFolder) -> None:
    (config,) = queued(folder, n_cells=1)
    (fake_engine.resolve(config).folder / "cell.yaml").unlink()
    with pytest.raises(ConfigError, match=r"which the queue holds; share the command's folder"):
        work(folder, engine=ENGINE)
    assert [trial.state.name for trial in trials(folder)] == ["WAITING"]


def test_the_shared_folder_names_no_module_to_run(folder: SweepFolder) -> None:
    """Write access to the folder must not allow running code in a worker: the worker's command line names the engine."""
    queued(folder, n_cells=1)
    assert folder.read_queue().keys() == {"id", "storage", "commit", "versions"}


def test_a_sweep_that_is_not_here_is_named_with_those_that_are(folder: SweepFolder) -> None:
    queued(folder, n_cells=1)
    with pytest.raises(ConfigError, match=r"no such sweep under multirun=.*sweeps here: s"):
        work(SweepFolder(folder.multirun, "another"))
