"""The command `python -m src.claims`: runs the cells of claims that lack results, and judges the claims."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from src.claims.cell import CellRuns
from src.claims.claims import Claim, Study, control_studies, key_of, load_claim, override_study, strong_studies
from src.claims.table import claim_entry, claims_table, verdict_style, write
from src.claims.verdicts import ClaimVerdict, Evidence, judge_claim
from src.comparison.pairing import by_cell, load_records
from src.config.composing import Composer, GroupComposer
from src.config.plugins import offer_plugins
from src.errors import ConfigError
from src.io import CONF_DIR
from src.progress import tracked
from src.sweep import laboratory
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, CommandLine, expand
from src.sweep.grid.plan import plan_sweep
from src.sweep.study_commands import WIDTH, names_of, run_studies, split_arguments
from src.terminal import console
from src.tracking.outbox import Outbox
from src.tracking.reports import SweepReport, write_sweep
from src.training.store.store import Store
from src.typed import conf_names
from src.urls import without_secrets

SWEEP = "claims"
OWN_KEYS = ("claim", "where", "place", "seeds", "controls", "strong")
"""Keys of this command; `place` is the former name of `where`."""
EXECUTION_KEYS = ("multirun", "storage", "n_workers", "dry_run", "tracking", "trainer", "data.root", "data.download")
"""Settings that change where and how cells run, but not what is measured; of a group, all of its settings."""


@dataclass(frozen=True)
class Task:
    """One claim in one study, and the cells of its grid in the order of `study.coordinates`."""

    claim: Claim
    study: Study
    cells: tuple[Cell, ...]

    @property
    def is_first_study(self) -> bool:
        return self.study.where == self.claim.studies[0].where

    @property
    def words(self) -> list[str]:
        """The arguments that choose the claim and its study."""
        return [f"claim={self.claim.id}", *([] if self.is_first_study else [f"where={self.study.where}"])]

    @property
    def data(self) -> str:
        """The data set, or the name of a study other than the claim's first."""
        name: str = self.cells[0].config.data.name
        return name if self.is_first_study else self.study.where


def main(arguments: Sequence[str]) -> int:
    """Composes and checks all cells, runs those that lack results, and judges; returns 1 if a cell failed."""
    given, settings = split_arguments(arguments, OWN_KEYS, "claim", "claim=forgets-d1 data=mnist")
    options = {"where" if key == "place" else key: value for key, value in given.items()}
    offer_plugins(settings)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        tasks = tasks_of(options, settings, GlobalHydra.instance().config_loader())
    plan = plan_sweep([cell for task in tasks for cell in task.cells], laboratory)

    def report(folder: SweepFolder) -> None:
        runs, store = by_cell(load_records(folder.root, cells=plan.cells).runs), Store(folder.multirun / ".stages")
        cells = {key: CellRuns.of(cell, runs.get(key, []), store) for key, cell in plan.resolved.items()}
        hashes = iter(plan.hashes)
        judged = [
            judge_claim(task.claim, Evidence(study=task.study, cells=tuple(cells[next(hashes)] for _ in task.cells)))
            for task in tracked(tasks, "claims judged", len(tasks))  # a probe may train for minutes
        ]
        _report(tasks, judged, folder, arguments)

    return run_studies(plan, report, [shlex.join(task.words) for task in tasks for _ in task.cells])


