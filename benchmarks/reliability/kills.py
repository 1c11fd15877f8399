"""Kills at random moments, and the same command again until it is done: what comes out is what would have anyway.

A kill falls at a moment drawn over the whole duration of the sweep, counted from the start of a command (or, where a
command outlives the kill of its workers, from that kill). If the command ends first, its results are audited, and the
same kill meets a new sweep. So no moment is left out: start-up, claim, training, writing, delivery, the table.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.audit import audit
from benchmarks.reliability.sweeps import Sweep, kill, wait_until

KINDS = ("one worker", "all workers", "the parent", "everything")


@dataclass(frozen=True)
class Kill:
    """What was killed, when (seconds after the start of the command, or after the kill before) and amid what."""

    kind: str
    moment: float
    amid: str


@dataclass
class Campaign:
    """Kills until there are `n_kills`, over as many sweeps as that takes, each audited at its end."""

    root: Path
    words: Sequence[str]
    n_kills: int
    seed: int

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self.kills: list[Kill] = []
        self.n_sweeps = self.n_commands = 0
        self.problems: list[str] = []
        self.seconds = 0.0

    def run(self) -> None:
        """All of it; see `kills` and `problems` afterwards."""
        began = time.monotonic()
        untouched = Sweep(self.root / "untouched", self.words)
        if untouched.run() != 0:
            raise RuntimeError(untouched.said())
        self.duration = time.monotonic() - began
        reference = untouched.results()
        self.problems += [f"untouched: {problem}" for problem in audit(untouched, reference)]
        waiting = self._next()
        while waiting is not None:
            sweep = Sweep(self.root / f"sweep{self.n_sweeps}", self.words)
            waiting = self._kill_until_done(sweep, waiting)
            self.n_sweeps += 1
            self.problems += [f"{sweep.multirun.name}: {problem}" for problem in audit(sweep, reference)]
        self.seconds = time.monotonic() - began

    def _next(self) -> Kill | None:
        """The next kill, drawn; None after the last."""
        if len(self.kills) == self.n_kills:
            return None
        return Kill(self._draw.choice(KINDS), self._draw.uniform(0, self.duration), "")

    def _kill_until_done(self, sweep: Sweep, waiting: Kill | None) -> Kill | None:
        """The sweep from its first command to its last; returns the kill that came too late for it."""
        while True:
            self.n_commands += 1
            with sweep.start() as command:
                while waiting is not None and not wait_until(command, time.monotonic() + waiting.moment):
                    self.kills.append(self._carry_out(waiting, sweep, command))
                    waiting = self._next()
                    if command.poll() is not None or self.kills[-1].kind in KINDS[2:]:
                        break
                status = command.wait()
            if status == 0:
                return waiting
            if status != -signal.SIGKILL:
                self.problems.append(f"{sweep.multirun.name}: exit status {status}: {sweep.said()[-2000:]}")
                return waiting

    def _carry_out(self, wanted: Kill, sweep: Sweep, command: subprocess.Popen[bytes]) -> Kill:
        workers = sweep.workers()
        amid = self._amid(sweep, len(workers))
        kind = (
            wanted.kind if workers or wanted.kind in KINDS[2:] else "the parent"
        )  # there is no worker yet, or any more
        if kind in ("the parent", "everything"):
            os.killpg(command.pid, signal.SIGKILL)
        if kind in ("all workers", "everything"):
            for worker in sweep.workers():
                kill(worker)
        elif kind == "one worker":
            kill(self._draw.choice(sorted(workers)))
        return dataclasses.replace(wanted, kind=kind, amid=amid)

    def _amid(self, sweep: Sweep, n_workers: int) -> str:
        """What the sweep was doing, as far as its files tell."""
        cells = list(sweep.folder.glob("cells/*/cell.yaml"))
        n_results = sum(1 for _ in sweep.folder.glob("cells/*/*/result.json"))
        if not cells:
            return "start-up"
        if not n_workers:
            return "before or after the workers" if n_results else "queueing"
        return "training and writing" if n_results else "the workers' start-up, first training"

    def report(self) -> list[str]:
        """The figures, a line each."""
        kinds = Counter(one.kind for one in self.kills)
        amid = Counter(one.amid for one in self.kills)
        runs = sum(len(Sweep(self.root / f"sweep{k}", self.words).results()) for k in range(self.n_sweeps))
        return [
            f"{len(self.kills)} kills of {self.n_sweeps} sweeps in {self.n_commands} commands, {runs} runs audited, "
            f"{self.seconds:.0f} s; a sweep left alone takes {self.duration:.0f} s",
            "killed: " + counted(kinds),
            "amid: " + counted(amid),
            f"{len(self.problems)} problems",
            *self.problems,
        ]


def counted(counts: Mapping[str, Any]) -> str:
    """``start-up 3, queueing 2``."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
