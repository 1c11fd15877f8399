"""The doctor names what is wrong and what mends it; the UI's command refuses what cannot work before it starts."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest

from src import doctor, ui


def test_a_sound_database_is_ok_and_a_damaged_one_is_named_with_its_remedy(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    sweep.mkdir()
    with sqlite3.connect(sweep / "queue.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('v9')")
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    found = {finding.what: finding for finding in doctor.databases(tmp_path)}
    assert found[str(sweep / "queue.db")].state == "ok"
    assert "v9" in found[str(sweep / "queue.db")].seen
    damaged = found[str(tmp_path / "mlflow.db")]
    assert damaged.state == "wrong"
    assert "make sync" in damaged.fix


def test_what_was_left_behind_is_found(tmp_path: Path) -> None:
    run = tmp_path / "s" / "cells" / "c" / "combined-0"
    run.mkdir(parents=True)
    (run / "failed.json").write_text("{}")
    (run / ".result.json.1.tmp").write_text("{")
    (tmp_path / "s" / "outbox" / "refused").mkdir(parents=True)
    (tmp_path / "s" / "outbox" / "1.json").write_text("{}")
    (tmp_path / "s" / "outbox" / "refused" / "2.json").write_text("{}")
    seen = [finding.seen for finding in doctor.left_behind(tmp_path)]
    assert [text.split()[0] for text in seen] == ["1", "1", "1", "1"]
    assert all(finding.fix for finding in doctor.left_behind(tmp_path))
    assert not list(doctor.left_behind(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_written_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    states = {finding.what: finding.state for finding in doctor.disk(tmp_path)}
    assert states["multirun"] == "wrong"


def test_the_packages_are_those_of_the_lock() -> None:
    states = {finding.what: finding for finding in doctor.python()}
    assert states["python"].state == "ok"
    assert states["torch"].state in ("ok", "look")
    assert states["torch"].state == "ok" or "make setup" in states["torch"].fix


@pytest.mark.parametrize("port", ["zero", "0", "70000"])
def test_a_port_that_is_none_is_refused(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ui", f"port={port}"])
    with pytest.raises(SystemExit) as left:
        ui.main()
    assert left.value.code == 2
    assert f"port={port}" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["ui", f"port={port}"])
        with pytest.raises(SystemExit):
            ui.main()
        assert f"port={port + 1}" in capsys.readouterr().err
