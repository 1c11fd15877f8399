"""Kills at random moments, each followed by the same command, until the sweep equals an uninterrupted one.

The moment of a kill is drawn from the whole duration of the sweep, counted from the start of a command (or, if a command
survives the kill of its workers, from that kill). If the command ends first, its results are audited, and the same kill
applies to a new sweep. Kills therefore cover every phase: start-up, claim, training, writing, delivery, the table.
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
    """Target, time (seconds after the start of the command, or after the previous kill) and phase of a kill."""

    kind: str
    moment: float
    amid: str


@dataclass
class Campaign:
    """A campaign of `n_kills` kills over as many sweeps as necessary, each audited at its end."""

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
        """Run the campaign; `kills` and `problems` have the outcome."""
        began = time.monotonic()
        untouched = Sweep(self.root / "untouched", self.words)
        if untouched.run() != 0:
            raise RuntimeError(untouched.output_text())
        self.duration = time.monotonic() - began
        reference = untouched.results()
        self.problems += [f"untouched: {problem}" for problem in audit(untouched, reference)]
        print(f"a sweep without kills: {self.duration:.0f} s, {len(self.problems)} problems", flush=True)
        waiting = self._next()
        while waiting is not None:
            sweep = Sweep(self._folder(self.n_sweeps), self.words)
            waiting = self._kill_until_done(sweep, waiting)
            self.n_sweeps += 1
            found = self._audit(sweep, reference)
            self.problems += [f"{sweep.multirun.name}: {problem}" for problem in found]
            print(
                "\n".join([f"{sweep.multirun.name}: done and audited, {len(found)} problems", *found[:5]]), flush=True
            )
        self.seconds = time.monotonic() - began

    def _folder(self, number: int) -> Path:
        """The folder ``multirun`` of a sweep."""
        return self.root / f"sweep{number}"

    def _audit(self, sweep: Sweep, reference: Mapping[str, Any]) -> list[str]:
        return audit(sweep, reference)

    def _next(self) -> Kill | None:
        """Draw the next kill; None after the last."""
        if len(self.kills) == self.n_kills:
            return None
        return Kill(self._draw.choice(KINDS), self._draw.uniform(0, self.duration), "")

    def _kill_until_done(self, sweep: Sweep, waiting: Kill | None) -> Kill | None:
        """Run the sweep from its first command to its last; return the kill that came too late for it."""
        n_before = len(self.kills)
        while True:
            self.n_commands += 1
            began = time.monotonic()
            with sweep.start() as command:
                while waiting is not None and not wait_until(command, time.monotonic() + waiting.moment):
                    self.kills.append(self._carry_out(waiting, sweep, command))
                    done = self.kills[-1]
                    print(
                        f"kill {len(self.kills)}: {done.kind} after {done.moment:.1f} s, amid {done.amid}", flush=True
                    )
                    waiting = self._next()
                    if command.poll() is not None or self.kills[-1].kind in KINDS[2:]:
                        break
                status = command.wait()
            if status == 0:  # the machine may be less loaded than when the duration was measured
                if len(self.kills) == n_before:
                    self.duration = min(self.duration, time.monotonic() - began)
                return None if waiting is None else dataclasses.replace(waiting, moment=0.8 * waiting.moment)
            if status != -signal.SIGKILL:
                self.problems.append(f"{sweep.multirun.name}: exit status {status}: {sweep.output_text()[-2000:]}")
                return waiting

    def _carry_out(self, wanted: Kill, sweep: Sweep, command: subprocess.Popen[bytes]) -> Kill:
        workers = sweep.workers()
        amid = self._amid(sweep, len(workers))
        kind = wanted.kind if workers or wanted.kind in KINDS[2:] else "the parent"  # no worker is alive
        if kind in ("the parent", "everything"):
            os.killpg(command.pid, signal.SIGKILL)
        if kind in ("all workers", "everything"):
            for worker in sweep.workers():
                kill(worker)
        elif kind == "one worker":
            kill(self._draw.choice(sorted(workers)))
        return dataclasses.replace(wanted, kind=kind, amid=amid)

    def _amid(self, sweep: Sweep, n_workers: int) -> str:
        """Phase of the sweep, according to its files."""
        cells = list(sweep.folder.glob("cells/*/cell.yaml"))
        n_results = sum(1 for _ in sweep.folder.glob("cells/*/*/result.json"))
        if not cells:
            return "start-up"
        if not n_workers:
            return "before or after the workers" if n_results else "queueing"
        return "training and writing" if n_results else "the workers' start-up, first training"

    def report(self) -> list[str]:
        """The measurements, one per line."""
        kinds = Counter(one.kind for one in self.kills)
        amid = Counter(one.amid for one in self.kills)
        runs = sum(len(Sweep(self._folder(k), self.words).results()) for k in range(self.n_sweeps))
        return [
            f"{len(self.kills)} kills of {self.n_sweeps} sweeps in {self.n_commands} commands, {runs} runs audited, "
            f"{self.seconds:.0f} s; an uninterrupted sweep takes {self.duration:.0f} s",
            "killed: " + counted(kinds),
            "during: " + counted(amid),
            f"{len(self.problems)} problems",
            *self.problems,
        ]


def counted(counts: Mapping[str, Any]) -> str:
    """``start-up 3, queueing 2``."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
