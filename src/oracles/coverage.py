"""Which rows check which theoretical statement (statements.yaml); a statement without rows is an error."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import yaml

from src.oracles.rows import Row


@functools.cache
def statements() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(statement, prefixes of the names of its rows)."""
    content = yaml.safe_load((Path(__file__).parent / "statements.yaml").read_text(encoding="utf-8"))
    return tuple((entry["statement"], tuple(entry["rows"])) for entry in content)


def uncovered(rows: Sequence[Row]) -> list[str]:
    """Prefixes that match no row."""
    prefixes = [prefix for _, names in statements() for prefix in names]
    return [prefix for prefix in prefixes if not any(row.name.startswith(prefix) for row in rows)]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of every statement with its number of rows and of passing rows."""
    assert not (missing := uncovered(rows)), missing
    lines = ["| theory | rows | pass |", "|---|---:|---:|"]
    for statement, names in statements():
        own = [row for row in rows if row.name.startswith(names)]
        lines.append(f"| {statement.replace('|', chr(92) + '|')} | {len(own)} | {sum(row.passed for row in own)} |")
    return "\n".join(lines) + "\n"
