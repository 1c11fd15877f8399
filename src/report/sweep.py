"""A sweep on disk and its description: counts, problems, commands, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.comparison.pairing import FailedRun, Records, RunRecord, seed_list
from src.comparison.verdicts import CellVerdict
from src.config import Config
from src.config.command import command, on_sweep
from src.report.curves import representative

MOST_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The content of a sweep's folder.

    `configs`: cell -> its last configuration; `labels`: its regimes, in the order of differences; `problems`:
    unreadable files; `command`: the last command line; `baseline`: the regime that the others are compared with, if one
    is.
    """

    folder: Path
    configs: Mapping[str, Config]
    records: Records
    labels: Sequence[str]
    problems: Sequence[str] = ()
    command: str | None = None
    baseline: str | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def missing(self) -> dict[tuple[str, str], list[int]]:
        """(cell, regime) -> requested seeds with neither a result nor a failure."""
        known = {(run.cell, run.regime, run.seed) for run in self.records.attempted}
        found = {
            (cell, regime.label): [seed for seed in config.seeds if (cell, regime.label, seed) not in known]
            for cell, config in self.configs.items()
            for regime in config.regimes
        }
        return {key: seeds for key, seeds in found.items() if seeds}


def counts(sweep: Sweep) -> list[tuple[str, str, bool]]:
    """(name, number, whether it is an alarm), for the head of the page."""
    records, n_missing = sweep.records, sum(map(len, sweep.missing().values()))
    n_cells = len({run.cell for run in records.runs} | set(sweep.configs))
    facts = {"cells": n_cells, "runs with a result": len(records.runs), "seeds": len({r.seed for r in records.runs})}
    alarms = {"diverged": sum(run.diverged for run in records.runs), "failed": len(records.failed)}
    alarms |= {"collapsed": sum(bool(run.collapsed) and not run.diverged for run in records.runs)}
    alarms |= {"missing": n_missing, "unreadable": len(records.damaged)}
    rows = [(name, n, False) for name, n in facts.items()] + [(name, n, True) for name, n in alarms.items() if n]
    return [(name, f"{n:,}", alarm) for name, n, alarm in rows]


def problems_by_kind(sweep: Sweep) -> list[tuple[str, list[str], int]]:
    """Runs without a result by reason: a heading, the first lines, the number of further lines."""
    records = sweep.records

    def line(run: RunRecord | FailedRun, what: str) -> str:
        return f"{run.cell[:8]} {run.regime}, seed {run.seed}: {what}"

    lists = {
        "Failed": [line(run, run.error) for run in records.failed],
        "Diverged": [line(run, "its loss is not finite") for run in records.runs if run.diverged],
        "Collapsed": [line(run, run.collapsed) for run in records.runs if run.collapsed and not run.diverged],
        "Missing: requested, not run yet": [
            f"{cell[:8]} {regime}: {seed_list(seeds, most=12)}" for (cell, regime), seeds in sweep.missing().items()
        ],
        "Unreadable": [*(f"{d.path.parent.name}/{d.path.name}: {d.problem}" for d in records.damaged), *sweep.problems],
    }
    return [(word, lines[:MOST_LINES], max(0, len(lines) - MOST_LINES)) for word, lines in lists.items() if lines]


def commands(sweep: Sweep, first: Sequence[CellVerdict]) -> list[tuple[str, str]]:
    """(what, command line) for the whole sweep, one representative cell, and this page."""
    lines = [("The last command", sweep.command)] if sweep.command else []
    for verdict, title, why in representative(first)[:1]:
        if verdict.cell in sweep.configs:
            lines.append((f"One cell alone ({title}; {why})", command(sweep.configs[verdict.cell])))
    plugins = sorted({plugin for config in sweep.configs.values() for plugin in config.plugins})
    return [*lines, ("This page", on_sweep("report", sweep.folder, plugins))]


def made_with(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """(name, values) of the commits, versions and machines of the runs."""
    facts: list[dict[str, object]] = []
    for made in (run.provenance for run in runs):
        own = {"commit": made.get("git_commit"), "made on": made.get("fingerprint"), "engine": made.get("engine")}
        facts.append(own | dict(sorted(made.get("versions", {}).items())))
    names = dict.fromkeys(name for own in facts for name in own)
    values = {name: ["unknown" if own.get(name) is None else str(own[name]) for own in facts] for name in names}
    return [(name, ", ".join(sorted(set(own)))) for name, own in values.items()]
