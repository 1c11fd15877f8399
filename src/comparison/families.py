"""Families of comparisons: what one command declares before its first run, and is corrected together for good.

A comparison (a cell and two regimes) belongs to the first command of its sweep that declared it, whatever later
commands contain. A larger grid therefore changes no earlier verdict: its new comparisons form a family of their own,
with its own correction and date, and are labelled exploratory. ``families.json`` in the sweep's folder has all of them.
A command with too few seeds to decide a single comparison declares nothing. A family of `seeds=auto` is tested at any
stop, for good.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from src.comparison.betting import AnyStop
from src.comparison.statistics import seeds_needed
from src.errors import ConfigError
from src.io import read_json, write_atomically
from src.locks import locked

FILE = "families.json"
Comparison = tuple[str, str, str]
"""A cell and the labels of two regimes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The comparisons that one command added to its sweep."""

    declared: str
    """Date and time, UTC."""
    comparisons: frozenset[Comparison]
    is_first: bool
    seeds: tuple[int, ...]
    """Those declared first; a later command may add some."""
    any_stop: AnyStop | None = None
    """Set if the results decide on the number of seeds."""
    margin: float | None = None
    """Of the tests of non-inferiority; None if there are none."""

    @property
    def label(self) -> str:
        """Empty for the first family of a sweep."""
        return "" if self.is_first else f"exploratory, added on {self.declared[:10]}"


def pairs_of(regimes: Sequence[str], baseline: str | None = None) -> list[tuple[str, str]]:
    """The pairs to compare, in the order of `regimes`: all of them, or those with `baseline`."""
    return [pair for pair in combinations(regimes, 2) if baseline is None or baseline in pair]


def read_families(sweep_dir: Path) -> list[Family]:
    """The families of a sweep, the first one first; none if no command has declared any."""
    path = sweep_dir / FILE
    try:
        return [
            Family(
                declared=str(one["declared"]),
                comparisons=frozenset((str(cell), str(a), str(b)) for cell, a, b in one["comparisons"]),
                is_first=not number,
                seeds=tuple(map(int, one["seeds"])),
                any_stop=AnyStop(**one["any_stop"]) if "any_stop" in one else None,
                margin=None if one.get("margin") is None else float(one["margin"]),
            )
            for number, one in enumerate(read_json(path)["families"])
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        fix = "restore it, or delete it: then all comparisons of the next command form the first family"
        raise ConfigError("sweep", sweep_dir.name, f"{path} is damaged ({error}); {fix}") from error


def declare(
    sweep_dir: Path,
    cells: Iterable[str],
    regimes: Sequence[str],
    baseline: str | None,
    seeds: Collection[int],
    any_stop: AnyStop | None = None,
    margin: float | None = None,
) -> None:
    """Adds the comparisons of a command that the sweep lacks as a family, before the command's first run.

    `any_stop`: of `seeds=auto`. Raises ConfigError if the sweep declared one of them with fixed seeds or another
    margin.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    wanted = {(cell, a, b) for cell in cells for a, b in pairs_of(regimes, baseline)}
    if len(seeds) < seeds_needed(1) or not wanted:
        return
    with locked(sweep_dir / f"{FILE}.lock"):
        known = read_families(sweep_dir)
        declared = [one for one in known if one.comparisons & wanted]
        for one in declared:
            _refuse_other_rules(sweep_dir.name, any_stop, margin, one)
        new = wanted.difference(*(family.comparisons for family in known))
        if not new:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rules: dict[str, Any] = {"seeds": tuple(sorted(seeds)), "any_stop": any_stop, "margin": margin}
        added = Family(declared=now, comparisons=frozenset(new), is_first=not known, **rules)
        content = [
            {"declared": one.declared, "seeds": one.seeds, "comparisons": sorted(one.comparisons)}
            | ({} if one.any_stop is None else {"any_stop": asdict(one.any_stop)})
            | ({} if one.margin is None else {"margin": one.margin})
            for one in (*known, added)
        ]
        write_atomically(sweep_dir / FILE, json.dumps({"families": content}) + "\n")


def _refuse_other_rules(sweep: str, any_stop: AnyStop | None, margin: float | None, family: Family) -> None:
    """Raises ConfigError if the family has another rule: results may not choose the test."""
    on, new = family.declared[:10], "sweep=NEW, which finds the trained stages"
    declared = f"sweep={sweep} declared these comparisons on {on} with"
    if any_stop is not None and family.any_stop is None:
        problem = f"{declared} fixed seeds, whose tests do not allow further ones; take {new}"
        raise ConfigError("seeds", "auto", problem)
    if any_stop is not None and (theirs := family.any_stop) is not None and theirs != any_stop:
        problem = f"is {theirs.margin} for comparisons that sweep={sweep} declared on {on}; take that, or {new}"
        raise ConfigError("seeding.margin", any_stop.margin, problem)
    if margin is not None and family.margin != margin:
        rule = "no margin" if family.margin is None else f"a margin of {family.margin:g}"
        raise ConfigError("margin", margin, f"{declared} {rule}; take {new}")


def by_comparison(families: Iterable[Family]) -> Mapping[Comparison, Family]:
    """The family of every declared comparison."""
    return {comparison: family for family in families for comparison in family.comparisons}
