"""Campaign: passwords of a database with every kind of character, and the places where one could be left."""

from __future__ import annotations

import re
import socket
import string
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import sqlalchemy

from benchmarks.reliability.sweeps import Sweep
from tests import postgres

SECRETS = ("zq7" + string.punctuation + " äß€%41 qz7", "zq7'@:/?#&=%qz7", "zq7plainqz7")
"""Passwords between two marks, which are searched for as well: a part of a password is a leak too."""
MARKS = re.compile(rb"zq7|qz7")


def campaign(root: Path) -> tuple[list[str], list[str]]:
    """Run a sweep with each password in its storage, searching processes, files and tables; return lines and problems."""
    lines, problems = [], []
    for number, secret in enumerate(SECRETS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with postgres.running(password=secret, port=port) as url:
            quoted = url.replace("lab@", f"lab:{quote(secret, safe='')}@")
            words = [f"storage='{quoted}'", "seeds=1", "stopping.epochs=1", "split.size=40", "n_workers=1"]
            sweep = Sweep(root / f"multirun-{number}", words)
            refused = Sweep(root / f"refused-{number}", [*words, f"tracking.uri='{quoted}'"])
            found: set[str] = set()
            n_seen = 0
            with sweep.start() as process:
                while process.poll() is None:
                    workers = sweep.workers()
                    n_seen += len(workers)
                    found |= set(_seen(workers))
                    time.sleep(0.5)
            status = [process.returncode, refused.run()]
            if status != [0, 2]:
                problems.append(f"password {number}: exit status {status}: {sweep.output_text()[-300:]}")
            if not n_seen:
                problems.append(f"password {number}: no worker was seen")
            n_files = 0
            for path in root.rglob("*"):
                if path.is_file():
                    n_files += 1
                    found |= {f"file {path}"} if MARKS.search(path.read_bytes()) else set()
            cells = list(_cells(quoted))
            found |= {f"table {table}" for table, text in cells if MARKS.search(text.encode())}
            lines.append(f"password {number}: {n_files} files and {len(cells)} values of the database searched")
            problems += [f"password {number}: in {where}" for where in sorted(found)]
    return [*lines, f"{len(problems)} problems", *problems], problems


def _seen(workers: Sequence[int]) -> Iterator[str]:
    """The places among the workers' arguments and variables, but for PGPASSWORD, from which they take the password."""
    for pid in workers:
        for kind in ("cmdline", "environ"):
            try:
                words = Path(f"/proc/{pid}/{kind}").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            for word in words:
                if MARKS.search(unquote_to_bytes(word)) and not (kind == "environ" and word.startswith(b"PGPASSWORD=")):
                    yield f"{kind} of a worker: {word.partition(b'=')[0].decode(errors='replace')}"


def _cells(url: str) -> Iterator[tuple[str, str]]:
    """Every value of every table of the database, with the table's name."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    metadata = sqlalchemy.MetaData()
    for schema in sqlalchemy.inspect(engine).get_schema_names():
        if schema not in ("information_schema", "pg_catalog"):
            metadata.reflect(engine, schema=schema)
    with engine.connect() as connection:
        for table in metadata.tables.values():
            for row in connection.execute(sqlalchemy.select(table)):
                yield from ((table.fullname, str(value)) for value in row)
    engine.dispose()
