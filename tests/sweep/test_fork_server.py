"""The fork server ends with its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src.io import PROJECT

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
