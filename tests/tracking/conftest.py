"""A local MLflow next to the results, and a real tracking server on a loopback port, each made once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from src.config import TrackingConfig
from src.tracking.connect import keep_mlflow_quiet

keep_mlflow_quiet()


@pytest.fixture
def multirun(empty_multirun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_multirun, tmp_path / "multirun"))


@pytest.fixture
def local() -> TrackingConfig:
    return TrackingConfig(name="local", uri=None, experiment="lab")


class Server:
    """`mlflow server` on a loopback port of its own, over a database and a folder of artifacts."""

    def __init__(self, multirun: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._multirun = multirun
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tracking(self) -> TrackingConfig:
        return TrackingConfig(name="server", uri=self.uri, experiment="lab")

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._multirun / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._multirun / "mlartifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = (self._multirun.parent / "server.log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        log.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError((self._multirun.parent / "server.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
