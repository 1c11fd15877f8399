"""One cell fails in each of five ways: the others finish, the summary names the cell and the reason, no file is partial."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.audit import damaged_files, mlflow_problems
from benchmarks.reliability.sweeps import Sweep, kill

SMALL = ["split.size=200", "stopping.epochs=1", "seeds=2", "n_workers=2"]
BYTES_OF_A_WORKER = 1_200_000_000
"""Between the resident memory of a worker with a small network and that of one with the large one."""


class Trial:
    """A sweep in which exactly the cells in `bad` (a part of their axes) should fail."""

    def __init__(self, multirun: Path, words: Sequence[str], bad: str) -> None:
        self.sweep = Sweep(multirun, [*SMALL, *words])
        self.problems: list[str] = []
        shown = Sweep(multirun, [*self.sweep.words, "dry_run=true"])
        assert shown.run() == 0, shown.output_text()
        cells = dict(
            line.split(maxsplit=1) for line in shown.output_text().splitlines() if "/" in line.partition("=")[0]
        )
        self.bad = [cell for cell, axes in cells.items() if bad in axes]
        self.good = [cell for cell in cells if cell not in self.bad]
        assert self.bad, cells
        assert self.good, cells

    def expect(self, holds: bool, what: str) -> None:
        """Record a problem unless `holds`."""
        if not holds:
            self.problems.append(f"{what}: {self.sweep.output_text()[-1500:]}")

    def expect_failed(self, status: int, reason: str) -> None:
        """The bad cells are reported as failed with the reason, the others are finished, and no file is partial."""
        output = " ".join(self.sweep.output_text().split())
        self.expect(status == 1, f"exit status {status}, not 1")
        for cell in self.bad:
            line = output.partition(f"failed: cell {cell}")[2].partition("failed: cell")[0]
            self.expect(reason in line, f"{cell}: no reason with {reason!r}")
        for cell in self.good:
            self.expect(f"failed: cell {cell}" not in output, f"{cell} is reported as failed")
        self.expect_done(self.good)
        self.expect("Traceback" not in output, "a traceback on the terminal")
        self.problems += damaged_files(self.sweep.multirun)

    def expect_done(self, cells: Sequence[str]) -> None:
        """The cells have all results."""
        n_runs = 4  # two regimes, two seeds
        for cell in cells:
            n_done = len(list(self.sweep.folder.glob(f"cells/{cell}/*/result.json")))
            self.expect(n_done == n_runs, f"{cell}: {n_done} of {n_runs} results")

    def expect_noted(self, reason: str) -> None:
        """The bad cells' runs have a failed.json with the reason."""
        for cell in self.bad:
            notes = [json.loads(path.read_text()) for path in self.sweep.folder.glob(f"cells/{cell}/*/failed.json")]
            self.expect(len(notes) == 4, f"{cell}: {len(notes)} runs with failed.json")
            self.expect(all(reason in note["error"] for note in notes), f"{cell}: failed.json without {reason!r}")

    def expect_mended(self, **settings: str) -> None:
        """Without the cause, the same command finishes the sweep."""
        self.expect(self.sweep.run(**settings) == 0, "the same command again fails")
        self.expect_done([*self.good, *self.bad])
        self.problems += [*damaged_files(self.sweep.multirun), *mlflow_problems(self.sweep.multirun)]


def raises(root: Path) -> Trial:
    """A cell that needs more memory than its process may allocate: an exception."""
    trial = Trial(root / "raises", ["arch.widths=[16],[70000,70000],[24]"], "70000")
    trial.expect_failed(trial.sweep.run(before="ulimit -v 14000000"), "memory")
    trial.expect_noted("memory")
    return trial


def diverges(root: Path) -> Trial:
    """A cell whose loss is not finite: it is finished and recorded as diverged."""
    trial = Trial(root / "diverges", ["optimizer.lr=0.05,1e30,0.1"], "1e+30")
    trial.expect_failed(trial.sweep.run(), "diverged")
    statuses = {run.partition("/")[0]: body["status"] for run, body in trial.sweep.results().items()}
    trial.expect(all(statuses[cell] == "diverged" for cell in trial.bad), "it is not finished as diverged")
    n_trained = trial.sweep.n_trained()
    trial.expect(trial.sweep.run() == 0, "the same command again fails")
    trial.expect(trial.sweep.n_trained() == n_trained, "a diverged run was retried")
    return trial


def outgrows_the_memory(root: Path) -> Trial:
    """A cell whose worker is killed whenever its memory grows too large, as by the system's out-of-memory killer."""
    trial = Trial(root / "memory", ["arch.widths=[16],[9000,9000],[24]"], "9000")
    with _killer(trial.sweep):
        status = trial.sweep.run()
    trial.expect_failed(status, "its worker died 4 times")
    trial.expect_noted("its worker died 4 times")
    trial.expect_mended()
    return trial


def cannot_write(root: Path) -> Trial:
    """Cells whose folder, or the folder of one of their runs, is blocked by a file of the same name."""
    trial = Trial(root / "unwritable", ["arch.widths=[16],[17],[24]"], "17")
    (cell,) = trial.bad
    in_the_way = trial.sweep.folder / "cells" / cell
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    trial.expect_failed(trial.sweep.run(), "[Errno 17] File exists")
    in_the_way.unlink()
    (in_the_way / "combined-1").parent.mkdir()
    (in_the_way / "combined-1").touch()
    trial.expect_failed(trial.sweep.run(), "combined-1: ")
    (in_the_way / "combined-1").unlink()
    trial.expect_mended()
    return trial


def fills_the_disk(root: Path) -> Trial:
    """A cell whose weights do not fit on the disk, while those of the others do; then the disk grows."""
    disk = root / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", disk], check=True)
    try:
        trial = Trial(disk, ["arch.widths=[16],[5000,5000],[24]"], "5000")
        trial.expect_failed(trial.sweep.run(), "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
        trial.expect_mended()
    finally:
        # lazily: the audit, in this process, still has the database open
        subprocess.run(["umount", "--lazy", disk], check=True)
    return trial


KINDS = {
    "raises": raises,
    "diverges": diverges,
    "memory": outgrows_the_memory,
    "unwritable": cannot_write,
    "disk": fills_the_disk,
}


def campaign(root: Path, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
    """Measurements and problems of each kind of failure."""
    lines, problems = [], []
    for kind in kinds:
        if kind == "disk" and os.geteuid() != 0:
            lines.append("disk: skipped, only root can mount a small disk")
            continue
        began = time.monotonic()
        trial = KINDS[kind](root)
        lines.append(
            f"{kind}: {len(trial.bad)} cell failed, {len(trial.good)} did not, {len(trial.problems)} problems, "
            f"{time.monotonic() - began:.0f} s"
        )
        problems += [f"{kind}: {problem}" for problem in trial.problems]
    return [*lines, *problems], problems


@contextmanager
def _killer(sweep: Sweep) -> Iterator[None]:
    """kill -9 of every worker that grows beyond `BYTES_OF_A_WORKER`."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for pid in sweep.workers():
                if _resident(pid) > BYTES_OF_A_WORKER:
                    kill(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0
