"""Runs a sweep on a Ray cluster of two nodes and kills one.   python -m benchmarks.ray_check [nodes pair interrupt]   (make cluster-check)

Both nodes are on this machine, with 2 processors and 2 faked GPUs each. Checks: workers are spread and hold half a GPU each, as
trainer.slots=2 says; the cells of the killed node are run again, every run once, equal bit for bit to launcher=local; a run on two
devices holds a placement group; Ctrl-C in a cluster of the command's own ends it with all its processes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cluster_check import SECONDS, free_port, results, started, wait_for

GRID = [
    "split.ratio=0.3,1,3",
    "split.imbalance=1,5",
    "split.size=200",
    "stopping.epochs=100,200",
    "seeds=2",
    "tracking=off",
]
N_RUNS = 12 * 2 * 2
FEW = ["split.ratio=0.3,0.6,1,2,3,6", "split.size=200", "stopping.epochs=200", "seeds=2", "tracking=off"]
ON_RAY = ["launcher=ray", "launcher.address=auto", "trainer.slots=2"]
TWO_DEVICES = ["split.size=200", "seeds=1", "tracking=off", "trainer=ddp", "sweep=pair", *ON_RAY[:2]]
STARTS = 5
TASK_SECONDS = 120
"""Ray removes the processes of a killed node within this time."""


@contextmanager
def node(*options: str, is_up: Callable[[], bool], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a cluster, with its processes in a group of their own.

    Ray gives a node 30 s to start, which are too few on a loaded machine: it is started again up to `STARTS` times.
    """
    resources = ["--num-cpus=2", "--num-gpus=2", "--object-store-memory=100000000", "--include-log-monitor=false"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *resources, *options]
    for _ in range(STARTS):
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        wait_for("a node starts", lambda process=process: process.poll() is not None or is_up())
        if process.poll() is None:
            break
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # it ends the other processes of the node
            process.wait(SECONDS)


def processes_of(folder: Path) -> list[str]:
    """The command lines of the live processes that name `folder`."""
    lines = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if str(folder) in line]


def held(ray: Any) -> tuple[float, float]:
    """The processors and GPUs that tasks hold now."""
    total, free = ray.cluster_resources(), ray.available_resources()
    cpus, gpus = (total.get(name, 0) - free.get(name, 0) for name in ("CPU", "GPU"))
    return cpus, gpus


def n_at_work(sweep: Path) -> int:
    """Number of workers that run a cell, or help with one."""
    processes = [json.loads(path.read_text()) for path in sweep.glob("processes/*.json")]
    return sum(one["role"] == "worker" and one["cell"] is not None for one in processes)


def finished(sweep: Path) -> list[str]:
    """A line for each time that a worker finished a run."""
    logs = "\n".join(path.read_text() for path in sweep.glob("logs/*.log"))
    return re.findall(r"finished (\S+)", logs)


def with_killed_node(ray: Any, multirun: Path, port: int, log: Path) -> dict[str, bool]:
    """Runs the sweep, kills the second node in the middle of it, and returns the checks."""
    join = f"--address=127.0.0.1:{port}"
    with node(join, is_up=lambda: sum(n["Alive"] for n in ray.nodes()) == 2, log=log) as second:
        sweep = started("src.sweep", "-m", *GRID, *ON_RAY, "sweep=nodes", f"multirun={multirun}", log=log)
        seen: set[tuple[float, float]] = set()

        def runs_on_both() -> bool:
            seen.add(held(ray))
            return sweep.poll() is not None or (
                n_at_work(multirun / "nodes") == 4 and bool(finished(multirun / "nodes"))
            )

        wait_for("all four workers are at work and a run is finished", runs_on_both)
        n_before = len(results(multirun / "nodes"))
        os.killpg(second.pid, signal.SIGKILL)
        second.wait(60)
    code = sweep.wait(SECONDS)
    alone = started("src.sweep", "-m", *GRID, "sweep=nodes", f"multirun={multirun}-local", "n_workers=2", log=log)
    lines = finished(multirun / "nodes")
    return {
        "the sweep on two nodes ends with code 0": code == 0,
        "four workers held a processor and half a GPU each": (4, 2) in seen and all(g == c / 2 for c, g in seen),
        f"a node was killed after {n_before} of {N_RUNS} runs": 0 < n_before < N_RUNS,
        "every run is there, finished once": len(lines)
        == len(set(lines))
        == len(results(multirun / "nodes"))
        == N_RUNS,
        "equal to launcher=local, bit for bit": alone.wait(SECONDS) == 0
        and results(multirun / "nodes") == results(Path(f"{multirun}-local") / "nodes"),
    }


