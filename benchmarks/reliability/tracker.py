"""The MLflow server is killed during a sweep and restarts, or never starts: training continues, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.reliability.audit import audit, delivered_order
from benchmarks.reliability.lossy import lossy
from benchmarks.reliability.sweeps import PROJECT, Sweep, same_results
from src.config import compose

MOST_SYNCS = 10
"""Of `make sync` while answers are lost."""


class Server:
    """``make server`` on a free loopback port, with its database under `multirun`."""

    def __init__(self, multirun: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.multirun = multirun
        self.settings = ["tracking=server", f"tracking.uri=http://127.0.0.1:{self.port}"]
        self.tracking = compose(self.settings).tracking

    def start(self) -> None:
        """Start the server and wait until it responds."""
        command = [sys.executable, "-m", "src.ui", f"port={self.port}", f"multirun={self.multirun}"]
        self.multirun.mkdir(parents=True, exist_ok=True)
        with (self.multirun / "server.txt").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.tracking.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError((self.multirun / "server.txt").read_text())

    def kill(self) -> None:
        """kill -9 of the server and its workers."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def campaign(root: Path, words: list[str], away: float | None) -> tuple[list[str], list[str]]:
    """Measurements and problems. `away`: seconds without the server after a quarter of the runs; None: from the start."""
    reference = Sweep(root / "off", [*words, "tracking=off"])
    began = time.monotonic()
    if reference.run() != 0:
        raise RuntimeError(reference.output_text())
    alone = time.monotonic() - began

    server = Server(root / "server")
    sweep = Sweep(root / "server", [*words, *server.settings, "n_workers=1"])
    n_runs, n_before = len(reference.results()), 0
    if away is not None:
        server.start()
    try:
        began = time.monotonic()
        with sweep.start() as command:
            if away is not None:
                while len(sweep.results()) < n_runs / 4 and command.poll() is None:
                    time.sleep(0.1)
                n_before = len(delivered_order(server.multirun / "mlflow.db"))
                server.kill()
                time.sleep(away)
                n_without = len(sweep.results())
                server.start()
            status = command.wait()
        seconds = time.monotonic() - began
        if away is None:
            n_without = len(sweep.results())
            server.start()
        waiting = len(list((sweep.folder / "outbox").glob("*.json")))
        synced = subprocess.run(
            [sys.executable, "-m", "src.sync", f"multirun={sweep.multirun}", *server.settings],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        problems = [f"exit status {status}: {sweep.output_text()[-2000:]}"] if status != 0 else []
        problems += [f"make sync: {synced.stderr}"] if synced.returncode != 0 else []
        problems += same_results(sweep.results(), reference.results())
        problems += audit(sweep, reference.results(), server.tracking)
        made = sorted(sweep.results().values(), key=lambda body: str(body["provenance"]["finished_at"]))
        cell_of = {body["run"]: body["cell"] for body in made}
        delivered = [cell_of[run] for run in delivered_order(server.multirun / "mlflow.db")]
        if list(dict.fromkeys(delivered)) != list(dict.fromkeys(body["cell"] for body in made)):
            problems.append("MLflow has the cells in an order other than that of their runs")
    finally:
        server.kill()
    outage = "down from the start" if away is None else f"down for {away:g} s after {n_before} runs were delivered"
    return [
        f"the server was {outage}; meanwhile {n_without} of {n_runs} runs were finished on disk",
        f"the command took {seconds:.0f} s with one worker; {waiting} entries were left to make sync",
        f"for comparison, without MLflow and with all workers: {alone:.0f} s",
        f"warned {sweep.output_text().count('MLflow does not answer')} times",
        f"{len(problems)} problems",
        *problems,
    ], problems


def losing_answers(root: Path, words: list[str], share: float) -> tuple[list[str], list[str]]:
    """Measurements and problems of a sweep whose server carries out every request, and of whose answers a share is lost."""
    reference = Sweep(root / "off", [*words, "tracking=off"])
    if reference.run() != 0:
        raise RuntimeError(reference.output_text())
    server = Server(root / "server")
    server.start()
    try:
        with lossy(server.tracking.uri or "", share) as proxy:
            settings = ["tracking=server", f"tracking.uri={proxy.uri}"]
            sweep = Sweep(root / "server", [*words, *settings])
            began = time.monotonic()
            status = sweep.run()
            seconds = time.monotonic() - began
            waiting = len(list((sweep.folder / "outbox").glob("*.json")))
            sync = [sys.executable, "-m", "src.sync", f"multirun={sweep.multirun}", *settings]
            n_syncs, code = 0, 1
            while code != 0 and n_syncs < MOST_SYNCS:
                synced = subprocess.run(sync, cwd=PROJECT, capture_output=True, text=True, check=False)
                n_syncs, code = n_syncs + 1, synced.returncode
        problems = [f"exit status {status}: {sweep.output_text()[-2000:]}"] if status != 0 else []
        problems += [f"make sync, {n_syncs} times: {synced.stderr}"] if code != 0 else []
        problems += same_results(sweep.results(), reference.results())
        problems += audit(sweep, reference.results(), server.tracking)
    finally:
        server.kill()
    return [
        f"{proxy.n_lost} of {proxy.n_asked} answers were lost; the command took {seconds:.0f} s, {waiting} entries were left",
        f"make sync delivered them at the {n_syncs}. time",
        f"{len(problems)} problems",
        *problems,
    ], problems
