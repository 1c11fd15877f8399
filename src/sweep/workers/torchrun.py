"""A cell whose runs want several devices: one process for each, started by torchrun, around the same engine.

The worker starts the group and waits for it; every process of the group runs the cell that the worker has claimed.
(Lightning would start its further processes from the command line again, which here is the worker's.)
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
from dataclasses import dataclass
from pathlib import Path

from src.config import Config
from src.config.serialize import config_text, read_config
from src.errors import Interrupted
from src.io import write_atomically
from src.sweep.engine import Engine, load_engine
from src.sweep.folder import SweepFolder
from src.sweep.processes import locked
from src.training.control import RunControl

POLL_SECONDS = 0.2
WATCH_SECONDS = 1.0
END_SECONDS = 30.0
"""A group that is told to end has this long to do so."""

log = logging.getLogger(__name__)


class GroupFailed(Exception):
    """The group ended without a result; the message is the error of the process that failed first."""


@dataclass(frozen=True)
class GroupOutcome:
    """See `src.sweep.engine.Outcome`. A group has its devices to itself: more memory is not to be had."""

    value: float | None
    failures: tuple[str, ...]
    out_of_memory: bool = False


def torchrun(n: int, module: str, arguments: Sequence[str]) -> list[str]:
    """The command that starts ``python -m module arguments`` once for each of `n` devices, meeting at a free port."""
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    return [sys.executable, *agent, "-m", module, *arguments]


def run_group(
    folder: SweepFolder, config: Config, n: int, member: str, visible: str | None, stop: Callable[[], bool]
) -> GroupOutcome:
    """Runs the cell `config` on `n` devices and returns what became of it.

    `member`: the id of this process in the sweep, at whose death the group ends. `visible`: the GPUs that the group sees.
    Raises Interrupted when the group left the cell because `stop` said so, and GroupFailed with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="group-") as scratch:
        # the cell as it was claimed: its folder may list more runs, for another command
        (Path(scratch) / "cell.yaml").write_text(config_text(config), encoding="utf-8")
        words = {"sweep": folder.sweep, "multirun": folder.multirun.absolute(), "worker": member, "scratch": scratch}
        command = torchrun(n, "src.sweep.workers.rank", [f"{key}={value}" for key, value in words.items()])
        environment = dict(os.environ) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            while process.poll() is None:
                if stop():
                    (Path(scratch) / "stop").touch()
                time.sleep(POLL_SECONDS)
        finally:
            _end(process)
        return _outcome(Path(scratch), n)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a group that still runs: the agent ends its processes when it is told to, and they end when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _outcome(scratch: Path, n: int) -> GroupOutcome:
    errors = sorted(scratch.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        raise GroupFailed(errors[0].read_text(encoding="utf-8"))
    if not (scratch / "outcome.json").exists():
        raise GroupFailed(f"one of its {n} processes was killed (out of memory?); the worker's log has the rest")
    body = json.loads((scratch / "outcome.json").read_text(encoding="utf-8"))
    if body["interrupted"]:
        raise Interrupted
    return GroupOutcome(body["value"], tuple(body["failures"]))


# ------------------------------------------------------------------------------------------------ inside the group


class GroupControl(RunControl):
    """Leaves the cell when the file `stop` exists, in all processes of the group together."""

    def __init__(self, stop: Path) -> None:
        self._stop = stop

    def on_run(self, folder: Path) -> None:
        log.info("finished %s", folder.name)
        if self._stop.exists():
            raise Interrupted

    def on_stage(self) -> None:
        if _agreed(self._stop.exists):
            raise Interrupted


def run_rank(folder: SweepFolder, rank: int, scratch: Path) -> int:
    """The part of process `rank` in the cell ``scratch/cell.yaml``, what became of it being left in `scratch`.

    Returns the exit status.
    """
    body: dict[str, object] = {"interrupted": False, "value": None, "failures": []}

    try:
        engine: Engine = load_engine(folder.read_queue()["engine"])
        cell = engine.resolve(read_config(scratch / "cell.yaml", folder.multirun))
        outcome = engine.run_cell(cell, GroupControl(scratch / "stop"))
        body |= {"value": outcome.value, "failures": list(outcome.failures)}
    except Interrupted:
        body["interrupted"] = True
    except Exception as error:
        traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        write_atomically(scratch / f"error-{rank}", line, durable=False)
        return 1
    if rank == 0:
        write_atomically(scratch / "outcome.json", json.dumps(body), durable=False)
    return 0


def _agreed(asked: Callable[[], bool]) -> bool:
    """What the first process answers, in all of them: they leave a cell together or not at all."""
    import torch.distributed

    answer = [asked()]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def end_with_worker(life: Path) -> None:
    """From now on ends this process, wherever it is, when the worker with that lock or torchrun itself is dead."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent and locked(life):
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-worker", daemon=True).start()
