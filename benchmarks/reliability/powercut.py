"""Power cuts: the file system of a running sweep is shut down at a random moment, with all that was not synced, and mounted anew.

The sweep's folder lies on an ext4 in a file, mounted through a loop device. The cut is the ioctl with which the tests of
Linux's file systems crash them: from then on nothing reaches the device, neither written data nor the journal. The
journal is written once a minute, not every 5 s, so that no file survives because the system happened to write it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.audit import audit
from benchmarks.reliability.kills import Campaign, Kill
from benchmarks.reliability.sweeps import PROJECT, Sweep, kill
from src.io import read_json

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN of Linux's <uapi/linux/ext4.h>."""
WITHOUT_LOG = struct.pack("I", 2)
"""EXT4_GOING_FLAGS_NOLOGFLUSH."""


SMALL = [
    *("split.ratio=0.3,3", "stopping.epochs=3,30", "split.size=400"),
    *("regimes=[sequential,combined]", "seeds=2", "n_workers=2"),
]
"""4 cells, 16 runs."""


class CannotCut(Exception):
    """Power cuts cannot be made here; the message has the reason."""


@dataclass(frozen=True)
class Disk:
    """A file system of its own in a file, mounted at `mount`."""

    image: Path
    mount: Path

    def start(self) -> None:
        """Mounts it, which replays its journal."""
        _run("mount", "-o", "loop,commit=60", self.image, self.mount)

    def stop(self) -> None:
        """Kills the processes that use it, and unmounts it."""
        until = time.monotonic() + 20
        while _run("umount", self.mount, check=time.monotonic() > until) != 0:
            for pid in self._users():
                kill(pid)
            time.sleep(0.1)

    def _users(self) -> set[int]:
        """The processes that have a file of it open."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.readlink(path).startswith(f"{self.mount}/"):
                    found.add(int(path.parts[2]))
        return found - {os.getpid()}

    def cut(self) -> None:
        """Drops what is not on the device, and all that is written from now on."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, WITHOUT_LOG)
        finally:
            os.close(fd)


@contextlib.contextmanager
def disk(root: Path, mib: int = 1024) -> Iterator[Disk]:
    """A new, mounted disk of `mib` MiB. Raises CannotCut without the rights, the tools or the loop devices."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="disk-", dir=memory if memory.is_dir() else root) as folder:
        made = Disk(Path(folder) / "image", root / "disk")
        made.mount.mkdir()
        if os.geteuid() != 0:
            raise CannotCut("only root can mount a file system")
        try:
            with made.image.open("wb") as file:
                file.truncate(mib * 2**20)
            _run("mkfs.ext4", "-q", "-F", made.image)
            made.start()
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotCut(f"no ext4 can be mounted here: {error}") from error
        try:
            yield made
        finally:
            made.stop()


@dataclass
class PowerCuts(Campaign):
    """The campaign of kills with power cuts in their place, on `disk`."""

    disk: Disk = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.n_announced = 0
        self.n_empty = 0

    def _folder(self, number: int) -> Path:
        return self.disk.mount / f"sweep{number}"

    def _audit(self, sweep: Sweep, reference: Mapping[str, Any]) -> list[str]:
        copy = Path(shutil.copytree(sweep.multirun, self.root / sweep.multirun.name))  # MLflow keeps its database open
        return audit(Sweep(copy, sweep.words), reference, with_stages=False)

    def _carry_out(self, wanted: Kill, sweep: Sweep, command: subprocess.Popen[bytes]) -> Kill:
        amid = self._amid(sweep, len(sweep.workers()))
        announced = _announced(sweep)
        self.disk.cut()
        os.killpg(command.pid, signal.SIGKILL)
        for worker in sweep.workers():
            kill(worker)
        command.wait()
        self.disk.stop()
        self.disk.start()
        self.n_announced += len(announced)
        self.n_empty += sum(path.stat().st_size == 0 for path in sweep.multirun.rglob("*.json"))
        problems = [f"{run} was announced, and {problem}" for run in announced if (problem := _lost(sweep, run))]
        problems += _commands(sweep) if (sweep.folder / "queue.json").exists() else []
        self.problems += [f"cut {len(self.kills) + 1}, amid {amid}: {problem}" for problem in problems]
        return Kill("power", wanted.moment, amid)


def campaign(root: Path, words: Sequence[str], n_cuts: int, seed: int) -> tuple[list[str], list[str]]:
    """Measurements and problems of `n_cuts` power cuts."""
    try:
        with disk(root) as made:
            cuts = PowerCuts(root, words, n_cuts, seed, disk=made)
            cuts.run()
            lost = f"{cuts.n_announced} results were announced before a cut; {cuts.n_empty} JSON files were empty after one"
            return [lost, *cuts.report()], cuts.problems
    except CannotCut as reason:
        return [f"skipped: {reason}"], []


def _announced(sweep: Sweep) -> set[str]:
    """The runs that workers have logged as finished, ``cell/run``."""
    logs = (path.read_text(errors="replace") for path in (sweep.folder / "logs").glob("*.log"))
    return {run for log in logs for run in re.findall(r" INFO finished (\S+)\n", log)}


def _lost(sweep: Sweep, run: str) -> str | None:
    """What is wrong with the files of a run; None if they are complete."""
    folder = sweep.folder / "cells" / run
    try:
        read_json(folder / "result.json")
        for name in ("config.yaml", "history.parquet"):
            if (folder / name).stat().st_size == 0:
                return f"{name} is empty"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _commands(sweep: Sweep) -> list[str]:
    """Problems of the commands that a user tries first."""
    problems = []
    started = []
    for words in (["src.status", f"sweep={sweep.name}"], ["src.doctor"], ["src.sync"]):
        command = [sys.executable, "-m", *words, f"multirun={sweep.multirun}"]
        started.append(
            subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in started:
        output, _ = process.communicate()
        if process.returncode > 1 or "Traceback" in output:
            problems.append(f"{process.args} exits with {process.returncode}: {output[-1500:]}")
    return problems


def _run(*words: Any, check: bool = True) -> int:
    return subprocess.run([str(word) for word in words], check=check, capture_output=True).returncode
