"""MLflow's page on the results."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
import webbrowser
from pathlib import Path

from src.cli import command, fail, settings
from src.config import TrackingConfig
from src.errors import did_you_mean
from src.tracking.connect import artifact_root, keep_mlflow_quiet, tracking_uri
from src.tracking.credentials import create, folder
from src.tracking.views import view_path
from src.urls import without_password

USAGE = """\
python -m src.ui [port=5000] [multirun=multirun] [storage=postgresql://...] [login=true] [sweep=NAME] [open=true]

Prints the address of the comparison of the sweep that ended last (sweep=NAME: of another), and on a desktop opens it
in a browser (open=false does not).

Listens on loopback, where every user of this machine can connect, so the page asks for a user and a password. They are
printed, and stay the same from start to start. login=false does without: for a machine that nobody else uses.
`storage` names a database in place of multirun/mlflow.db: the set-up of a team, for `tracking=server`. Its password
comes from PGPASSWORD, never from the command line.
"""


DEPRECATED = "ignore:starlette.middleware.wsgi is deprecated"
"""A filter for what MLflow's server prints of its own imports, twice; nothing here uses that module."""


def main() -> None:
    """Replace this process by MLflow's server; Ctrl-C ends it."""
    defaults = {"port": "5000", "multirun": "multirun", "storage": None, "login": "true", "sweep": None, "open": "true"}
    given = settings(defaults, sys.argv[1:])
    port, multirun = str(given["port"]), Path(str(given["multirun"]))
    if not port.isdigit() or not 0 < int(port) < 65536:
        fail(f"port={port}: must be a number from 1 to 65535")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", int(port))) == 0:
            fail(f"port={port}: is in use; choose another, e.g. port={int(port) + 1}")
    storage, password = without_password(given["storage"] or "")
    if password is not None:
        fail(
            f"storage={storage}: contains a password, which every user of this machine could read; set PGPASSWORD "
            "instead"
        )
    local = TrackingConfig(name="local", uri=given["storage"], experiment="")
    uri = tracking_uri(local, multirun)
    assert uri is not None
    exists = given["storage"] is not None or (multirun / "mlflow.db").exists()
    if not exists:
        print(f"no results in {multirun} yet; run `make sweep`", file=sys.stderr)
        multirun.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its sign-in is experimental, it warns
    keep_mlflow_quiet()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # saves seven idle processes
    os.environ["PYTHONWARNINGS"] = DEPRECATED
    address = f"http://127.0.0.1:{port}"
    if exists and (found := _finished_sweep(uri, given["sweep"])) is not None:
        sweep, experiment = found
        path = view_path(experiment, "cells")
        print(f"who wins in {sweep}: {address}{path}", file=sys.stderr)
        for what, view in (("the same as charts", "cells"), ("curves of the largest difference", "curves")):
            print(f"{what}: {address}{view_path(experiment, view, charts=True)}", file=sys.stderr)
        address += path
    login = _require_login() if given["login"] == "true" else []
    print(f"MLflow: http://127.0.0.1:{port}   (Ctrl-C ends it)", file=sys.stderr)
    if given["open"] == "true":
        _open_when_ready(address, int(port))
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port),
            *login,
            *("--uvicorn-opts", "--log-level warning"),  # a line a request would bury the address and the password
            *("--workers", "1"),  # several restart for ever where the start of one takes over 5 s
            *("--backend-store-uri", uri, "--registry-store-uri", uri),
            *("--artifacts-destination", artifact_root(multirun).as_uri()),
        ],
    )


def _finished_sweep(uri: str, sweep: str | None) -> tuple[str, str] | None:
    """A sweep that has a result, by default the one that ended last, and the id of its experiment."""
    from src.tracking.bulk import finished_sweeps  # imports SQLAlchemy

    known = finished_sweeps(uri)
    if sweep is None:
        return next(iter(known.items()), None)
    if sweep not in known:
        fail(
            f"sweep={sweep}: MLflow has no result of it, `make sync` writes what is on disk; "
            f"{did_you_mean(sweep, list(known))}"
        )
    return sweep, known[sweep]


def _open_when_ready(address: str, port: int) -> None:
    """Opens a graphical browser once the server answers, from a process of its own: this one becomes the server."""
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    if os.fork():
        return
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                webbrowser.open(address)
                break
        time.sleep(0.1)
    os._exit(0)


def _require_login() -> list[str]:
    """Print the user's credentials and hand them to the server; return the option that makes it ask for them."""
    try:
        credentials = create()
    except OSError as error:
        fail(f"login=true: cannot store a password in {folder()} ({error.strerror}); set XDG_STATE_HOME=FOLDER")
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(credentials.config)
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(16)
    for name in ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        os.environ.pop(name, None)  # they would precede the file
    print(f"user {credentials.user}, password {credentials.password}   ({credentials.config})", file=sys.stderr)
    return ["--app-name", "basic-auth"]


if __name__ == "__main__":
    command(main, USAGE)
