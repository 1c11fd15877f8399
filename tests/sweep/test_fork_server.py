"""The fork server ends with its command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.io import PROJECT
from src.sweep.fork_server import ENGINE, PARENT, PRELOAD

SLOW = "import time\ntime.sleep(600)\n"
COMMAND = """
import sys
from src.sweep import fork_server
from src.sweep.workers.local import worker_environment
environment = worker_environment()
environment["PYTHONPATH"] += ":" + sys.argv[1]
fork_server.start("slow_engine", environment)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the fork server ends after its imports")
def test_it_ends_with_its_command_while_it_loads(tmp_path: Path) -> None:
    (tmp_path / "slow_engine.py").write_text(SLOW)
    # The pipes stay open until the last process that has them ends.
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the fork server ends after its imports")
def test_it_ends_if_its_command_has_ended_before_it_looks(tmp_path: Path) -> None:
    """The system tells a process of its parent's end only from the moment on that it asks for it."""
    (tmp_path / "slow_engine.py").write_text(SLOW)
    environment = {**os.environ, PARENT: "1", ENGINE: "slow_engine", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", PRELOAD], cwd=PROJECT, env=environment, check=False, timeout=60)
    assert done.returncode == 1
