"""One process of a group that runs a cell on several devices.   python -m src.sweep.workers.rank

A worker starts it with torchrun, once for each device. Users write `trainer.devices=2` instead.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from src.cli import command, fail
from src.config.serialize import read_config
from src.errors import ClaimLost, Interrupted, one_line
from src.io import write_atomically
from src.sweep.engine import load_engine
from src.sweep.processes import is_locked
from src.sweep.workers.torchrun import ANSWER, LOST, QUESTION, RUNNING
from src.training.control import RunControl

WATCH_SECONDS = 1.0
ANSWER_SECONDS = 0.02

log = logging.getLogger(__name__)


def main() -> int:
    """Runs this process's part of the cell in a group's folder, which the command line names as `run_group` does."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if "RANK" not in os.environ:  # `command` has removed one that torchrun did not set
        fail("a sweep's worker starts this module; use python -m src.sweep trainer.devices=2")
    scratch, multirun, engine, worker_lock = sys.argv[1:]
    exit_with(Path(worker_lock))
    return run_rank(Path(multirun), engine, int(os.environ["RANK"]), Path(scratch))


class RankControl(RunControl):
    """Leaves the cell when the file `stop` exists in `scratch`, in all processes of the group together."""

    def __init__(self, scratch: Path, rank: int) -> None:
        self._scratch, self._stop = scratch, scratch / "stop"
        self._rank = rank

    def before_run(self) -> None:
        if self._rank:  # the first process writes
            return
        answer = self._scratch / ANSWER
        answer.unlink(missing_ok=True)
        (self._scratch / QUESTION).touch()
        while not answer.exists():  # a worker that dies ends this process: see `exit_with`
            time.sleep(ANSWER_SECONDS)
        if answer.read_text() == LOST:
            raise ClaimLost

    def on_run(self, folder: Path) -> None:
        log.info("finished %s/%s", folder.parent.name, folder.name)
        if self._stop.exists():
            raise Interrupted

    def on_stage(self) -> None:
        if _broadcast(self._stop.exists):
            raise Interrupted


def run_rank(multirun: Path, engine: str, rank: int, scratch: Path) -> int:
    """Runs the part of process `rank` in the cell ``scratch/cell.yaml`` and writes its outcome to `scratch`.

    Returns the exit status.
    """
    body: dict[str, object] = {"interrupted": False, "value": None, "failures": []}

    try:
        runner = load_engine(engine)
        runner.load()
        if rank == 0:
            (scratch / RUNNING).touch()
        cell = runner.resolve(read_config(scratch / "cell.yaml", multirun))
        outcome = runner.run_cell(cell, RankControl(scratch, rank))
        body |= {"value": outcome.value, "failures": list(outcome.failures)}
    except Interrupted:
        body["interrupted"] = True
    except Exception as error:
        traceback.print_exc()
        write_atomically(scratch / f"error-{rank}", one_line(error), durable=False)
        return 1
    if rank == 0:
        write_atomically(scratch / "outcome.json", json.dumps(body), durable=False)
    return 0


def _broadcast(question: Callable[[], bool]) -> bool:
    """The answer of process 0, in all processes: they leave a cell together or not at all."""
    import torch.distributed

    from src.training.devices import broadcast_decision

    return broadcast_decision(question()) if torch.distributed.is_initialized() else question()


def exit_with(worker_lock: Path) -> None:
    """Starts a thread that ends this process when the worker with that lock, or torchrun, is dead."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent and is_locked(worker_lock):
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-worker", daemon=True).start()


if __name__ == "__main__":
    command(main, started_by_torchrun=True)
