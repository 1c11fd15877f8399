"""Searches with the fake engine: their command line, their queue, and a worker in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from optuna.trial import FrozenTrial

from src.config.composing import GroupComposer
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import CommandLine
from src.sweep.processes import Process
from src.sweep.search.search import Search
from src.sweep.search.trials import TrialQueue
from src.sweep.search.work import make_search
from tests.sweep import fake_engine

ENGINE = fake_engine.__name__
LR = "optimizer.lr=tag(log,interval(1e-3,1))"
BASE = ["search=random", "search.n_trials=6", "objective=sequential/val/union/accuracy", "seeds=2", "sweep=s"]
OK = [*BASE, LR]
CUT = [*OK, "search.pruner=hyperband", "regimes=[sequential]"]


def line_of(*overrides: str) -> CommandLine:
    """Compose a search as `run_sweep` does; needs the fixture `hydra`."""
    follows = any("${" in override for override in overrides)
    loader = GlobalHydra.instance().config_loader()
    return CommandLine(overrides, GroupComposer(loader, resolve=not follows), loader, resolved=not follows)


def search_of(*overrides: str, multirun: Path) -> Search:
    return make_search(line_of(*BASE, f"multirun={multirun}", *overrides), fake_engine)[0]


@contextmanager
def opened(search: Search, multirun: Path, storage: str | None = None) -> Iterator[TrialQueue]:
    folder = SweepFolder(multirun, "s")
    search.save(folder)
    with Process(folder, "worker") as process:
        folder.write_queue(storage)
        queue = TrialQueue(folder, process, search.id, ENGINE)
        try:
            yield queue
        finally:
            queue.close()


def work(queue: TrialQueue, n_cells: int = 1000) -> None:
    """Run at most `n_cells` cells as a worker does."""
    for _ in range(n_cells):
        claim = queue.claim()
        if claim is None:
            return
        try:
            outcome = fake_engine.run_cell(fake_engine.resolve(queue.config_of(claim.trial)))
        except RuntimeError as error:
            queue.fail(claim, str(error))
        else:
            queue.tell(claim, outcome)


def run(search: Search, multirun: Path) -> list[FrozenTrial]:
    """The whole search with one worker; its trials."""
    with opened(search, multirun) as queue:
        work(queue)
        return queue.trials()


def reported(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [(t.user_attrs["point"], t.params, t.state.name, t.values) for t in trials]


def ran(multirun: Path) -> Counter[str]:
    """The runs that the fake engine made, with how often."""
    path = multirun / "s/ran.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line for line in lines if line.startswith("run"))
