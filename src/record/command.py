"""The command `python -m src.record`: writes runs of another trainer as run folders, then reports them like a sweep's."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from src.cli import fail
from src.comparison.families import declare, read_families
from src.comparison.pairing import by_cell, grouped, load_records
from src.comparison.sentences import beside, sentence
from src.comparison.verdicts import cell_metrics, judge, judge_test_sets
from src.config import SCHEMA_VERSION, compose
from src.errors import ConfigError, did_you_mean
from src.io import digest, file_name, read_json_or, write_atomically
from src.record.rows import RecordedRun, read_runs
from src.sweep.columns import cell_means, cell_tags
from src.sweep.folder import RECORDED
from src.sweep.summary import publication, winners
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import CellReport, write_cell
from src.training.records import write_run
from src.urls import without_secrets

KEYS = ("sweep", "multirun", "tracking", "tracking.uri", "tracking.experiment")
NO_HISTORY: Mapping[str, list[Any]] = {"step": [], "stage": [], "name": [], "value": []}


def main(arguments: Sequence[str]) -> int:
    """Records the runs of a file and reports their sweep; returns the exit status."""
    files = [word for word in arguments if "=" not in word]
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    baseline = settings.pop("baseline", None)
    if len(files) != 1:
        fail("csv=: give one file of runs: python -m src.record FILE.csv sweep=NAME (see --help)")
    for key in settings:
        if key not in KEYS:
            fail(f"{key}: unknown; {did_you_mean(key, [*KEYS, 'baseline'])}")
    if "sweep" not in settings:
        fail("sweep=: is missing; name the sweep that the runs form, e.g. sweep=speech")
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = compose(overrides)
    sweep_dir = Path(config.multirun) / config.sweep
    if (sweep_dir / "queue.json").exists():
        raise ConfigError("sweep", config.sweep, "is a sweep that is trained here; record under another name")
    runs = read_runs(Path(files[0]))
    known = read_json_or(sweep_dir / RECORDED, {})
    labels = list(dict.fromkeys([*known.get("regimes", ()), *(run.regime for run in runs)]))
    baseline = baseline or known.get("baseline")
    if baseline not in (None, *labels):
        raise ConfigError("baseline", baseline, f"is no recorded regime; {did_you_mean(str(baseline), labels)}")
    tracking = [word for word in overrides if word.startswith("tracking")]
    about = {"regimes": labels, "baseline": baseline, "tracking": tracking}
    _write(sweep_dir, runs, about, Path(files[0]))
    deliverer = Deliverer(sweep_dir, config.tracking).start()
    words = ["python", "-m", "src.record", *map(without_secrets, arguments)]
    _report(sweep_dir, labels, baseline, shlex.join(words))
    deliverer.stop()
    return 0


def _write(sweep_dir: Path, runs: Sequence[RecordedRun], about: Mapping[str, Any], file: Path) -> None:
    """Writes the folders of new runs. Raises ConfigError before that if a run is on disk with other values."""
    new: list[tuple[Path, dict[str, Any]]] = []
    for run in runs:
        cell = digest({"schema": SCHEMA_VERSION, "recorded": dict(run.axes)})
        folder = sweep_dir / "cells" / cell / file_name(f"{run.regime}-{run.seed}")
        body = _body(sweep_dir.name, cell, run)
        written = read_json_or(folder / "result.json", {})
        if not written:
            new.append((folder, body))
        elif any(written.get(key) != body[key] for key in ("status", "result")):
            problem = f"line {run.line}: {run.regime} with seed {run.seed} is recorded with other values; "
            raise ConfigError("csv", str(file), f"{problem}delete {folder} to replace it, or take another sweep=NAME")
    write_atomically(sweep_dir / RECORDED, json.dumps(about, indent=1))
    outbox = Outbox(sweep_dir)
    source = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16]}
    for folder, body in new:
        with outbox.transaction(folder):
            write_run(folder, body, NO_HISTORY, yaml.safe_dump({"recorded": source}))
    n_cells = len({run.address[0] for run in runs})
    print(f"{len(runs)} runs in {n_cells} cells, {len(new)} of them new")


def _body(sweep: str, cell: str, run: RecordedRun) -> dict[str, Any]:
    costs = {name: cost for name, cost in run.costs.items() if name != "seconds"}
    provenance: dict[str, Any] = {"engine": "recorded", "finished_at": datetime.now(UTC).isoformat()}
    provenance |= {"seconds": run.costs["seconds"]} if "seconds" in run.costs else {}
    return {
        "schema": SCHEMA_VERSION,
        "sweep": sweep,
        "cell": cell,
        "run": digest({"cell": cell, "regime": run.regime, "seed": run.seed}),
        "regime": run.regime,
        "regime_name": run.regime,
        "knobs": {},
        "seed": run.seed,
        "axes": dict(run.axes),
        "status": "diverged" if run.diverged else "finished",
        "result": {"metrics": dict(run.metrics), "accuracy_matrix": [], "stages": [], "cost": costs},
        "provenance": provenance,
    }


def _report(sweep_dir: Path, labels: Sequence[str], baseline: str | None, command_line: str) -> None:
    """Prints the table and writes the files of all runs that the sweep has by now."""
    records = load_records(sweep_dir)
    runs = by_cell(records.runs)
    seeds = {run.seed for run in records.runs}
    declare(sweep_dir, sorted(runs), labels, baseline, seeds)
    settings: dict[str, Any] = {"baseline": baseline, "families": read_families(sweep_dir)}
    verdicts = judge_test_sets(lambda metric: judge(records, labels, metric, **settings))
    with publication(sweep_dir, records, labels, verdicts, command_line, n_cells=len(runs)) as outbox:
        for cell, own in grouped(verdicts, lambda verdict: verdict.cell).items():
            report = CellReport(
                sweep=sweep_dir.name,
                cell=cell,
                axes=own[0].axes,
                verdict=winners(own),
                note="\n\n".join(filter(None, (*map(sentence, own), *map(beside, own)))),
                command=command_line,
                metrics={**cell_metrics(runs[cell], labels), **cell_means(own)},
                tags=cell_tags(own),
            )
            write_cell(sweep_dir / "cells" / cell, report, outbox)
