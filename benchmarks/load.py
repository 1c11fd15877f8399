"""Thousands of cells: how long each command takes, how long it is silent, how fast it obeys Ctrl-C, memory and disk.

    python -m benchmarks.load [cells=2000] [repeats=3] [folder=PATH] [project=PATH] [parts=train,disk,rerun,...]

`train` makes the sweep of `cells` cells of two regimes in `folder` (by default a temporary one) and measures the time from
its last result to its table; the other parts measure commands on it, without `train` on a copy of what `folder` has, which
stays as it is. `project`: another checkout, whose commands are measured. Times are wall-clock medians [min, max] with the
processor time of the command and its children; the peak is that of the command's own process, without its workers.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import PROJECT, flags, show, spread

PARTS = "train,disk,rerun,status,sync,report,dry_run,interrupt"
FLAGS = {"cells": "2000", "repeats": "3", "folder": "", "project": str(PROJECT), "parts": PARTS, "workers": "4"}
RATIOS, IMBALANCES = "0.3,0.5,1,2,3", "1,1.1,1.2,1.3"
N_COMBINATIONS = 20


@dataclass
class Observed:
    """What a command did. `silence`: longest time between two outputs, its start and its end included."""

    status: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    silence_s: float
    lines: list[tuple[float, str]] = field(repr=False)
    """(seconds of the clock, line)"""


@dataclass(frozen=True)
class Load:
    """A sweep of many small cells in a folder, under the code of a checkout."""

    project: Path
    multirun: Path
    n_cells: int
    n_workers: int

    def words(self, n_cells: int) -> list[str]:
        rates = ",".join(f"{0.01 + 0.0001 * k:g}" for k in range(max(1, n_cells // N_COMBINATIONS)))
        axes = [f"split.ratio={RATIOS}", f"split.imbalance={IMBALANCES}", f"optimizer.lr={rates}", "split.size=100"]
        return [*axes, "seeds=1", "stopping.epochs=1", "arch.widths=[4]", "trainer=cpu", f"n_workers={self.n_workers}"]

    def sweep(self, *, n_cells: int | None = None, name: str = "load", more: Sequence[str] = ()) -> list[str]:
        words = self.words(n_cells or self.n_cells)
        return ["src.sweep", "-m", *words, f"sweep={name}", f"multirun={self.multirun}", *more]

    def on_it(self, module: str) -> list[str]:
        return [module, "sweep=load", f"multirun={self.multirun}"]

    def run(self, words: Sequence[str], interrupt_when: Callable[[float, str], bool] | None = None) -> Observed:
        """Runs ``python -m words...``. `interrupt_when` sees the seconds since the start and all output; after its first
        true answer one Ctrl-C is sent, and `wall_s` counts from there."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines: list[tuple[float, str]] = []
        assert process.stdout is not None

        def read() -> None:
            lines.extend((time.time(), line.rstrip()) for line in process.stdout or ())

        def watch_memory() -> None:
            with suppress(OSError, ProcessLookupError):  # it has ended
                while found := re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()):
                    peak_kib[0] = int(found[1])
                    time.sleep(0.1)

        peak_kib = [0]
        threads = [threading.Thread(target=read), threading.Thread(target=watch_memory)]
        for thread in threads:
            thread.start()
        pressed = began
        while interrupt_when is not None and process.poll() is None:
            if interrupt_when(time.time() - began, "\n".join(line for _, line in lines[:])):
                pressed = time.time()
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                break
            time.sleep(0.02)
        process.wait()
        ended = time.time()
        for thread in threads:
            thread.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        moments = [pressed, *(when for when, _ in lines if when > pressed), ended]
        return Observed(
            process.returncode,
            ended - pressed,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            peak_kib[0] / 1024,
            max(later - earlier for earlier, later in pairwise(moments)),
            lines,
        )

    def results(self) -> list[Path]:
        return sorted((self.multirun / "load/cells").glob("*/*/result.json"))


def row(what: str, aim: str, found: Sequence[Observed]) -> list[str]:
    assert all(one.status in (0, 130, -2) for one in found), [(one.status, one.lines[-3:]) for one in found]
    return [
        what,
        spread([one.wall_s for one in found]),
        spread([one.cpu_s for one in found]),
        spread([one.silence_s for one in found]),
        f"{max(one.peak_mib for one in found):,.0f}",
        aim,
    ]


