"""What a search says at its end: its best trials, and how it got there, on disk, on the terminal and in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from src.axes import axis_of
from src.cells.resolve import ResolvedCell
from src.comparison.betting import AnyStop
from src.comparison.pairing import Records
from src.comparison.sentences import sentence
from src.comparison.tables import csv_text
from src.comparison.text_table import TextTable
from src.comparison.units import unit_of
from src.comparison.verdicts import CellVerdict, Rules, judge
from src.config.command import command
from src.io import write_atomically
from src.sweep.grid.cells import labels_of
from src.sweep.search.plots import boundary_sentences, draw, write_boundary
from src.sweep.search.pruning import N_STEPS, is_pruned_early
from src.sweep.search.trials import Searched, best_first, value_text
from src.sweep.summary import TrialInfo, attached, print_troubles, read_records, report_cells, stdout_console
from src.sweep.work import axes_text
from src.tracking.outbox import Outbox
from src.tracking.reports import SweepReport, write_sweep

ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
N_BEST = 10
"""Trials in the table; all are in trials.csv."""


def report_search(searched: Searched, sweep_dir: Path, cells: Sequence[ResolvedCell], command_line: str) -> None:
    """Prints the best trials and writes all trials, the plot, and the reports for MLflow.

    `cells`: those of the trials, each once.
    """
    finds_best = searched.search.strategy.finds_best
    valued = best_first(searched.trials, searched.search)
    best = valued if finds_best else []
    records = read_records(sweep_dir, cells) if cells else Records(runs=())
    labels = labels_of([cell.config for cell in cells])
    rule = None if finds_best else AnyStop()  # its results decided on the seeds
    baseline, margin = (cells[0].config.baseline, cells[0].config.margin) if cells else (None, None)
    verdicts = judge(records, labels, baseline=baseline, undeclared=Rules(any_stop=rule, margin=margin))
    outbox = Outbox(sweep_dir)
    report_cells(cells, records, verdicts, outbox, _trial_infos(searched, valued))
    artifacts = [str(path.relative_to(sweep_dir)) for path in _write(searched)]
    if finds_best:
        table = _table(searched, best[:N_BEST])
        sentences = [_sentence(searched, best), *(_tested(best[0], records, verdicts) if best else []), *_cut(searched)]
        note = "\n\n".join([*sentences, table.markdown()])
    else:
        sentences = boundary_sentences(searched)
        note = "\n\n".join(sentences)
    states = [trial.state for trial in searched.trials]
    metrics = {f"trials/{state.name.lower()}": float(states.count(state)) for state in ENDS}
    metrics |= {"best": best[0].values[0]} if best else {}
    report = SweepReport(
        sweep=sweep_dir.name,
        note=note,
        command=command_line,
        metrics=metrics,
        artifacts=[*artifacts, *attached(sweep_dir)],
    )
    write_sweep(sweep_dir, report, outbox)
    console = stdout_console()
    if best:
        console.print(table.fitting(console.width, ["cell"]).terminal(no_wrap=["cell"]))
    for line in sentences:
        console.print(line)
    for trial in searched.trials:
        if trial.state == TrialState.PRUNED and not is_pruned_early(trial):
            attributes = trial.user_attrs
            line = f"pruned: trial {attributes['point']} ({axes_text(trial)}): {attributes['reason']}"
            console.print(line, style="yellow")
    print_troubles(console, records)
    for trial in best[:1]:
        (config,) = (cell.config for cell in cells if cell.hash == trial.user_attrs["cell"])
        console.print(f"its cell: {command(config)}", style="dim", soft_wrap=True)
    console.print(f"in {sweep_dir}: {', '.join(artifacts)}", style="dim", soft_wrap=True)


def _trial_infos(searched: Searched, valued: Sequence[FrozenTrial]) -> dict[str, TrialInfo]:
    """The additions of the search to the report of each cell."""
    search = searched.search
    text = search.objective.text
    return {
        trial.user_attrs["cell"]: TrialInfo(
            axes={key: value for key, value in trial.params.items() if axis_of(key) is None},
            note=f"Trial {trial.user_attrs['point']} of {search.id}: {text} = {_shown(trial, searched)}",
            metrics={"objective": trial.values[0]},
        )
        for trial in valued
    }


def _sentence(searched: Searched, best: Sequence[FrozenTrial]) -> str:
    search, n = searched.search, len(searched.trials)
    if not best:
        return f"None of {n} trials has a value."
    of = f"{len(best)} of {n} trials" if len(best) < n else f"{n} trials"
    return f"Best of {of}: {search.objective.text} = {_shown(best[0], searched)} at {axes_text(best[0])}."


def _tested(trial: FrozenTrial, records: Records, verdicts: Sequence[CellVerdict]) -> list[str]:
    """What the test sets, which no trial was chosen by, say of the best one."""
    cell = trial.user_attrs["cell"]
    compared = [f"On the test sets, which chose nothing: {sentence(one)}." for one in verdicts if one.cell == cell]
    if compared:
        return compared
    kind = "accuracy" if any(run.metric("test/union/accuracy") is not None for run in records.runs) else "loss"
    unit = unit_of(kind)
    values: dict[str, list[float]] = {}
    for run in records.runs:
        if run.cell == cell and (value := run.metric(f"test/union/{kind}")) is not None:
            values.setdefault(run.regime, []).append(value)
    means = ", ".join(
        f"{label} {unit.value(sum(of) / len(of))} {unit.of_values}".rstrip() for label, of in values.items()
    )
    return [f"On the test sets, which chose nothing, mean {kind} on union: {means}."]


def _cut(searched: Searched) -> list[str]:
    """How many trials the pruner has cut short; each says in trials.csv where."""
    ends = [trial.last_step or 0 for trial in searched.trials if is_pruned_early(trial)]
    if not ends:
        return []
    where = f"after {sum(ends) / len(ends) / N_STEPS:.0%} of their last stage on average"
    count = f"{len(ends)} of {len(searched.trials)} trials"
    return [f"Cut short by search.pruner={searched.search.config.pruner}: {count}, {where}."]


def _shown(trial: FrozenTrial, searched: Searched) -> str:
    """The value in the units of its metric, with its means where it is a difference."""
    objective, value = searched.search.objective, value_text(trial, searched.search)
    unit = unit_of(objective.metric)
    if len(objective.of) == 1:
        return value
    means = ", ".join(f"{label} {unit.value(mean)}" for label, mean in trial.user_attrs["means"].items())
    return f"{value} ({means})"


def _table(searched: Searched, best: Sequence[FrozenTrial]) -> TextTable:
    search, objective = searched.search, searched.search.objective
    unit, labels = unit_of(objective.metric), objective.of if len(objective.of) > 1 else ()
    shown = unit.of_differences if labels else unit.of_values
    means = [f"{label} {unit.of_values}".rstrip() for label in labels]
    heads = ("trial", f"value, {shown}" if shown else "value", *means, *search.space, "cell")
    rows = tuple(
        (
            *(str(trial.user_attrs["point"]), value_text(trial, search, with_unit=False)),
            *(unit.value(trial.user_attrs["means"][label]) for label in labels),
            *(str(trial.params[key]) for key in search.space),
            trial.user_attrs["cell"],
        )
        for trial in best
    )
    title = f"{search.id}, the best {len(best)} trials: {search.goal_in_words}"
    return TextTable(heads=heads, rows=rows, align="r" * (len(heads) - 1) + "l", title=title)


def _write(searched: Searched) -> list[Path]:
    """Writes trials.csv with every trial, and the plots, to the search's folder."""
    search = searched.search
    heads = ["trial", "state", search.objective.text, *search.objective.of, *search.space, "cell", "reason"]
    rows: list[Sequence[object]] = [heads]
    for trial in searched.trials:
        attributes = trial.user_attrs
        means = [attributes.get("means", {}).get(label, "") for label in search.objective.of]
        value = trial.values[0] if trial.values else ""
        point = [trial.params[key] for key in search.space]
        row = [attributes["point"], trial.state.name, value, *means, *point]
        rows.append([*row, attributes.get("cell", ""), attributes.get("reason", "")])
    path = searched.folder / "trials.csv"
    write_atomically(path, csv_text(rows))
    unit = unit_of(search.objective.metric)
    shown = replace(unit, of_values=unit.of_differences) if len(search.objective.of) > 1 else unit
    if not search.strategy.finds_best:
        return [path, *write_boundary(searched)]
    return [path, *draw(search, searched.trials, searched.folder, shown)]
