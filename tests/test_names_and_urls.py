"""Names of files and URLs of databases made from whatever a user writes."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from src import doctor
from src.config import TrackingConfig, compose
from src.errors import ConfigError
from src.io import MAX_OWN_NAME, file_name
from src.tracking.connect import open_tracker, tracking_uri
from src.urls import sqlite_file, sqlite_url

FOLDERS = ["plain", "v p", "v%20p", "v%p", "v?q", "v?q=1&r#s", "v#h", "größe", "a+b@c:d", "file:"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_url_of_a_file_leads_to_that_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    url = tracking_uri(TrackingConfig(name="local", uri=None, experiment="e"), file.parent)
    assert url == sqlite_url(file)
    assert sqlite_file(url) == file
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(sqlalchemy.text("INSERT INTO alembic_version VALUES ('f00')"))
    engine.dispose()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == [Path(name), Path(name) / "mlflow.db"]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("f00",)
    (check,) = doctor.databases(file.parent)
    assert "schema f00" in check.found


def test_mlflow_makes_no_folder_but_that_of_its_database(tmp_path: Path) -> None:
    """It made one next to it, named by the quoted path."""
    multirun = tmp_path / "v%20p?q"
    for _ in ("created", "opened"):
        tracker = open_tracker(TrackingConfig(name="local", uri=None, experiment="lab"), multirun)
        assert tracker is not None
        tracker.close()
    assert list(tmp_path.iterdir()) == [multirun]
    assert (multirun / "mlflow.db").exists()


def test_a_short_name_stays_and_a_long_one_fits(tmp_path: Path) -> None:
    short = "sequential(freeze=features.*)-0"
    assert file_name(short) == short
    assert file_name("x" * 255) == "x" * 255
    for long in ("sequential(freeze=" + "a|" * 200 + ")-0", "ö" * 200, "a/b", "x" * 1000):
        name = file_name(long)
        (tmp_path / name).mkdir()
        assert name != file_name(long + "'"), "different texts have different names"
        assert len(file_name(long, 200).encode()) <= MAX_OWN_NAME


@pytest.mark.parametrize("name", ["x" * 300, "mlflow.db", "mlflow.lock", "MLflow.db-wal", "mlartifacts"])
def test_a_sweep_has_no_name_that_another_file_has_or_that_is_too_long(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^sweep="):
        compose([f"sweep={name}"])


@pytest.mark.parametrize(
    "uri", ["/tmp/mlruns", "mlruns", "file:///tmp/mlruns", "foo://x", "databricks", "http://", "mysql://u@h/d"]
)
@pytest.mark.parametrize("kind", ["local", "server"])
def test_a_tracking_uri_that_cannot_work_is_refused_before_training(uri: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.uri=.*; write http"):
        compose([f"tracking={kind}", f"tracking.uri={uri}"])


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "https://host/mlflow", "sqlite:///mlflow.db", "postgresql://user@host/database"]
)
def test_a_tracking_uri_of_a_server_or_database_is_accepted(uri: str) -> None:
    assert compose([f"tracking.uri='{uri}'"]).tracking.uri == uri
