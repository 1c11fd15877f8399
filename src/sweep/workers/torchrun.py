"""Runs a cell on several devices: torchrun starts one process of `src.sweep.workers.rank` for each.

Lightning would start its further processes from this process's command line, which is the worker's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from src.cells.outcome import CellOutcome
from src.config import Config
from src.config.serialize import config_text
from src.errors import ClaimLost, Interrupted
from src.io import write_atomically

POLL_SECONDS = 0.2
RUNNING = "running"
"""The file of a group that has loaded its modules. Before, nothing of it has to be saved."""
QUESTION, ANSWER, LOST = "question", "answer", "lost"
"""Files by which the group's first process asks its worker whether the cell is still theirs, and an answer."""
END_SECONDS = 30.0
"""A group that is terminated has this long to exit."""


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
        command = torchrun(n, "src.sweep.workers.rank", arguments)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
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
