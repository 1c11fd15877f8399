"""Settles the claims of the thread by measurement.   python -m src.claims [claim=ID,...] [place=PLACE] [key=value ...]

Every claim is a file of conf/claim/ (docs/CLAIMS.md). Without further settings each is put to the test where its file says;
with settings (`data=mnist split.size=5000`) its first study is, under them. `place=NAME`: only the studies of that name,
those among them that only run on demand; `dry_run=true`: show what would run; `seeds=N`: other than the file says.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from src import cli as entry
from src.claims.claims import Claim, Study, claim_ids, elsewhere, load_claim
from src.comparison.pairing import load_records
from src.config import CONF_DIR
from src.errors import ConfigError
from src.sweep import laboratory
from src.sweep.command import run_cells
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, expand
from src.sweep.grid.plan import Plan, describe, plan_sweep
from src.sweep.workers.local import n_workers_of
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import SweepReport, write_sweep

SWEEP = "claims"
OWN = ("claim", "place", "seeds")


@dataclass(frozen=True)
class Task:
    """One claim in one study, and the cells of its grid in the order of `study.places`."""

    claim: Claim
    study: Study
    cells: tuple[Cell, ...]


def main(arguments: Sequence[str]) -> int:
    """Composes and checks all cells of all claims, runs what is missing, judges; 1 if something failed to run."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for argument in arguments:
        if "=" not in argument:
            raise ConfigError("claims", argument, "is no setting; write key=value, e.g. claim=forgets-d1 data=mnist")
        if argument.partition("=")[0] in ("sweep", "regimes", "regime", "seed"):
            raise ConfigError(*argument.partition("=")[::2], "is the claim's own; leave it out")
    settings = [argument for argument in arguments if argument.partition("=")[0] not in OWN]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        tasks = tasks_of(given, settings, loader)
    plan = plan_sweep([cell for task in tasks for cell in task.cells], laboratory)
    config = plan.config
    folder = SweepFolder(Path(config.multirun), SWEEP)
    if config.dry_run:
        print("\n".join(describe(plan, folder.root / "cells", n_workers_of(config))))
        return 0
    deliverer = Deliverer(folder.root, config.tracking, warn=lambda text: print(text, file=sys.stderr)).start()
    failures = run_cells(plan, folder, laboratory, laboratory.__name__)
    _judge(tasks, plan, folder, list(arguments))
    deliverer.stop()
    for cell, reason in failures.items():
        print(f"failed: cell {cell}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def tasks_of(given: Mapping[str, str], settings: Sequence[str], loader: ConfigLoader) -> list[Task]:
    """The claims and studies that the command line asks for, composed and checked. Raises ConfigError."""
    names = given["claim"].strip("[]").split(",") if "claim" in given else claim_ids()
    chosen = [(claim, study) for claim in map(load_claim, names) for study in _studies(claim, given, settings)]
    if not chosen:
        raise ConfigError("place", given.get("place", ""), "is the place of none of these claims; see conf/claim/")
    tasks = []
    for claim, study in chosen:
        if _is_moved(settings):
            study, left_out = elsewhere(study, settings)
            for says in left_out:
                print(f"{claim.id}: not asked under these settings: {says}", file=sys.stderr)
            if not study.statements:
                raise ConfigError("claim", claim.id, f"has nothing to say under {' '.join(settings)}")
        else:
            study = dataclasses.replace(study, overrides=(*study.overrides, *settings))
        if "seeds" in given:
            if not given["seeds"].isdigit():
                raise ConfigError("seeds", given["seeds"], "must be a number here: claims pair seeds 0, 1, 2, ...")
            study = dataclasses.replace(study, seeds=int(given["seeds"]))
        tasks.append(Task(claim, study, cells_of(study, loader, f"claim={claim.id}")))
    return tasks


WHERE_IT_RUNS = ("multirun", "storage", "n_workers", "dry_run", "tracking", "trainer", "data.root", "data.download")


def _is_moved(settings: Sequence[str]) -> bool:
    """Whether the settings change what is measured, and not only where and how it runs."""
    keys = [setting.lstrip("+").partition("=")[0] for setting in settings]
    return any(not any(key == own or key.startswith(f"{own}.") for own in WHERE_IT_RUNS) for key in keys)


def _studies(claim: Claim, given: Mapping[str, str], settings: Sequence[str]) -> list[Study]:
    if "place" in given:
        return [study for study in claim.studies if study.place == given["place"]]
    if _is_moved(settings):
        return [claim.studies[0]]
    return [study for study in claim.studies if not study.on_demand]


def cells_of(study: Study, loader: ConfigLoader, where: str) -> tuple[Cell, ...]:
    """The cells of a study, in the order of `study.places`."""

    def compose(overrides: list[str]) -> Mapping[str, Any]:
        composed = loader.load_configuration("config", overrides, RunMode.RUN, from_shell=False)
        with open_dict(composed):
            del composed["hydra"]
        mapping: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
        return {**mapping, "sweep": SWEEP, "regimes": study.regimes, "seeds": study.seeds}

    cells = expand(study.arguments, compose, loader)
    if len(cells) != len(study.places):
        raise ConfigError(where, study.place, f"{len(study.places)} cells of its grid are only {len(cells)} recipes")
    return tuple(cells)


def _judge(tasks: Sequence[Task], plan: Plan, folder: SweepFolder, arguments: list[str]) -> None:
    """Judges every claim, prints the table and writes claims.json, claims.md and the sweep's report for MLflow."""
    from rich.console import Console

    from src.claims.contrasts import settle
    from src.claims.evidence import CellEvidence, Evidence
    from src.claims.table import entry as entry_of
    from src.claims.table import terminal_table, write
    from src.training.store.store import Store

    records = load_records(folder.root, cells=plan.cells)
    store = Store(folder.multirun / ".stages")
    known = {
        name: CellEvidence(
            config=cell.config,
            cell=name,
            runs={(run.regime, run.seed): run for run in records.runs if run.cell == name},
            factory=cell.streams,
            store=store,
        )
        for name, cell in plan.resolved.items()
    }
    hashes = iter(plan.hashes)
    settled, entries = [], []
    for task in tasks:
        cells = tuple(known[next(hashes)] for _ in task.cells)
        one = settle(task.claim, Evidence(study=task.study, cells=cells))
        data = _where(task)
        settled.append((one, data))
        words = [f"claim={task.claim.id}", *(word for word in arguments if not word.startswith("claim="))]
        if task.study.place != task.claim.studies[0].place:
            words.append(f"place={task.study.place}")
        entries.append(entry_of(one, data, " ".join(["python -m src.claims", *map(shlex.quote, dict.fromkeys(words))])))
    artifacts = write(folder.root, entries)
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    console.print(terminal_table(settled))
    for one, data in settled:
        for remark in one.remarks:
            console.print(f"{one.claim.id} ({data}): {remark}", style="dim", markup=False)
    verdicts = [one.verdict for one, _ in settled]
    counts = {word: verdicts.count(word) for word in ("supported", "refuted", "equivalent", "inconclusive")}
    against = [f"{one.claim.id} ({data})" for one, data in settled if not one.as_expected]
    note = f"{len(settled)} verdict{'s' if len(settled) > 1 else ''}: " + ", ".join(
        f"{n} {word}" for word, n in counts.items() if n
    )
    note += f". Other than expected: {', '.join(against)}." if against else ". All as expected."
    console.print(note)
    console.print(f"in {folder.root}: {', '.join(artifacts)}", style="dim")
    report = SweepReport(
        sweep=SWEEP,
        note=note,
        command=" ".join(["python -m src.claims", *map(shlex.quote, arguments)]),
        metrics={f"claims/{word}": float(n) for word, n in counts.items()},
        artifacts=artifacts,
    )
    write_sweep(folder.root, report)
    Outbox(folder.root).put(folder.root)


def _where(task: Task) -> str:
    """Where a claim was settled: the data, or the place of a study other than the claim's first."""
    is_first = task.study.place == task.claim.studies[0].place
    return task.cells[0].config.data.name if is_first else task.study.place


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    try:
        sys.exit(main(sys.argv[1:]))
    except entry.MISTAKES as error:
        entry.fail(entry.explain(error, sys.argv[1:]))
