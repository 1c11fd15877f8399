"""Ctrl-C at a real terminal, once and twice, and a killed parent: the outcome, and that no result is lost.

The engine trains nothing; terminal, processes and signals are real.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.reliability.sweeps import PROJECT, Sweep

N_RUNS = 8
WORDS = [
    *("hydra.sweeper.engine=tests.sweep.fake_engine", "tracking=off", "n_workers=1"),
    *("stopping.epochs=1,2", "seeds=2", "regimes=[sequential,combined]"),
]


class Terminal:
    """A command on its own terminal."""

    def __init__(self, sweep: Sweep) -> None:
        words = ["-m", "src.sweep", "-m", *sweep.words, f"sweep={sweep.name}", f"multirun={sweep.multirun}"]
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            os.chdir(PROJECT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started these tests may ignore it, as nohup does
            os.execv(sys.executable, [sys.executable, *words])
        self.output = b""

    def press_ctrl_c(self) -> None:
        """Send Ctrl-C: the terminal sends SIGINT to its foreground processes."""
        os.write(self._screen, b"\x03")

    def read(self) -> bool:
        """Read the available output; return False once the command has closed the terminal."""
        if select.select([self._screen], [], [], 0.05)[0]:
            try:
                self.output += os.read(self._screen, 65536)
            except OSError:  # on Linux: no writer is left
                return False
        return True

    def until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Read until `holds()` is true."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.read() or holds(), self.output.decode()
            assert time.monotonic() < deadline, self.output.decode()

    def wait(self, seconds: float = 120) -> int:
        """Exit status of the command."""
        deadline = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < deadline, self.output.decode()
        os.close(self._screen)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "multirun", WORDS)


def behave(sweep: Sweep, **behaviour: object) -> None:
    sweep.multirun.mkdir(exist_ok=True)
    (sweep.multirun / "fake.json").write_text(json.dumps(behaviour))


def ran(sweep: Sweep) -> Counter[str]:
    """Number of times that each run was made."""
    diary = sweep.folder / "ran.txt"
    lines = diary.read_text().splitlines() if diary.exists() else []
    return Counter(line.removeprefix("run ") for line in lines if line.startswith("run "))


def finishes(sweep: Sweep) -> bool:
    """Check that the same command finishes the sweep and that each run was made once."""
    behave(sweep)
    status = sweep.run()
    assert status == 0, sweep.output_text()
    return ran(sweep) == Counter(dict.fromkeys(ran(sweep), 1)) and len(ran(sweep)) == N_RUNS


def test_ctrl_c_once_stops_after_the_current_runs_and_names_the_command_to_resume(sweep: Sweep) -> None:
    behave(sweep, seconds=0.5)
    terminal = Terminal(sweep)
    terminal.until(lambda: len(ran(sweep)) >= 1)
    terminal.press_ctrl_c()
    assert terminal.wait() == 130
    output = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output.decode()).split())
    assert "the workers save their progress; Ctrl-C again ends them now" in output
    assert "stopped; the same command continues from here" in output
    assert "Traceback" not in output
    assert sweep.workers() == []
    assert 1 <= len(ran(sweep)) < N_RUNS
    assert list((sweep.folder / "processes").glob("*.json")) == []
    assert finishes(sweep)


def test_ctrl_c_twice_ends_now(sweep: Sweep) -> None:
    behave(sweep, seconds=600)
    terminal = Terminal(sweep)
    terminal.until(lambda: (sweep.folder / "ran.txt").exists() and "cell " in (sweep.folder / "ran.txt").read_text())
    terminal.press_ctrl_c()
    terminal.until(lambda: b"Ctrl-C again" in terminal.output)
    terminal.press_ctrl_c()
    assert terminal.wait() == 130, "the command ends long before the run's ten minutes"
    assert sweep.workers() == []
    assert finishes(sweep)


def test_workers_of_a_killed_parent_finish_their_run_and_exit(sweep: Sweep) -> None:
    behave(sweep, seconds=0.5)
    with sweep.start() as parent:
        deadline = time.monotonic() + 120
        while not ran(sweep):
            assert time.monotonic() < deadline, sweep.output_text()
            time.sleep(0.02)
        parent.kill()  # and not the process that forks workers, which lives as long as they do
    while sweep.workers():
        assert time.monotonic() < deadline, "workers continue without their parent"
        time.sleep(0.05)
    left = len(ran(sweep))
    assert left < N_RUNS
    log = "".join(path.read_text() for path in (sweep.folder / "logs").iterdir())
    assert "interrupted and given back" in log
    assert finishes(sweep)


def fork_servers(parent: int) -> list[int]:
    """The process ids of the children of `parent` that fork its workers."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_ctrl_c_while_the_workers_start_stops_the_command_in_one_line(sweep: Sweep) -> None:
    """The terminal sends it to the process that forks them as well, amid its imports."""
    behave(sweep, seconds=0.5)
    terminal = Terminal(sweep)
    terminal.until(lambda: len(fork_servers(terminal.pid)) == 1)
    terminal.press_ctrl_c()
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.output.decode()
    assert sweep.workers() == []
    assert len(ran(sweep)) < N_RUNS


def test_a_killed_fork_server_costs_its_workers_and_nothing_else(sweep: Sweep) -> None:
    behave(sweep, seconds=0.3)
    with sweep.start() as parent:
        while not ran(sweep) and parent.poll() is None:
            time.sleep(0.02)
        (server,) = fork_servers(parent.pid)
        os.kill(server, signal.SIGKILL)
        assert parent.wait() == 0, sweep.output_text()
    assert len(ran(sweep)) == N_RUNS
    assert "interrupted and given back" in "".join(path.read_text() for path in (sweep.folder / "logs").iterdir())
