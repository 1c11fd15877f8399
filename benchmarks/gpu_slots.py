"""Several processes on one GPU (`trainer.slots`), with and without CUDA MPS: a table of benchmarks.gpu."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.harness import show
from benchmarks.windows import shown

START_SECONDS = 300
"""Upper limit for the start of all processes and for their windows."""
DAEMON = "nvidia-cuda-mps-control"


@contextmanager
def mps() -> Iterator[str | None]:
    """Runs the MPS daemon as this user, for processes that start inside; yields why it could not start, or None."""
    if shutil.which(DAEMON) is None:
        yield f"{DAEMON} is not installed"
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        with patch.dict(os.environ, places):
            started = subprocess.run([DAEMON, "-d"], capture_output=True, text=True)
            if started.returncode:
                yield " ".join((started.stdout + started.stderr).split()) or f"{DAEMON}: status {started.returncode}"
                return
            try:
                yield None
            finally:
                subprocess.run([DAEMON], input="quit\n", capture_output=True, text=True)


def print_processes(case: Any, images: Path, given: Mapping[str, str]) -> None:
    """The rates of several processes together, each with the largest group of the case."""
    cells = []
    for label, served in (("no", False), ("yes", True)):
        with mps() if served else _nothing() as problem:
            for count in map(int, given["workers"].split(",")):
                if served and (count == 1 or problem):
                    continue
                rates = _rates(case, images, given, count)
                cells.append([str(count), label, shown(rates)])
            if problem:
                cells.append(["", f"not measured: {problem}", ""])
    title = f"processes on one device, each with a group of {max(case.groups)}: {case.title}"
    show(title, ("processes", "CUDA MPS", "updates/s of all together"), cells)


@contextmanager
def _nothing() -> Iterator[str | None]:
    yield None


def _rates(case: Any, images: Path, given: Mapping[str, str], count: int) -> list[float]:
    """The sum over the processes of their rates, a value a round; they start each round together."""
    context = multiprocessing.get_context("spawn")
    out, barrier = context.Queue(), context.Barrier(count)
    workers = [
        context.Process(target=_work, args=(case, images, dict(given), barrier, out), daemon=True) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    rates = [out.get(timeout=START_SECONDS) for _ in workers]
    for worker in workers:
        worker.join()
    return [sum(own) for own in zip(*rates, strict=True)]


def _work(case: Any, images: Path, given: dict[str, str], barrier: Any, out: Any) -> None:
    from benchmarks.gpu import configured, laboratory, nodes_of, quiet
    from benchmarks.raw_loops import waiting
    from benchmarks.windows import WindowTimer
    from src.training.devices import device_of

    quiet()
    config, n = configured(case, images, given), max(case.groups)
    nodes, wait = nodes_of(config, n), waiting(device_of(config.trainer).torch_device)
    rates = []
    for _ in range(int(given["repeats"])):
        barrier.wait(START_SECONDS)
        timer = WindowTimer(float(given["warm_up"]), float(given["seconds"]), wait)
        rates.append(laboratory(config, nodes, timer)[0].rate)
    out.put(rates)
