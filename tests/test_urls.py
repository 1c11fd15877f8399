"""Passwords are removed from any part of an address, and the driver is the installed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.urls import sqlite_file, with_driver, without_password


@pytest.mark.parametrize(
    ("url", "without", "password"),
    [
        ("postgresql://lab@host/db", "postgresql://lab@host/db", None),
        ("postgresql://lab:geheim@host:5432/db", "postgresql://lab@host:5432/db", "geheim"),
        ("postgresql://lab:ge%40h@host/db", "postgresql://lab@host/db", "ge@h"),
        ("postgresql://lab:geheim@/db?host=/run/pg", "postgresql://lab@/db?host=/run/pg", "geheim"),
        ("postgresql://lab@/db?host=/run/pg&password=x", "postgresql://lab@/db?host=/run/pg", "x"),
        ("sqlite:///some/file.db", "sqlite:///some/file.db", None),
    ],
)
def test_the_password_is_removed(url: str, without: str, password: str | None) -> None:
    assert without_password(url) == (without, password)


def test_postgresql_is_psycopg2() -> None:
    assert with_driver("postgresql://lab@host/db") == "postgresql+psycopg2://lab@host/db"
    assert with_driver("postgresql+psycopg2://lab@host/db") == "postgresql+psycopg2://lab@host/db"
    assert with_driver("sqlite:///x") == "sqlite:///x"


def test_a_quoted_sqlite_path_is_behind_its_driver() -> None:
    assert with_driver("sqlite:///v%2520p/x") == "sqlite+pysqlite:///v%2520p/x"
    assert sqlite_file("sqlite+pysqlite:///v%2520p/x") == sqlite_file("sqlite:///v%2520p/x") == Path("v%20p/x")
    assert sqlite_file("postgresql://lab@host/db") is None