def on_two_devices(ray: Any, multirun: Path, log: Path) -> dict[str, bool]:
    """Runs a cell on two devices and returns the checks."""
    pair = started("src.sweep", *TWO_DEVICES, f"multirun={multirun}", log=log)
    seen: set[tuple[float, float]] = set()

    def has_ended() -> bool:
        seen.add(held(ray))
        return pair.poll() is not None

    wait_for("a run on two devices ends", has_ended)
    groups = [group["bundles"] for group in ray.util.placement_group_table().values()]
    return {
        "two devices of a run are a placement group of 2 processors and 2 GPUs": pair.returncode == 0
        and len(results(multirun / "pair")) == 2
        and {(c["CPU"], c["GPU"]) for bundles in groups for c in bundles.values()} == {(2, 2)}
        and (2, 2) in seen,
    }


def interrupted(multirun: Path, scratch: Path, log: Path) -> dict[str, bool]:
    """Interrupts a sweep in a cluster of its own as a terminal does, continues it, and returns the checks."""
    words = ["-m", *FEW, "sweep=nodes", f"multirun={multirun}"]
    for _ in range(STARTS):
        sweep = started("src.sweep", *words, "launcher=ray", log=log)
        wait_for("a run is there", lambda sweep=sweep: sweep.poll() is not None or bool(results(multirun / "nodes")))
        if sweep.poll() is None:
            break
    os.killpg(sweep.pid, signal.SIGINT)
    code, n_before = sweep.wait(SECONDS), len(results(multirun / "nodes"))
    end = time.monotonic() + TASK_SECONDS
    while (left := processes_of(scratch)) and time.monotonic() < end:
        time.sleep(1)
    again = started("src.sweep", *words, "n_workers=2", log=log).wait(SECONDS)
    alone = started("src.sweep", *words[:-1], f"multirun={multirun}-local", "n_workers=2", log=log).wait(SECONDS)
    return {
        f"Ctrl-C after {n_before} runs: code 130, and no process is left": code == 130 and not left,
        "continued by launcher=local, equal bit for bit": again == alone == 0
        and results(multirun / "nodes") == results(Path(f"{multirun}-local") / "nodes"),
    }


def main(parts: Sequence[str]) -> int:
    """Print the checks of these parts; return 1 if one fails."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Ray would kill workers where other programs need the memory of this machine.
    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_memory_monitor_refresh_ms": "0"}
    import ray

    found: dict[str, bool] = {}
    begun, port = time.monotonic(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-") as root:
        folder = Path(root)
        log, multirun = folder / "log", folder / "nodes"
        address = f"127.0.0.1:{port}"
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/t"]
        with node(*head, is_up=lambda: connects(ray, address), log=log):
            os.environ["RAY_ADDRESS"] = address  # what launcher.address=auto means
            if "nodes" in parts:
                found |= with_killed_node(ray, multirun, port, log)
            if "pair" in parts:
                found |= on_two_devices(ray, multirun, log)
            ray.shutdown()
        os.environ["RAY_TMPDIR"] = f"{folder}/t"
        if "interrupt" in parts:
            found |= interrupted(folder / "stopped", folder / "t", log)
        if not all(found.values()):
            print(log.read_text()[-6000:], file=sys.stderr)
    for what, holds in found.items():
        print(f"{'yes' if holds else 'NO '}  {what}")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0 if all(found.values()) else 1


def connects(ray: Any, address: str) -> bool:
    """Connects this process to the cluster; returns whether its head answers."""
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        if probe.connect_ex((host, int(port))):
            return False
    try:
        ray.init(address, logging_level="error")
    except Exception:  # Ray raises no narrower one while the head starts
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ("nodes", "pair", "interrupt")))
