"""`src.ui` asks for a password: every user of a machine can connect to its loopback ports."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from src.config import TrackingConfig
from src.tracking import credentials
from src.tracking.connect import open_tracker
from src.tracking.tracker import TrackerUnavailable


class Page(NamedTuple):
    uri: str
    user: str
    password: str
    folder: Path
    """XDG_STATE_HOME of the user who started it."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A server started by `src.ui`, as its terminal describes it."""
    root = tmp_path_factory.mktemp("ui 50%")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = root / "log"
    command = [sys.executable, "-m", "src.ui", f"port={port}", f"multirun={root / 'multirun'}"]
    environment = {**os.environ, "XDG_STATE_HOME": str(root / "state"), "MLFLOW_AUTH_ADMIN_PASSWORD": "known-to-others"}
    environment.pop("MLFLOW_LOGGING_LEVEL", None)  # which other tests of this process set
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", log)
        printed = re.search(r"user (\S+), password (\S+) ", log.read_text())
        assert printed is not None, log.read_text()
        noise = ("Deprecat", "experimental", "Registry store", "Uvicorn", "GET /")
        assert not [word for word in noise if word in log.read_text()], "it would bury the address and the password"
        yield Page(f"http://127.0.0.1:{port}", printed[1], printed[2], root / "state")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(url: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(log.read_text())


def _status(page: Page, path: str, user: str | None = None, password: str = "", body: bytes | None = None) -> int:
    request = urllib.request.Request(page.uri + path, data=body, headers={"Content-Type": "application/json"})
    if user is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", None),
        ("/get-artifact?path=x&run_uuid=y", None),
        ("/api/2.0/mlflow/experiments/search", b'{"max_results": 5}'),
        ("/ajax-api/2.0/mlflow/experiments/search", b'{"max_results": 5}'),
        ("/api/2.0/mlflow/experiments/create", b'{"name": "x", "artifact_location": "file:///etc"}'),
        ("/api/2.0/mlflow/experiments/delete", b'{"experiment_id": "0"}'),
        ("/api/2.0/mlflow-artifacts/artifacts", None),
        ("/graphql", b"{}"),
    ],
)
def test_without_the_password_nothing_is_read_or_written(page: Page, path: str, body: bytes | None) -> None:
    assert _status(page, path, body=body) == 401
    assert _status(page, path, page.user, "guessed", body=body) == 401
    assert _status(page, path, page.user, "known-to-others", body=body) == 401


def test_the_printed_password_opens_the_page_and_other_users_cannot_read_its_file(page: Page) -> None:
    assert _status(page, "/", page.user, page.password) == 200
    search = "/api/2.0/mlflow/experiments/search"
    assert _status(page, search, page.user, page.password, b'{"max_results": 5}') == 200
    folder = page.folder / "sequential-or-combined"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "mlflow.ini").stat().st_mode) == 0o600


def test_a_sweep_of_the_same_user_writes_to_the_server_and_another_is_told_what_to_set(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingConfig(name="server", uri=page.uri, experiment="lab")
    for name in credentials.OF_CLIENT:
        monkeypatch.setenv(name, "")  # restores what open_tracker sets
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(TrackerUnavailable, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        open_tracker(tracking, tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(page.folder))
    tracker = open_tracker(tracking, tmp_path)
    assert tracker is not None
    tracker.close()


def test_the_password_goes_to_no_other_host_and_an_account_that_the_user_names_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in credentials.OF_CLIENT:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    created = credentials.create()
    assert credentials.create() == created
    credentials.use_for("https://mlflow.example.org")
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == ""
    credentials.use_for("http://localhost:5000")
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == created.password
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-another-account")
    credentials.use_for("http://localhost:5000")
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "of-another-account"
    created.config.unlink()
    assert credentials.create().password != created.password
