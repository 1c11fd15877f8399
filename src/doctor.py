"""Checks the installation and the results, and names the fixes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from src.cli import command, settings
from src.environment import n_processors
from src.io import PROJECT, read_json
from src.sweep.processes import is_locked, read_process
from src.sweep.workers.gpus import visible_gpus
from src.terminal import console
from src.tracking.outbox import Outbox
from src.tracking.record import mask

USAGE = """python -m src.doctor [multirun=multirun]

Checks the installation, devices, disk and the results in `multirun`, one line each with the fix where one is needed.
Exit status 1 if anything would stop a sweep.
"""

FREE_GIB = 2.0
LOCK_SECONDS = 1.0
"""Longer than a working process holds a lock."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check. `fix`: what to do about it."""

    state: Literal["ok", "look", "wrong"]
    subject: str
    found: str
    fix: str = ""


def python() -> Iterator[Check]:
    """Versions of Python and of the packages, against the lock file."""
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("ok" if good else "wrong", "python", version, "" if good else "use Python 3.11 or newer")
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for name, pinned in re.findall(r"^([\w.-]+)==([^ ;\\]+)", (PROJECT / "requirements.lock").read_text(), re.M):
        wanted[name].add(pinned)
    for name in ("torch", "torchvision", "pytorch-lightning", "hydra-core", "optuna", "mlflow"):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check("wrong", name, "not installed", "make setup")
            continue
        same, pinned = found.split("+")[0] in wanted[name], " or ".join(sorted(wanted[name]))
        yield Check("ok" if same else "look", name, found, "" if same else f"the lock pins {pinned}: make setup")


def devices() -> Iterator[Check]:
    """The devices that torch sees."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    setting = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        yield Check("ok", "GPUs", ", ".join(names) + setting)
        leased = [gpu.visible_as for gpu in visible_gpus()]
        if len(leased) == len(names):
            yield Check("ok", "leases", f"workers lease {', '.join(leased)}")
        else:
            fix = "workers lease the GPUs that the driver (NVML) lists; set n_workers by hand"
            yield Check("look", "leases", f"the driver lists {len(leased)} of these {len(names)} GPUs{setting}", fix)
    else:
        yield Check("ok", "GPUs", f"none visible{setting}: trainer=auto uses the CPU")
    yield Check("ok", "CPU", f"{n_processors()} cores, {torch.backends.cpu.get_cpu_capability()}")


def disk(multirun: Path) -> Iterator[Check]:
    """Free space, and whether results can be written."""
    folder = next(path for path in (multirun.absolute(), *multirun.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**30
    state: Literal["ok", "wrong"] = "ok" if free >= FREE_GIB else "wrong"
    yield Check(state, "disk", f"{free:.1f} GiB free", "" if state == "ok" else f"free at least {FREE_GIB:g} GiB")
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Check("ok", "multirun", f"{multirun} can be written")
    except OSError as error:
        yield Check("wrong", "multirun", f"{multirun}: {error.strerror}", "chmod u+w, or multirun=another/folder")


def databases(multirun: Path) -> Iterator[Check]:
    """MLflow's database and every sweep's queue: readable, and of a schema that this version reads."""
    if (multirun / "mlflow.db").exists():
        yield _sqlite(multirun / "mlflow.db")
    for file in sorted(multirun.glob("*/study.journal")):
        yield _journal(file)
    for path in sorted(multirun.glob("*/queue.json")):
        try:
            storage = read_json(path).get("storage")
        except ValueError as error:
            yield Check("wrong", str(path), f"damaged: {error}", "repeat the sweep's command, which writes it again")
            continue
        if storage and not storage.startswith("sqlite"):
            yield _postgres(f"{path.parent.name}: queue", storage)


def _sqlite(file: Path) -> Check:
    from src.tracking.schema import known_revisions  # imports MLflow

    try:
        address = f"{file.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            (state,) = connection.execute("PRAGMA quick_check").fetchone()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return Check("wrong", str(file), str(error), _remedy(file))
    if state != "ok" or found is None:
        return Check("wrong", str(file), "its creation was interrupted" if state == "ok" else state, _remedy(file))
    known = known_revisions()
    (revision,) = found
    if revision == known[0]:
        return Check("ok", str(file), f"intact, schema {revision}")
    if revision not in known:
        fix = f"written by a newer mlflow: make setup where that is pinned; or {_remedy(file)}"
        return Check("wrong", str(file), f"schema {revision}, unknown to this version", fix)
    fix = "nothing: the next sweep or make sync upgrades it, and keeps a copy"
    return Check("look", str(file), f"schema {revision}, of an older mlflow", fix)


def _journal(file: Path) -> Check:
    """Whether every line of a study's journal is whole; a last line without its end is being written, or is dropped."""
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        for line in lines:
            json.loads(line)
    except ValueError as error:
        return Check("wrong", str(file), f"damaged: {error}", _remedy(file))
    return Check("ok", str(file), f"intact, {len(lines)} records")


