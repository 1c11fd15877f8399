"""Addresses of databases and servers: their passwords taken out, and the driver that is installed named."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")

USER_AND_PASSWORD = re.compile(r"([A-Za-z][\w+.\-]*://[^:/?#@]*):(.*)@", re.DOTALL)
SECRET_OPTION = re.compile(r"[?&](password|passwd|token)=", re.IGNORECASE)
SECRET_KEY = re.compile(r"(?:^|[._-])(?:password|passwd|pwd|token|secret)$", re.IGNORECASE)


def sqlite_url(file: Path) -> str:
    """The URL of a database file; SQLAlchemy reads ``%`` and ``?`` in it as parts of a URL."""
    return with_driver("sqlite:///" + str(file.absolute()).replace("%", "%25").replace("?", "%3F"))


def sqlite_file(url: str) -> Path | None:
    """The file of a `sqlite_url`; None for another database."""
    prefix = SQLITE.match(url)
    return Path(unquote(url[prefix.end() :])) if prefix else None


def without_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, and the password, be it before the host or among the options.

    A password may have any character as it is, also those that a URL should quote. An @ behind the host must be quoted.
    """
    password = None
    if found := USER_AND_PASSWORD.match(url):
        password, url = unquote(found[2]), f"{found[1]}@{url[found.end() :]}"
    head, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    if (secret := dict(options).get("password")) is not None:
        rest = urlencode([(key, value) for key, value in options if key != "password"], safe="/")
        password, url = secret if password is None else password, f"{head}?{rest}" if rest else head
    return url, password


def without_secrets(argument: str) -> str:
    """An argument ``key=value`` as files, logs and tables may hold it: without the password of a URL or of its own."""
    key, equals, value = argument.partition("=")
    if equals and SECRET_KEY.search(key):
        return f"{key}=***"
    if SECRET_OPTION.search(value):
        return key + equals + re.sub(r"(://[^:/?#@]*).*", r"\1***", value, flags=re.DOTALL)
    return key + equals + USER_AND_PASSWORD.sub(r"\1:***@", value)


def with_driver(url: str) -> str:
    """The URL with a driver's name where it needs one.

    Of PostgreSQL's drivers SQLAlchemy would choose one that is not installed. For ``sqlite:///v%20p/x`` MLflow makes a
    folder ``v%20p``, although the file is in ``v p``; for ``sqlite+pysqlite:///`` it makes none.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        return f"postgresql+psycopg2{colon}{rest}"
    return f"sqlite+pysqlite{colon}{rest}" if scheme == "sqlite" and "%" in rest else url
