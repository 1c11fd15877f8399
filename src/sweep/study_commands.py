"""What `src.claims` and `src.anchors` share: their arguments, and a command that runs the studies of files in conf/."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence

from src.errors import ConfigError
from src.sweep import laboratory
from src.sweep.command import run_work
from src.sweep.folder import SweepFolder
from src.sweep.grid.plan import SweepPlan, describe
from src.sweep.work import GridWork
from src.sweep.workers.local import n_workers_of
from src.tracking.outbox import Deliverer

WIDTH = 170
"""Columns of a table that is not written to a terminal."""
DEFINED = ("sweep", "regimes", "regime", "seed")
"""Settings that the file of a study defines."""


def split_arguments(
    arguments: Sequence[str], own: Collection[str], kind: str, example: str
) -> tuple[dict[str, str], list[str]]:
    """The values of the command's `own` keys, and the settings of its studies. Raises ConfigError.

    Args:
        kind: "claim" or "anchor".
        example: Arguments to show after a mistake.
    """
    options, settings = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{kind}s", argument, f"is no setting; write key=value, e.g. {example}")
        if key in DEFINED:
            raise ConfigError(key, value, f"is defined by the {kind}; leave it out")
        if key in own:
            options[key] = value
        else:
            settings.append(argument)
    return options, settings


def names_of(value: str) -> list[str]:
    """The names in ``a,b`` or ``[a,b]``."""
    return value.strip("[]").split(",")


def run_studies(
    plan: SweepPlan, report: Callable[[SweepFolder], None], names: Iterable[str], *, run: bool = True
) -> int:
    """Runs what the studies lack, if `run`, and calls `report`; describes a dry run. Returns 1 if a cell failed.

    `names`: of the study that asks for each of the plan's `hashes`, as the command line has it.
    """
    work = GridWork(plan, laboratory)
    if plan.config.dry_run:
        names_of_cell: dict[str, list[str]] = {}
        for cell_hash, name in zip(plan.hashes, names, strict=True):
            names_of_cell.setdefault(cell_hash, []).append(name)
        shown = {cell_hash: list(dict.fromkeys(own)) for cell_hash, own in names_of_cell.items()}
        print("\n".join(describe(plan, work.folder.root / "cells", n_workers_of(plan.config), shown)))
        return 0
    with Deliverer(work.folder.root, plan.config.tracking):
        failures = (run_work(work) or []) if run else []
        report(work.folder)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