def _postgres(what: str, storage: str) -> Check:
    import psycopg2

    try:
        psycopg2.connect(storage.replace("postgresql+psycopg2://", "postgresql://"), connect_timeout=5).close()
    except psycopg2.Error as error:
        fix = "start the server, or check the network; the password belongs in PGPASSWORD or ~/.pgpass"
        return Check("wrong", what, mask(" ".join(str(error).split())), fix)
    return Check("ok", what, f"{mask(storage)} answers")


def _remedy(file: Path) -> str:
    if file.name == "mlflow.db":
        return "move it away; `make sync` rebuilds it from the results on disk"
    return "move it away; the same command queues what is missing"


def processes(multirun: Path) -> Iterator[Check]:
    """Live and killed processes of each sweep, and locks that are held for long."""
    for registry in sorted(multirun.glob("*/processes")):
        known = [info for path in sorted(registry.glob("[!.]*.json")) for info in read_process(path)]
        living = [info for info in known if is_locked(registry / f"{info.id}.lock")]
        if living:
            shown = ", ".join(f"{info.role} {info.pid} on {info.host}" for info in living)
            yield Check("ok", f"{registry.parent.name}: running", shown)
        if len(living) < len(known):
            fix = "nothing: the next worker or the same command requeues their cells"
            yield Check("look", f"{registry.parent.name}: processes", f"{len(known) - len(living)} were killed", fix)
    for lock in (multirun / "mlflow.lock", *sorted(multirun.glob("*/study.lock"))):
        if lock.exists() and _held(lock):
            fix = "a suspended command (Ctrl-Z)? resume (fg) or kill it; an ended process holds no lock"
            yield Check("look", str(lock), f"held for over {LOCK_SECONDS:g} s", fix)


def _held(lock: Path) -> bool:
    with contextlib.suppress(Timeout), FileLock(lock, timeout=LOCK_SECONDS, poll_interval=0.02):
        return False
    return True


def left_behind(multirun: Path) -> Iterator[Check]:
    """Undelivered outbox entries, failed runs and temporary files of killed processes."""
    for sweep in sorted(path.parent for path in multirun.glob("*/cells")):
        outbox, refused = Outbox(sweep), f"read {sweep}/outbox/refused, fix the cause, then make sync"
        kinds = (
            ("outbox", "entries wait for MLflow", [*outbox.entries(), *outbox.pending()], "make sync"),
            ("outbox", "entries refused", sweep.glob("outbox/refused/*.json"), refused),
            ("runs", "failed", sweep.glob("cells/*/*/failed.json"), "the same command retries them"),
            ("files", "incomplete files of killed processes", sweep.rglob(".*.tmp"), "delete them while no sweep runs"),
        )
        for subject, found, paths, fix in kinds:
            if n := len(list(paths)):
                yield Check("look", f"{sweep.name}: {subject}", f"{n} {found}", fix)


def main() -> int:
    """Prints every check; returns 1 if one is wrong."""
    from rich.table import Table
    from rich.text import Text

    given = settings({"multirun": "multirun"}, sys.argv[1:])
    multirun = Path(str(given["multirun"]))
    checks = [*python(), *devices()]
    for examine in (disk, databases, processes, left_behind):
        checks += examine(multirun)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    colours = {"ok": "green", "look": "yellow", "wrong": "red"}
    for check in checks:
        fix = f"\n-> {check.fix}" if check.fix else ""
        table.add_row(Text(check.state, colours[check.state]), check.subject, f"{check.found}{fix}")
    console().print(table)
    return 1 if any(check.state == "wrong" for check in checks) else 0


if __name__ == "__main__":
    command(main, USAGE)