def tasks_of(options: Mapping[str, str], settings: Sequence[str], loader: ConfigLoader) -> list[Task]:
    """The requested claims and studies, composed and checked. Raises ConfigError.

    Without settings that change what is measured: all studies that are not on demand; with such settings: the first
    study of each claim, under them.
    """
    plugins = [setting for setting in settings if key_of(setting) == "plugins"]
    settings = [setting for setting in settings if setting not in plugins]
    execution = tuple(f"{key}." for key in EXECUTION_KEYS)
    is_changed = not all(f"{key_of(setting)}.".startswith(execution) for setting in settings)
    if not options.get("seeds", "0").isdigit():
        raise ConfigError("seeds", options["seeds"], "must be a number here: claims pair seeds 0, 1, 2, ...")
    chosen = {"controls": control_studies, "strong": strong_studies}
    for key in chosen:
        if options.get(key, "false") not in ("true", "false"):
            raise ConfigError(key, options[key], f"is true or false; true runs the {key} studies of the claims alone")
    only = [studies_of for key, studies_of in chosen.items() if options.get(key) == "true"]
    names = names_of(options["claim"]) if "claim" in options else conf_names("claim")
    tasks, compose = [], GroupComposer(loader)
    for claim in (load_claim(name, plugins) for name in names):
        if "where" in options:
            everything = [*claim.studies, *control_studies(claim), *strong_studies(claim)]
            studies = [study for study in everything if study.where == options["where"]]
        else:
            own = list(claim.studies[: 1 if is_changed else None])
            everything = [study for studies_of in only for study in studies_of(claim)] if only else own
            usual = [study for study in everything if not study.on_demand]
            studies = usual or (everything if "claim" in options else [])
            if everything and not studies:
                print(f"{claim.id}: runs on demand, if named (claim={claim.id})", file=sys.stderr)
        for study in studies:
            if is_changed:
                study, dropped = override_study(study, settings)
                for statement in dropped:
                    print(f"{claim.id}: does not apply under these settings: {statement}", file=sys.stderr)
                if not study.statements:
                    raise ConfigError("claim", claim.id, f"has no statement that applies under {' '.join(settings)}")
            else:
                study = replace(study, overrides=(*study.overrides, *settings))
            if "seeds" in options:
                study = replace(study, seeds=int(options["seeds"]))
            tasks.append(Task(claim, study, cells_of(study, compose, loader, f"claim={claim.id}")))
    if not tasks:
        raise ConfigError("where", options.get("where", ""), "is no study of these claims; see conf/claim/")
    return tasks


def cells_of(study: Study, compose: Composer, loader: ConfigLoader, key: str) -> tuple[Cell, ...]:
    """The cells of a study, in the order of `study.coordinates`. Raises ConfigError if two of them are equal."""

    def of_study(overrides: list[str]) -> Mapping[str, Any]:
        return {**compose(overrides), "sweep": SWEEP, "regimes": study.regimes, "seeds": study.seeds}

    cells = expand(CommandLine(study.arguments, of_study, loader))
    n_cells = len(study.coordinates)
    if len(cells) != n_cells:
        raise ConfigError(key, study.where, f"{n_cells} cells of its grid give only {len(cells)} distinct recipes")
    return tuple(cells)


def _report(
    tasks: Sequence[Task], judged: Sequence[ClaimVerdict], folder: SweepFolder, arguments: Sequence[str]
) -> None:
    """Prints the table and writes claims.json, claims.md and the sweep's report for MLflow."""
    entries = [claim_entry(one, task.data, _command(task, arguments)) for task, one in zip(tasks, judged, strict=True)]
    artifacts = write(folder.root, entries)
    terminal = console(width=WIDTH)
    terminal.print(claims_table(entries).terminal(last_style=verdict_style))
    for entry in entries:
        for remark in entry["remarks"]:
            terminal.print(f"{entry['id']} ({entry['data']}): {remark}", style="dim")
    verdicts = [entry["verdict"] for entry in entries]
    counts = {word: verdicts.count(word) for word in ("supported", "refuted", "equivalent", "inconclusive")}
    note = f"{len(entries)} verdict{'s' if len(entries) > 1 else ''}: "
    note += ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    unexpected = [f"{entry['id']} ({entry['data']})" for entry in entries if not entry["as_expected"]]
    note += f". Not as expected: {', '.join(unexpected)}." if unexpected else ". All as expected."
    terminal.print(note)
    terminal.print(f"in {folder.root}: {', '.join(artifacts)}", style="dim")
    report = SweepReport(
        sweep=SWEEP,
        note=note,
        command=_command_line(arguments),
        metrics={f"claims/{word}": float(n) for word, n in counts.items()},
        artifacts=artifacts,
    )
    with Outbox(folder.root).transaction(folder.root):
        write_sweep(folder.root, report)


def _command_line(arguments: Sequence[str]) -> str:
    return " ".join(["python -m src.claims", *(shlex.quote(without_secrets(argument)) for argument in arguments)])


def _command(task: Task, arguments: Sequence[str]) -> str:
    """The command that repeats one verdict."""
    others = [argument for argument in arguments if key_of(argument) not in ("claim", "where", "place")]
    claim, *where = task.words
    return _command_line([claim, *others, *where])
