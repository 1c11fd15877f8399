"""The command `python -m src.record`: runs of another trainer, finished or driven here, become a sweep and are
reported."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from src.axes import number
from src.cli import fail
from src.comparison.families import declare, read_families
from src.comparison.pairing import by_cell, grouped, load_records
from src.comparison.sentences import sentence, sentence_elsewhere
from src.comparison.verdicts import judge_test_sets
from src.config import SCHEMA_VERSION, compose
from src.errors import ConfigError, did_you_mean
from src.io import digest, file_name, read_json_or, write_atomically
from src.locks import locked
from src.record.rows import RecordedRun, read_runs
from src.record.script import Script, chain, recorded, run_stages
from src.sweep.folder import RECORDED
from src.sweep.mlflow_columns import cell_means, cell_metrics, cell_tags
from src.sweep.summary import CommandResults, publication, winners
from src.tracking.outbox import Deliverer, Outbox
from src.tracking.reports import CellReport, write_cell
from src.training.run_files import write_run
from src.urls import without_secrets

KEYS = ("sweep", "multirun", "tracking", "tracking.uri", "tracking.experiment")
AXIS = "axis."
SCRIPT_KEYS = ("engine.run", "engine.jobs", "data.lists", "split.test", "split.val", "regimes", "seeds")
NO_HISTORY: Mapping[str, list[Any]] = {"step": [], "stage": [], "name": [], "value": []}


def main(arguments: Sequence[str]) -> int:
    """Records the runs of a file, or those that a script makes, and reports their sweep; returns the exit status."""
    files = [word for word in arguments if "=" not in word]
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    baseline = settings.pop("baseline", None)
    drives = "engine.run" in settings
    if len(files) != (not drives):
        fail(
            "csv=: give one file of runs, or engine.run='COMMAND': python -m src.record FILE.csv sweep=NAME (see "
            "--help)"
        )
    for key in settings:
        if key not in KEYS and not (drives and (key in SCRIPT_KEYS or key.startswith(AXIS))):
            fail(f"{key}: unknown; {did_you_mean(key, [*KEYS, *(SCRIPT_KEYS if drives else ()), 'baseline'])}")
    if "sweep" not in settings:
        fail("sweep=: is missing; name the sweep that the runs form, e.g. sweep=speech")
    overrides = [f"{key}={value}" for key, value in settings.items() if key in KEYS]
    config = compose(overrides)
    sweep_dir = Path(config.multirun) / config.sweep
    if (sweep_dir / "queue.json").exists():
        raise ConfigError("sweep", config.sweep, "is a sweep that is trained here; record under another name")
    failures: list[str] = []
    if drives:
        runs, failures, source = _driven(settings, sweep_dir)
    else:
        runs, content = read_runs(Path(files[0])), Path(files[0]).read_bytes()
        source = {"file": Path(files[0]).name, "sha256": hashlib.sha256(content).hexdigest()[:16]}
    known = read_json_or(sweep_dir / RECORDED)
    labels = list(dict.fromkeys([*known.get("regimes", ()), *(run.regime for run in runs)]))
    baseline = baseline or known.get("baseline")
    if runs and baseline not in (None, *labels):
        raise ConfigError("baseline", baseline, f"is no recorded regime; {did_you_mean(str(baseline), labels)}")
    tracking = [word for word in overrides if word.startswith("tracking")]
    if runs:
        _write(sweep_dir, runs, {"regimes": labels, "baseline": baseline, "tracking": tracking}, source)
        words = ["python", "-m", "src.record", *map(without_secrets, arguments)]
        with Deliverer(sweep_dir, config.tracking):
            _report(sweep_dir, labels, baseline, shlex.join(words))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if failures:
        print("the same command runs again what failed, and nothing else", file=sys.stderr)
    return 1 if failures else 0


def _driven(settings: Mapping[str, str], sweep_dir: Path) -> tuple[list[RecordedRun], list[str], dict[str, Any]]:
    """Runs what a script has not trained yet: the finished runs, a line for each failed one, and their source."""
    given = {key: number(value) for key, value in settings.items()}
    shares: dict[str, float] = {}
    for name, default in (("test", 0.2), ("val", 0.1)):
        share = given.get(f"split.{name}", default)
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"split.{name}", share, "must be a share of the lines, from 0 to below 1, e.g. 0.2")
        shares[name] = share
    jobs = given.get("engine.jobs", 1)
    if not isinstance(jobs, int) or jobs < 1:
        raise ConfigError("engine.jobs", jobs, "must be a whole number from 1: stages that run at a time")
    files = settings.get("data.lists", "").strip("[]").split(",")
    if len(files) < 2:
        fail("data.lists=: name the list of each data set, one sample a line: data.lists=[old.txt,new.txt]")
    axes = {key.removeprefix(AXIS): value for key, value in given.items() if key.startswith(AXIS)}
    script = Script.of(
        settings["engine.run"], [file.strip() for file in files], axes=axes, test=shares["test"], val=shares["val"]
    )
    wanted = [f"{key}={settings[key]}" for key in ("regimes", "seeds") if key in settings]
    config = compose([f"split.parts={len(files)}", *wanted])
    chains = {(regime, seed): chain(script, regime, seed) for seed in config.seeds for regime in config.regimes}
    root = sweep_dir / "script"
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        failed = run_stages(script, list(chains.values()), root, jobs)
    reasons = {run: [failed[stage.key] for stage in own if stage.key in failed] for run, own in chains.items()}
    runs = [recorded(script, *run, own, root) for run, own in chains.items() if not reasons[run]]
    failures = [f"{regime.label}-{seed}: {found[0]}" for (regime, seed), found in reasons.items() if found]
    return runs, failures, {"script": settings["engine.run"], "lists": files}


def _write(sweep_dir: Path, runs: Sequence[RecordedRun], about: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Writes the folders of new runs. Raises ConfigError before that if a run is on disk with other values."""
    new: list[tuple[Path, dict[str, Any]]] = []
    for run in runs:
        cell = digest({"schema": SCHEMA_VERSION, "recorded": dict(run.axes)})
        folder = sweep_dir / "cells" / cell / file_name(f"{run.regime}-{run.seed}")
        body = _body(sweep_dir.name, cell, run)
        written = read_json_or(folder / "result.json")
        if not written:
            new.append((folder, body))
        elif any(written.get(key) != body[key] for key in ("status", "result")):
            problem = f"line {run.line}: {run.regime} with seed {run.seed} is recorded with other values; "
            fix = f"delete {folder} to replace it, or take another sweep=NAME"
            raise ConfigError("csv", str(source.get("file", "")), problem + fix)
    write_atomically(sweep_dir / RECORDED, json.dumps(about, indent=1))
    outbox = Outbox(sweep_dir)
    for folder, body in new:
        with outbox.transaction(folder):
            write_run(folder, body, NO_HISTORY, yaml.safe_dump({"recorded": dict(source)}))
    n_cells = len({run.address[0] for run in runs})
    print(f"{len(runs)} runs in {n_cells} cell{'s' * (n_cells > 1)}, {len(new)} of them new")


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
    verdicts = judge_test_sets(records, labels, baseline=baseline, families=read_families(sweep_dir))
    results = CommandResults(records=records, labels=labels, verdicts=verdicts, n_cells=len(runs))
    with publication(sweep_dir, results, command_line) as outbox:
        for cell, own in grouped(verdicts, lambda verdict: verdict.cell).items():
            report = CellReport(
                sweep=sweep_dir.name,
                cell=cell,
                axes=own[0].axes,
                verdict=winners(own),
                note="\n\n".join(filter(None, (*map(sentence, own), *map(sentence_elsewhere, own)))),
                command=command_line,
                metrics={**cell_metrics(runs[cell], labels), **cell_means(own)},
                tags=cell_tags(own),
            )
            write_cell(sweep_dir / "cells" / cell, report, outbox)
