"""Suspended hosts: one that wakes after others took its cell over, and processes that are suspended while they hold a lock.

A host is a UTS namespace of its own (`unshare -u`), so that nothing recognises its processes by the host's name. Its locks
are dropped, as a file server does for a host that is silent for minutes, by deleting the lock files.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reliability.audit import audit
from benchmarks.reliability.sweeps import Sweep
from src.locks import locked

LOCKS = ("queue.lock", "study.lock", "queue.json.lock")
SECONDS = 2.0
"""Within which a command and its workers obey a signal."""


def campaign(root: Path, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Measurements and problems of both."""
    untouched = Sweep(root / "untouched", [*words, "n_workers=1", "seeds=16"])
    if untouched.run() != 0:
        raise RuntimeError(untouched.output_text())
    lines, problems = _woken(root, untouched)
    for lock in LOCKS:
        for number in (signal.SIGINT, signal.SIGTERM):
            line, found = _held(root, untouched.words, lock, number)
            lines.append(line)
            problems += found
    return [*lines, f"{len(problems)} problems", *problems], problems


def _woken(root: Path, untouched: Sweep) -> tuple[list[str], list[str]]:
    """A command and its worker are stopped amid their first results; another command does all; then they wake."""
    sweep = Sweep(root / "woken", untouched.words)
    is_apart = os.geteuid() == 0
    first = sweep.start(before="hostname elsewhere" if is_apart else "", around=["unshare", "-u"] if is_apart else [])
    while not list(sweep.folder.glob("cells/*/*/result.json")):
        if first.poll() is not None:
            raise RuntimeError(sweep.output_text())
        time.sleep(0.005)
    stopped = [first.pid, *sweep.workers()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    n_before = len(sweep.results())
    locks = ("cells/*/.lock", "processes/*.lock", "outbox/promised/*.lock", "outbox/.lock", "*.lock")
    for lock in [path for pattern in locks for path in sweep.folder.glob(pattern)]:
        lock.unlink()
    for lock in sweep.multirun.glob(".stages/locks/*.lock"):
        lock.unlink()
    status = sweep.run()
    problems = [] if status == 0 else [f"the second command exits with {status}: {sweep.output_text()[-1500:]}"]
    written = {path: path.stat().st_ino for path in sweep.folder.glob("cells/*/*/result.json")}
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    woken = first.wait()
    if woken != 0:
        problems.append(f"the woken command exits with {woken}")
    again = [path for path, inode in written.items() if path.stat().st_ino != inode]
    problems += [f"{path} was written again" for path in again]
    logs = "".join(path.read_text() for path in (sweep.folder / "logs").glob("*.log"))
    finished = Counter(re.findall(r" INFO finished (\S+)\n", logs))
    problems += [f"{run} was finished {n} times" for run, n in finished.items() if n != 1]
    problems += audit(sweep, untouched.results())
    n_left = logs.count("nothing is written")
    where = "in a UTS namespace of its own" if is_apart else "without a namespace of its own, which needs root"
    return [
        f"a worker {where}, stopped after {n_before} results and woken after all {len(written)}: "
        f"{len(again)} written again, it left {n_left} cell to its new owner"
    ], problems


def _held(root: Path, words: Sequence[str], lock: str, number: signal.Signals) -> tuple[str, list[str]]:
    """A command and its worker meet a lock of a stopped process, and a signal."""
    sweep = Sweep(root / f"held-{lock}-{number.name}", words)
    sweep.folder.mkdir(parents=True)
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(sweep.folder / lock,))
    holder.start()
    assert holder.pid is not None
    while not _is_stopped(holder.pid):
        time.sleep(0.01)
    command = sweep.start()
    problems = []
    until = time.monotonic() + 120
    while f"process {holder.pid} on" not in sweep.output_text() and time.monotonic() < until:
        time.sleep(0.1)
    found = sweep.output_text()
    if found.count(f"process {holder.pid} on") != 1 or "suspended" not in found:
        problems.append(f"{lock}: its holder is not named once: {found[-1000:]}")
    began = time.monotonic()
    command.send_signal(number)
    try:
        status = command.wait(60)
    except subprocess.TimeoutExpired:
        command.kill()
        status = command.wait()
    seconds = time.monotonic() - began
    if seconds > SECONDS or status != 130:
        problems.append(f"{lock}: {number.name} ends the command with {status} after {seconds:.1f} s")
    holder.kill()
    holder.join()
    return (
        f"{lock} held by a stopped process: {number.name} obeyed after {seconds:.1f} s, exit status {status}",
        problems,
    )


def _hold(path: Path) -> None:
    with locked(path):
        os.kill(os.getpid(), signal.SIGSTOP)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
