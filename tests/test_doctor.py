"""The doctor names problems and their fixes; the UI's command refuses invalid settings before it starts."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from pathlib import Path

import pytest
from filelock import FileLock

from src import doctor, ui
from src.sweep.folder import SweepFolder
from src.sweep.processes import Process
from src.tracking.schema import known_revisions


def database(file: Path, schema: str | None) -> str:
    """A database with the given schema version; returns its path as in the doctor's output."""
    file.parent.mkdir(exist_ok=True)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        if schema is not None:
            connection.execute("INSERT INTO alembic_version VALUES (?)", (schema,))
    return str(file)


def test_every_state_of_a_database_is_named_with_its_remedy(tmp_path: Path) -> None:
    revisions = known_revisions()
    for schema, state, fix in [
        (revisions[0], "ok", ""),
        (revisions[1], "look", "upgrades it"),
        ("f00", "wrong", "newer mlflow"),
        (None, "wrong", "make sync"),
    ]:
        database(tmp_path / "mlflow.db", schema)
        (check,) = doctor.databases(tmp_path)
        assert check.state == state
        assert fix in check.fix
        (tmp_path / "mlflow.db").unlink()

    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    damaged = next(iter(doctor.databases(tmp_path)))
    assert damaged.state == "wrong"
    assert "make sync" in damaged.fix


def test_a_damaged_journal_is_a_problem_and_an_incomplete_line_is_not(tmp_path: Path) -> None:
    for name, content in {"damaged": "{}\nno json\n", "sound": '{}\n{"half'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.journal").write_text(content)
    damaged, sound = doctor.databases(tmp_path)
    assert (damaged.state, sound.state) == ("wrong", "ok")
    assert "queues what is missing" in damaged.fix


def test_an_unavailable_queue_server_is_a_problem_and_its_password_is_masked(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "queue.json").write_text(json.dumps({"storage": "postgresql://lab:geheim@127.0.0.1:1/lab"}))
    (check,) = doctor.databases(tmp_path)
    assert (check.state, check.subject) == ("wrong", "s: queue")
    assert "refused" in check.found
    assert "start the server" in check.fix
    assert "geheim" not in check.found


def test_live_and_dead_processes_and_held_locks_are_listed(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "s")
    with Process(folder, "worker"), FileLock(tmp_path / "mlflow.lock"):
        dead = {"id": "gone", "role": "worker", "host": "here", "pid": 1}
        (folder.processes / "gone.json").write_text(json.dumps(dead))
        found = {check.subject: check for check in doctor.processes(tmp_path)}
    assert found["s: running"].found == f"worker {os.getpid()} on {socket.gethostname()}"
    assert found["s: processes"].found == "1 were killed"
    assert "requeues" in found["s: processes"].fix
    assert "Ctrl-Z" in found[str(tmp_path / "mlflow.lock")].fix
    assert not (folder.processes / "gone.json").exists(), "a process that exits removes its file"
    assert list(doctor.processes(tmp_path)) == []


def test_leftover_files_are_found(tmp_path: Path) -> None:
    run = tmp_path / "s" / "cells" / "c" / "combined-0"
    run.mkdir(parents=True)
    (run / "failed.json").write_text("{}")
    (run / ".result.json.1.tmp").write_text("{")
    (tmp_path / "s" / "outbox" / "refused").mkdir(parents=True)
    (tmp_path / "s" / "outbox" / "1.json").write_text("{}")
    (tmp_path / "s" / "outbox" / "refused" / "2.json").write_text("{}")
    seen = [check.found for check in doctor.left_behind(tmp_path)]
    assert [text.split()[0] for text in seen] == ["1", "1", "1", "1"]
    assert all(check.fix for check in doctor.left_behind(tmp_path))
    assert not list(doctor.left_behind(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    states = {check.subject: check.state for check in doctor.disk(tmp_path)}
    assert states["multirun"] == "wrong"


def test_the_packages_are_those_of_the_lock() -> None:
    states = {check.subject: check for check in doctor.python()}
    assert states["python"].state == "ok"
    assert states["torch"].state in ("ok", "look")
    assert states["torch"].state == "ok" or "make setup" in states["torch"].fix


@pytest.mark.parametrize("port", ["zero", "0", "70000"])
def test_an_invalid_port_is_refused(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ui", f"port={port}"])
    with pytest.raises(SystemExit) as left:
        ui.main()
    assert left.value.code == 2
    assert f"port={port}" in capsys.readouterr().err


def test_a_port_in_use_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["ui", f"port={port}"])
        with pytest.raises(SystemExit):
            ui.main()
        assert f"port={port + 1}" in capsys.readouterr().err
