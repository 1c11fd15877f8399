"""Addresses of databases and servers: their passwords taken out, and the driver that is installed named."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")


def sqlite_url(file: Path) -> str:
    """The URL of a database file; SQLAlchemy reads ``%`` and ``?`` in it as parts of a URL."""
    return with_driver("sqlite:///" + str(file.absolute()).replace("%", "%25").replace("?", "%3F"))


def sqlite_file(url: str) -> Path | None:
    """The file of a `sqlite_url`; None for another database."""
    prefix = SQLITE.match(url)
    return Path(unquote(url[prefix.end() :])) if prefix else None


def without_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, and the password, be it before the host or among the options."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    password = dict(options).get("password")
    if password is not None:
        parts = parts._replace(query=urlencode([(k, v) for k, v in options if k != "password"], safe="/"))
    if parts.password is not None:
        password = unquote(parts.password)
        user, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.partition(':')[0]}@{host}")
    return (url, None) if password is None else (urlunsplit(parts), password)


def with_driver(url: str) -> str:
    """The URL with a driver's name where it needs one.

    Of PostgreSQL's drivers SQLAlchemy would choose one that is not installed. For ``sqlite:///v%20p/x`` MLflow makes a
    folder ``v%20p``, although the file is in ``v p``; for ``sqlite+pysqlite:///`` it makes none.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        return f"postgresql+psycopg2{colon}{rest}"
    return f"sqlite+pysqlite{colon}{rest}" if scheme == "sqlite" and "%" in rest else url
