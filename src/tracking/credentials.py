"""The password of the MLflow servers that a user starts on this machine (`src.ui`).

Every account of a machine can connect to its loopback ports. An MLflow server without a password lets whoever connects
delete experiments, and read each file of the server's owner through an experiment whose artifacts lie at a `file:`
path.
"""

from __future__ import annotations

import configparser
import os
import secrets
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from src.io import write_atomically
from src.urls import sqlite_url

USER = "lab"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OF_CLIENT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""What MLflow's client reads; a user who sets one of them means another server's account."""


class Credentials(NamedTuple):
    """A user of the server, and the file from which MLflow's server reads it."""

    user: str
    password: str
    config: Path


def folder() -> Path:
    """The folder of this user's credentials; no other user can enter it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "sequential-or-combined"


def stored() -> Credentials | None:
    """The credentials that `create` has stored; None if there are none."""
    config = folder() / "mlflow.ini"
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(config):
        return None
    return Credentials(parser["mlflow"]["admin_username"], parser["mlflow"]["admin_password"], config)


def create() -> Credentials:
    """The stored credentials, or new ones with a random password. Raises OSError if the folder cannot be written."""
    known = stored()
    if known is not None:
        return known
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    folder().chmod(0o700)
    users = folder() / "mlflow-users.db"
    users.unlink(missing_ok=True)  # it holds the hash of an earlier password, which MLflow would keep
    created = Credentials(USER, secrets.token_urlsafe(15), folder() / "mlflow.ini")
    lines = [
        "[mlflow]",
        f"admin_username = {created.user}",
        f"admin_password = {created.password}",
        "default_permission = NO_PERMISSIONS",
        f"database_uri = {sqlite_url(users)}".replace("%", "%%"),  # MLflow interpolates
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds = 3600",  # otherwise each request of a page costs a PBKDF2 hash
    ]
    write_atomically(created.config, "\n".join(lines) + "\n", mode=0o600)
    return created


def use_for(uri: str) -> None:
    """Let MLflow's client log in to a server on this machine by the stored credentials, unless others are set."""
    if urlsplit(uri).hostname not in LOOPBACK or any(os.environ.get(name) for name in OF_CLIENT):
        return
    known = stored()
    if known is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = known.user, known.password
