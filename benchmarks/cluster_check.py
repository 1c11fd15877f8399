"""Runs the quick start for several hosts as documented.   python -m benchmarks.cluster_check [key=value ...]   (make cluster-check)

docs/LAUNCHING.md, "Several hosts", on one machine: a PostgreSQL with a password, an MLflow server on it, a sweep with 2 workers
and a third that joins late; then the same sweep in a journal with one worker. Checks: every run once, equal bit for bit; MLflow
has each run once, none RUNNING; the late worker finished cells; the password is in no file, log or param.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.tracking.credentials import use_for
from tests.postgres import running

GRID = ["split.ratio=0.3,1,3", "split.imbalance=1,5", "split.size=200", "stopping.epochs=5,10", "seeds=3", "sweep=team"]
N_RUNS = 12 * 2 * 3
SECONDS = 1800
"""Upper limit for a wait, in seconds; a loaded machine needs less."""


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(module: str, *words: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a command of the project in the background."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", module, *words]
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


@contextmanager
def mlflow_server(storage: str, multirun: Path, log: Path) -> Iterator[str]:
    """``make server ARGS="storage=..."``"""
    port = free_port()
    process = started("src.ui", f"port={port}", f"storage={storage}", f"multirun={multirun}", log=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for("the MLflow server answers", lambda: _answers(f"{uri}/health"))
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def wait_for(what: str, holds: Any) -> None:
    """Wait until `holds()` is true; SystemExit after the time limit."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        time.sleep(0.5)


def results(sweep: Path) -> dict[str, Any]:
    """The `result` of every run, by its folder."""
    found = sorted(sweep.glob("cells/*/*/result.json"))
    return {str(path.parent.relative_to(sweep)): json.loads(path.read_text())["result"] for path in found}


def main(words: list[str]) -> int:
    """Print the checks; return 1 if one fails."""
    password = secrets.token_hex(8)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cluster-") as root, running(password=password, port=free_port()) as url:
        folder = Path(root)
        multirun, log = folder / "multirun", folder / "log"
        os.environ["PGPASSWORD"] = password
        with mlflow_server(url, multirun, log) as uri:
            del os.environ["PGPASSWORD"]  # from here on it comes from the URL, and must be taken out of it
            with_password = url.replace("lab@", f"lab:{password}@")
            where = [f"storage={with_password}", "tracking=server", f"tracking.uri={uri}", f"multirun={multirun}"]
            sweep = started("src.sweep", "-m", *GRID, *words, *where, "n_workers=2", log=log)
            claimed = multirun / "team/cells"
            wait_for("a cell is claimed", lambda: any(claimed.glob("*/.lock")) or sweep.poll() is not None)
            os.environ["PGPASSWORD"] = password
            late = started("src.worker", "sweep=team", f"multirun={multirun}", log=folder / "late")
            codes = [sweep.wait(SECONDS), late.wait(SECONDS)]
            mirror = started("src.sync", "tracking=server", f"tracking.uri={uri}", f"multirun={multirun}", log=log)
            codes.append(mirror.wait(SECONDS))  # on a busy machine the sweep leaves before all is delivered
            seen = _mirrored(uri)
        alone = started(
            "src.sweep", "-m", *GRID, *words, f"multirun={folder}/alone", "tracking=off", "n_workers=1", log=log
        )
        codes.append(alone.wait(SECONDS))
        files = [path for path in folder.rglob("*") if path.is_file()]
        output = (folder / "late").read_text()
        found = {
            "exit codes 0 (sweep, late worker, sync, alone)": codes == [0, 0, 0, 0],
            f"{N_RUNS} runs on disk": len(results(multirun / "team")) == N_RUNS,
            "equal to one worker on SQLite, bit for bit": results(multirun / "team") == results(folder / "alone/team"),
            f"MLflow has {N_RUNS} runs, each once and FINISHED": seen == {"FINISHED": N_RUNS, "different": N_RUNS},
            "the late worker finished cells": "it ended 0 cells" not in output and "it ended" in output,
            f"the password is in none of {len(files)} files": not [
                p for p in files if password.encode() in p.read_bytes()
            ],
        }
        if not all(found.values()):
            print(log.read_text()[-4000:], output, codes, seen, sep="\n", file=sys.stderr)
    for what, holds in found.items():
        print(f"{'yes' if holds else 'NO '}  {what}")
    print(f"{time.monotonic() - begun:.0f} s; {output.splitlines()[-1]}")
    return 0 if all(found.values()) else 1


def _mirrored(uri: str) -> dict[str, int]:
    """Number of runs in the experiment by status, and number of different runs."""
    from mlflow import MlflowClient

    use_for(uri)
    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    leaves = client.search_runs([experiment.experiment_id], "tags.level = 'run'", max_results=1000)
    counts: dict[str, int] = {}
    for run in leaves:
        counts[run.info.status] = counts.get(run.info.status, 0) + 1
    return {**counts, "different": len({run.data.tags["run"] for run in leaves})}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
