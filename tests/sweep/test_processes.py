"""A member of a sweep is alive as long as its process is: by its lock on one host, by its heartbeat between hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.sweep import processes as members
from src.sweep.folder import SweepFolder
from src.sweep.processes import Member

STAY = """
import sys, time
from pathlib import Path
from src.sweep.folder import SweepFolder
from src.sweep.processes import Member
with Member(SweepFolder(Path(sys.argv[1]), "s"), "worker") as member:
    print(member.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def test_a_killed_process_is_dead_at_once_and_a_living_one_is_not(folder: SweepFolder) -> None:
    command = [sys.executable, "-c", STAY, str(folder.multirun)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Member(folder, "sweep") as me:
        assert process.stdout is not None
        other = process.stdout.readline().strip()
        assert me.alive(other)
        assert [member["id"] for member in me.others("worker")] == [other]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not me.alive(other)
        assert me.others("worker") == []
        assert not list(folder.members.glob(f"{other}*")), "what a dead member left is removed"


def test_who_leaves_leaves_nothing_behind(folder: SweepFolder) -> None:
    with Member(folder, "sweep") as me, Member(folder, "worker") as other:
        assert me.alive(other.id)
        assert me.alive(me.id)
        assert me.others("sweep") == []
    assert list(folder.members.iterdir()) == []


def test_who_leaves_takes_along_what_the_dead_left_behind(folder: SweepFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", STAY, str(folder.multirun)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Member(folder, "sweep"):
            pass
        assert len(list(folder.members.glob("*.json"))) == 1, "it lives"
        process.kill()
        process.wait()
        with Member(folder, "sweep"):
            pass
    assert list(folder.members.iterdir()) == []


def test_on_another_host_the_heartbeat_decides(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with Member(folder, "sweep", grace=60) as me, Member(folder, "worker") as other:
        path = folder.members / f"{other.id}.json"
        monkeypatch.setattr(members, "host_key", lambda: "elsewhere")
        assert me.alive(other.id), "a lock that cannot be seen from here says nothing"
        late = time.time() - 59
        os.utime(path, (late, late))
        assert me.alive(other.id)
        late = time.time() - 61
        os.utime(path, (late, late))
        assert not me.alive(other.id)


def test_a_member_that_was_taken_for_dead_enters_again(folder: SweepFolder) -> None:
    with Member(folder, "sweep") as me, Member(folder, "worker", heartbeat=0.01) as other:
        (folder.members / f"{other.id}.json").unlink()
        deadline = time.monotonic() + 10
        while not me.alive(other.id) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert me.alive(other.id)
