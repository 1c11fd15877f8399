"""A cell on several devices: torchrun starts one process of this module for each. Users write `trainer.devices=2`.

The worker's side is `run_group`, the processes' side is `main`; they talk by files in a folder of the group. Lightning
would start its further processes from this process's command line, which is the worker's.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from src.cells.outcome import CellOutcome
from src.cli import command, fail
from src.config import Config
from src.config.serialize import config_text, read_config
from src.errors import ClaimLost, Interrupted, one_line
from src.io import write_atomically
from src.sweep.engine import load_engine
from src.sweep.processes import is_locked
from src.training.control import RunControl

POLL_SECONDS = 0.2
RUNNING = "running"
"""The file of a group that has loaded its modules. Before, nothing of it has to be saved."""
QUESTION, ANSWER, LOST = "question", "answer", "lost"
"""Files by which the group's first process asks its worker whether the cell is still theirs, and an answer."""
END_SECONDS = 30.0
"""A group that is terminated has this long to exit."""
WATCH_SECONDS = 1.0
ANSWER_SECONDS = 0.02

log = logging.getLogger(__name__)


class GroupFailed(Exception):
    """The group ended without an outcome; the message is the error of the process that failed first."""


def torchrun(n: int, module: str, arguments: Sequence[str]) -> list[str]:
    """The command that starts ``python -m module arguments`` once for each of `n` devices, on a free port."""
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    return [sys.executable, *agent, "-m", module, *arguments]


def run_group(
    config: Config,
    engine: str,
    worker_lock: Path,
    visible: str | None,
    stop: Callable[[], bool],
    owns: Callable[[], bool],
) -> CellOutcome:
    """Runs the cell `config` on its `trainer.devices` and returns the outcome.

    `worker_lock`: the lock that this process holds; the group ends when it is released. `visible`: the GPUs of the
    group. `owns`: whether no other worker has taken the cell over; the group asks before it writes a run. Raises
    Interrupted after `stop` returned True and the group has left the cell, ClaimLost where it left because of `owns`,
    and GroupFailed with the reason.
    """
    n, lost = config.trainer.devices, False
    with tempfile.TemporaryDirectory(prefix="group-") as name:
        scratch = Path(name)
        # the cell as it was claimed: the file in its folder may list more runs, of another command
        (scratch / "cell.yaml").write_text(config_text(config), encoding="utf-8")
        environment = dict(os.environ) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
        arguments = [name, str(Path(config.multirun).absolute()), engine, str(worker_lock.absolute())]
        words = torchrun(n, "src.sweep.workers.device_group", arguments)
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            while process.poll() is None:
                if stop():
                    if not (scratch / RUNNING).exists():
                        raise Interrupted
                    (scratch / "stop").touch()
                lost |= answer_is_lost(scratch, owns)
                time.sleep(POLL_SECONDS)
        finally:
            _terminate(process)
        if lost:
            raise ClaimLost
        return read_outcome(scratch, n)


def answer_is_lost(scratch: Path, owns: Callable[[], bool]) -> bool:
    """Answers a question of the group in `scratch`, if there is one; returns whether the cell is lost."""
    if not (question := scratch / QUESTION).exists():
        return False
    question.unlink()
    lost = not owns()
    write_atomically(scratch / ANSWER, LOST if lost else "", durable=False)
    return lost


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Terminate a running group. Torchrun ends its processes; they also end when torchrun has died."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def read_outcome(scratch: Path, n: int) -> CellOutcome:
    """The outcome that the `n` processes of a group left in `scratch`; see `run_group`.

    A group has its devices to itself, so it never asks for more memory.
    """
    errors = sorted(scratch.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        raise GroupFailed(errors[0].read_text(encoding="utf-8"))
    if not (scratch / "outcome.json").exists():
        raise GroupFailed(f"one of its {n} processes was killed (out of memory?); see the worker's log")
    body = json.loads((scratch / "outcome.json").read_text(encoding="utf-8"))
    if body["interrupted"]:
        raise Interrupted
    return CellOutcome(body["value"], tuple(body["failures"]))


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
