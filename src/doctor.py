"""Check the installation and the results, and name the fixes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.cli import command, settings
from src.sweep.processes import is_locked, read_process
from src.sweep.workers.gpus import visible_gpus
from src.tracking.outbox import Outbox
from src.tracking.record import mask

USAGE = """python -m src.doctor [multirun=multirun]

Exit status 1 if anything would stop a sweep.
"""

ROOT = Path(__file__).resolve().parent.parent
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
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)([^\\\n]*)", (ROOT / "requirements.lock").read_text(), re.M)
    wanted: dict[str, set[str]] = {}
    for name, pinned, _ in pins:
        wanted.setdefault(name, set()).add(pinned)
    for name in ("torch", "torchvision", "pytorch-lightning", "hydra-core", "optuna", "mlflow"):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check("wrong", name, "not installed", "make setup")
            continue
        same = found.split("+")[0] in wanted.get(name, set())
        pinned = " or ".join(sorted(wanted.get(name, set())))
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
    yield Check("ok", "CPU", f"{len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}")


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
        storage = json.loads(path.read_text()).get("storage")
        if storage and not storage.startswith("sqlite"):
            yield _postgres(f"{path.parent.name}: queue", storage)


def _sqlite(file: Path) -> Check:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as connection:
            (state,) = connection.execute("PRAGMA quick_check").fetchone()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return Check("wrong", str(file), str(error), _remedy(file))
    if state != "ok" or found is None:
        return Check("wrong", str(file), "its creation was interrupted" if state == "ok" else state, _remedy(file))
    known = _revisions("mlflow", "store/db_migrations")
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


def _revisions(package: str, migrations: str) -> list[str]:
    """The schema revisions that an installed package knows, its own first."""
    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    scripts = ScriptDirectory(str(Path(spec.origin).parent / migrations))
    return [script.revision for script in scripts.walk_revisions()]


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
    deadline = time.monotonic() + LOCK_SECONDS
    while is_locked(lock):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.02)
    return False


def left_behind(multirun: Path) -> Iterator[Check]:
    """Undelivered outbox entries, failed runs and temporary files of killed processes."""
    for sweep in sorted(path.parent for path in multirun.glob("*/cells")):
        outbox = Outbox(sweep)
        waiting = len(outbox.entries()) + len(outbox.pending())
        if waiting:
            yield Check("look", f"{sweep.name}: outbox", f"{waiting} entries wait for MLflow", "make sync")
        refused = len(list((sweep / "outbox" / "refused").glob("*.json")))
        if refused:
            fix = f"read {sweep}/outbox/refused, fix the cause, then make sync"
            yield Check("look", f"{sweep.name}: outbox", f"{refused} entries refused", fix)
        failed = len(list(sweep.glob("cells/*/*/failed.json")))
        if failed:
            yield Check("look", f"{sweep.name}: runs", f"{failed} failed", "the same command retries them")
        halves = list(sweep.rglob(".*.tmp"))
        if halves:
            fix = "harmless; delete them while no sweep runs"
            yield Check("look", f"{sweep.name}: files", f"{len(halves)} incomplete files of killed processes", fix)


def main() -> int:
    """Print every check; returns 1 if one is wrong."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    given = settings({"multirun": "multirun"}, usage=USAGE)
    multirun = Path(str(given["multirun"]))
    checks = [*python(), *devices(), *disk(multirun), *databases(multirun)]
    checks += [*processes(multirun), *left_behind(multirun)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    colours = {"ok": "green", "look": "yellow", "wrong": "red"}
    for check in checks:
        fix = f"\n-> {check.fix}" if check.fix else ""
        state = f"[{colours[check.state]}]{check.state}[/]"
        table.add_row(state, escape(check.subject), escape(f"{check.found}{fix}"))
    Console(highlight=False).print(table)
    return 1 if any(check.state == "wrong" for check in checks) else 0


if __name__ == "__main__":
    command(main)
