"""A sweep as a user starts it, its processes, and its files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Sweep:
    """``python -m src.sweep -m`` with the overrides `words`, under `name` in the folder `multirun`."""

    multirun: Path
    words: Sequence[str]
    name: str = "s"

    @property
    def folder(self) -> Path:
        """``multirun/<sweep>``."""
        return self.multirun / self.name

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``python -m src.sweep``."""
        return ["-m", *self.words, f"sweep={self.name}", f"multirun={self.multirun}"]

    def start(self, *, before: str = "", around: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start the command as the leader of a new session; its output goes to a file next to `multirun`.

        `before`: shell commands in front of it, ``ulimit -v 1000000``; `around`: a program that executes all of it.
        """
        self.multirun.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "src.sweep", *self.arguments]
        command = ["bash", "-c", f'{before}; exec "$@"', "bash", *words] if before else words
        command = [*around, *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.output.unlink(missing_ok=True)
        with self.output.open("ab") as output:
            return subprocess.Popen(
                command, cwd=PROJECT, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def run(self, *, before: str = "") -> int:
        """Run the command to its end; return its exit status."""
        with self.start(before=before) as process:
            return process.wait()

    @property
    def output(self) -> Path:
        """Path of the latest command's output."""
        return self.multirun.parent / f"{self.multirun.name}-{self.name}.txt"

    def output_text(self) -> str:
        """The latest output as text, without terminal colours."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def workers(self) -> list[int]:
        """The process ids of its workers, those of killed parents included: whose output goes to the sweep's logs."""
        logs, found = f"{self.folder.resolve()}/logs/", []
        for stdout in Path("/proc").glob("[0-9]*/fd/1"):
            with contextlib.suppress(OSError):  # the process has ended meanwhile, or is another user's
                if os.readlink(stdout).startswith(logs):
                    found.append(int(stdout.parts[2]))
        return found

    def n_trained(self) -> int:
        """Number of runs that its workers finished, according to their logs."""
        logs = (path.read_text(errors="replace") for path in (self.folder / "logs").glob("*.log"))
        return sum(log.count(" INFO finished ") for log in logs)

    def results(self) -> dict[str, dict[str, Any]]:
        """Every result.json, by ``cell/run``. Raises ValueError if one is damaged."""
        found = sorted(self.folder.glob("cells/*/*/result.json"))
        return {f"{path.parent.parent.name}/{path.parent.name}": json.loads(path.read_text()) for path in found}


def kill(pid: int) -> bool:
    """Send kill -9; return whether the process existed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_until(process: subprocess.Popen[bytes], moment: float) -> bool:
    """Wait for the end of the process until `moment` of the monotonic clock; return whether it has ended."""
    try:
        process.wait(max(0.0, moment - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def same_results(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Differences between the `result` parts of two sweeps: missing runs and different bits."""
    problems = [f"{run}: only on one side" for run in sorted(one.keys() ^ other.keys())]
    for run in sorted(one.keys() & other.keys()):
        bits = [json.dumps(side[run]["result"], sort_keys=True) for side in (one, other)]
        if bits[0] != bits[1]:
            problems.append(f"{run}: result.json differs")
    return problems
