"""What is known of a sweep, and what can be said of its runs without a figure: counts, troubles, commands, versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.comparison.pairing import Records, RunRecord
from src.comparison.verdicts import CellVerdict
from src.config import Config
from src.config.command import command
from src.report.curves import cell_title, telling

MOST_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that is known of a sweep. `configs`: cell -> what it was last asked to run; `labels`: its regimes, in the order
    in which differences are taken; `problems`: what could not be read; `words`: the last command."""

    folder: Path
    configs: Mapping[str, Config]
    records: Records
    labels: Sequence[str]
    problems: Sequence[str] = ()
    words: str | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def missing(self) -> dict[tuple[str, str], list[int]]:
        """(cell, regime) -> the seeds that were asked for and have neither result nor failure."""
        known = {(run.cell, run.regime, run.seed) for run in self.records.runs}
        known |= {(run.cell, run.regime, run.seed) for run in self.records.failed}
        found: dict[tuple[str, str], list[int]] = {}
        for cell, config in self.configs.items():
            for regime in config.regimes:
                seeds = [seed for seed in config.seeds if (cell, regime.label, seed) not in known]
                if seeds:
                    found[cell, regime.label] = seeds
        return found


def counts(sweep: Sweep) -> list[tuple[str, str, bool]]:
    """Words and numbers for the head of the page, and whether each is an alarm."""
    records = sweep.records
    n_cells = len({run.cell for run in records.runs} | set(sweep.configs))
    diverged = sum(run.diverged for run in records.runs)
    rows = [("cells", n_cells, False), ("runs with a result", len(records.runs), False)]
    rows += [("seeds", len({run.seed for run in records.runs}), False)]
    alarms = (
        ("diverged", diverged),
        ("failed", len(records.failed)),
        ("missing", sum(map(len, sweep.missing().values()))),
    )
    rows += [(word, number, True) for word, number in (*alarms, ("unreadable", len(records.damaged))) if number]
    return [(word, f"{number:,}", alarm) for word, number, alarm in rows]


def troubles(sweep: Sweep) -> list[tuple[str, list[str], int]]:
    """What has no result and why: a heading, the first lines, how many more."""
    records = sweep.records
    lists = {
        "Failed": [f"{f.cell[:8]} {f.regime}, seed {f.seed}: {f.error}" for f in records.failed],
        "Diverged": [
            f"{r.cell[:8]} {r.regime}, seed {r.seed}: its loss is not finite" for r in records.runs if r.diverged
        ],
        "Missing: asked for, not run yet": [
            f"{cell[:8]} {regime}: {_listed(seeds)}" for (cell, regime), seeds in sweep.missing().items()
        ],
        "Unreadable": [*(f"{d.path.parent.name}/{d.path.name}: {d.problem}" for d in records.damaged), *sweep.problems],
    }
    return [(word, lines[:MOST_LINES], max(0, len(lines) - MOST_LINES)) for word, lines in lists.items() if lines]


def _listed(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:12])) + (", ..." if len(seeds) > 12 else "")
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}"


def commands(sweep: Sweep, first: Sequence[CellVerdict]) -> list[tuple[str, str]]:
    """What reproduces the whole, one telling cell, and this page."""
    lines = [("The whole of the last command", sweep.words)] if sweep.words else []
    for verdict, why in telling(first)[:1]:
        if verdict.cell in sweep.configs:
            lines.append(
                (f"One cell alone ({cell_title(verdict, first)}; {why})", command(sweep.configs[verdict.cell]))
            )
    multirun = sweep.folder.parent
    elsewhere = "" if multirun == Path("multirun") else f" multirun={shlex.quote(str(multirun))}"
    return [*lines, ("This page", f"python -m src.report sweep={sweep.name}{elsewhere}")]


def made_with(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Commits, versions and machines of the runs: every value that occurs."""

    def values(*keys: str) -> str:
        found = []
        for run in runs:
            value: Any = run.provenance
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            found.append(str(value) if value is not None else "unknown")
        return ", ".join(sorted(set(found)))

    if not runs:
        return []
    packages = sorted({name for run in runs for name in run.provenance.get("versions", {})})
    rows = [("commit", values("git_commit")), ("made on", values("fingerprint")), ("engine", values("engine"))]
    return [*rows, *((package, values("versions", package)) for package in packages)]
