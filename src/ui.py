"""MLflow's page on the results."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from src.cli import command, fail, settings
from src.config import TrackingConfig
from src.tracking.connect import artifact_root, keep_mlflow_quiet, tracking_uri
from src.urls import without_password

USAGE = """python -m src.ui [port=5000] [multirun=multirun] [storage=postgresql://...]

Listens on loopback. `storage` names a database in place of multirun/mlflow.db: the set-up of a team, for
`tracking=server`. The password comes from PGPASSWORD, never from the command line.
"""


def main() -> None:
    """Replace this process by MLflow's server; Ctrl-C ends it."""
    given = settings({"port": "5000", "multirun": "multirun", "storage": None}, usage=USAGE)
    port, multirun = str(given["port"]), Path(str(given["multirun"]))
    if not port.isdigit() or not 0 < int(port) < 65536:
        fail(f"port={port}: must be a number from 1 to 65535")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", int(port))) == 0:
            fail(f"port={port}: is in use; choose another, e.g. port={int(port) + 1}")
    storage, password = without_password(given["storage"] or "")
    if password is not None:
        fail(
            f"storage={storage}: contains a password, which every user of this machine could read; set PGPASSWORD instead"
        )
    local = TrackingConfig(name="local", uri=given["storage"], experiment="")
    uri = tracking_uri(local, multirun)
    assert uri is not None
    if given["storage"] is None and not (multirun / "mlflow.db").exists():
        print(f"no results in {multirun} yet; run `make sweep`", file=sys.stderr)
        multirun.mkdir(parents=True, exist_ok=True)
    keep_mlflow_quiet()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # saves seven idle processes
    print(f"MLflow: http://127.0.0.1:{port}   (Ctrl-C ends it)", file=sys.stderr)
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port),
            *("--workers", "1"),  # several restart for ever where the start of one takes over 5 s
            *("--backend-store-uri", uri, "--artifacts-destination", artifact_root(multirun).as_uri()),
        ],
    )


if __name__ == "__main__":
    command(main)