def train(load: Load) -> list[list[str]]:
    """The sweep from an empty folder; the time from its last result to the first line of the table."""
    found = load.run(load.sweep())
    last = max(path.stat().st_mtime for path in load.results())
    table = next(when for when, line in found.lines if line.startswith("ratio "))
    after = [when for when, _ in found.lines if when > last]
    gaps = [later - earlier for earlier, later in pairwise([last, *after])]
    rows = [row("train all cells, whole command", "", [found])]
    rows.append(["table after the last result", f"{table - last:.1f}", "", f"{max(gaps):.1f}", "", "10"])
    estimates = [(when, match[1]) for when, line in found.lines if (match := re.search(r"\| left ([\w ]+)", line))]
    when, text = estimates[0]
    rows.append(["first estimate of the time left / what it took", f"{_seconds(text) / (last - when):.2f}", *[""] * 4])
    rows[-1][-1] = "0.5 to 2"
    return rows


def _seconds(text: str) -> int:
    """The seconds of ``2 h 5 min``."""
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", text))


def disk(load: Load) -> list[list[str]]:
    """KiB on disk for each run, of all files and by kind."""

    def blocks(folder: Path) -> float:
        paths = [folder, *folder.rglob("*")] if folder.is_dir() else [folder]
        return sum(path.lstat().st_blocks for path in paths) / 2 / len(load.results())

    kinds = {
        "run and cell folders": "load",
        "stage store": ".stages",
        "MLflow's database": "mlflow.db",
        "MLflow's artifacts": "mlartifacts",
    }
    rows = [[f"KiB a run: {kind}", f"{blocks(load.multirun / name):.1f}", *[""] * 4] for kind, name in kinds.items()]
    return [["KiB a run on disk", f"{blocks(load.multirun):.1f}", "", "", "", "40"], *rows]


def interrupt(load: Load) -> list[list[str]]:
    """Seconds from one Ctrl-C to the end of a command, at several moments of several commands."""

    def after(seconds: float) -> Callable[[float, str], bool]:
        return lambda passed, _: passed > seconds

    def at(word: str) -> Callable[[float, str], bool]:
        return lambda _, output: word in output

    new = load.sweep(n_cells=10_000, name="new")
    folder = load.results()[0].parent
    kept = load.multirun / f".{folder.name}"  # outside of the cell, whose folders are its runs
    moments: list[tuple[str, list[str], Callable[[float, str], bool]]] = [
        ("start-up: 1 s", new, after(1)),
        ("start-up: 3 s", new, after(3)),
        ("the plan of 10,000 cells", new, at("composed: cells")),
        ("the queue of a new grid", load.sweep(name="queue"), at("| runs ")),
        ("the queue with one run missing", load.sweep(), at("| runs ")),
        ("the plan with one run missing: 4 s", load.sweep(), after(4)),
        ("the finished sweep: 8 s", load.sweep(), after(8)),
        ("sync: 5 s", load.on_it("src.sync"), after(5)),
        ("report: 6 s", load.on_it("src.report"), after(6)),
        ("report: 10 s", load.on_it("src.report"), after(10)),
    ]
    rows = []
    for what, words, when in moments:
        if "one run missing" in what:
            shutil.copytree(folder, kept)
            shutil.rmtree(folder)
        observed = load.run(words, when)
        assert observed.status != 0, f"{what}: the command ended before its moment came: {observed.lines[-3:]}"
        rows.append(row(f"Ctrl-C in {what}", "2", [observed]))
        if kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            kept.rename(folder)
    return rows


def main() -> None:
    """Prints one table."""
    given = flags(FLAGS, __doc__ or "")
    parts, repeats = given["parts"].split(","), range(int(given["repeats"]))
    with tempfile.TemporaryDirectory() as scratch:
        multirun = Path(given["folder"] or scratch).absolute()
        if "train" not in parts:
            multirun = Path(shutil.copytree(multirun, Path(scratch) / "copy"))
        load = Load(Path(given["project"]).absolute(), multirun, int(given["cells"]), int(given["workers"]))
        n = f"{load.n_cells:,} cells"
        commands = {
            "rerun": (f"the finished command again, {n}", "10", load.sweep()),
            "status": ("status", "1", load.on_it("src.status")),
            "sync": ("sync, nothing missing", "10", load.on_it("src.sync")),
            "report": ("report", "20", load.on_it("src.report")),
            "dry_run": ("dry_run of 10,000 cells", "15", load.sweep(n_cells=10_000, name="new", more=["dry_run=true"])),
        }
        rows = []
        for part in parts:
            if part in commands:
                what, aim, words = commands[part]
                rows.append(row(what, aim, [load.run(words) for _ in repeats]))
            else:
                rows += {"train": train, "disk": disk, "interrupt": interrupt}[part](load)
            print(rows[-1], file=sys.stderr)
    headings = ("", "s", "processor, s", "longest silence, s", "peak MiB", "aim")
    show(f"{given['project']}, load average {os.getloadavg()[0]:.1f}", headings, rows)


if __name__ == "__main__":
    main()
