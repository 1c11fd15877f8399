"""Passwords are removed from any part of an address, and the driver is the installed one."""

from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import pytest

from src.urls import sqlite_file, with_driver, without_password, without_secrets


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


ALPHABET = [f"s3{character}cret" for character in string.printable + "äß€"] + ["'", "@", "a'b@c/d?e#f:g&h", "%41"]


@pytest.mark.parametrize("password", ALPHABET)
def test_a_password_of_any_characters_is_removed(password: str) -> None:
    url = f"postgresql://lab:{password.replace('%', '%25')}@host:5432/db?sslmode=require"
    assert without_password(url) == ("postgresql://lab@host:5432/db?sslmode=require", password)
    quoted = f"postgresql://lab:{quote(password, safe='')}@host/db"
    assert without_password(quoted) == ("postgresql://lab@host/db", password)
    for argument in (f"storage={url}", f"storage='{url}'", f'+storage="{url}"'):
        assert "lab:***@host:5432/db" in without_secrets(argument)
        assert "cret" not in without_secrets(argument)
        assert without_secrets(argument).count("@") == 1
    assert without_secrets(f"storage={url}&password={password}") == "storage=postgresql://lab***"
    assert without_secrets(f"tracking.password={password}") == "tracking.password=***"
    assert without_secrets("optimizer.lr=0.1") == "optimizer.lr=0.1"
