"""The command `python -m src.anchors`: runs the studies of anchors that lack results, and compares.

A file of conf/anchor holds a published protocol, its rows, and the study that follows it here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from scipy.special import stdtrit

from src.comparison.metrics import run_metric
from src.comparison.pairing import RunRecord, by_cell, load_records
from src.comparison.statistics import Floats
from src.comparison.text_table import TextTable
from src.config import parse_regime
from src.config.composing import GroupComposer
from src.errors import ConfigError
from src.io import CONF_DIR
from src.sweep import laboratory
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import Cell, CommandLine, expand
from src.sweep.grid.plan import plan_sweep
from src.sweep.study_commands import WIDTH, names_of, run_studies, split_arguments
from src.terminal import console
from src.typed import bounds, build, conf_names, read_conf

Verdict = Literal["equivalent", "consistent", "too few seeds", "differs"]
NORMAL_97_5 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorRow:
    """A published value, in percent or points, and the metric of ours that it is compared with."""

    name: str
    of: Any
    """The regime."""
    minus: Any = None
    """A regime whose metric is subtracted, seed by seed."""
    metric: str
    """See `src.comparison.metrics.run_metric`; fractions, shown times 100."""
    value: float
    spread: float | None = field(default=None, metadata=bounds(ge=0))
    kind: Literal["SD", "SE", "SEM"] | None = None
    """What the spread is: over runs (SD), or of their mean (SE, SEM)."""
    n: int | None = field(default=None, metadata=bounds(ge=1))
    """Runs behind the value."""
    margin: float = field(metadata=bounds(gt=0))
    """Differences up to this count as none."""
    miss: str = ""
    """Why ours differs: a measured deviation."""

    @property
    def error(self) -> float:
        """Standard error of the published value; 0 where none was published."""
        if self.spread is None:
            return 0.0
        return self.spread / math.sqrt(self.n or 1) if self.kind == "SD" else self.spread

    @property
    def published(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:g} ({self.kind})"
        return f"{self.value:g}{spread}" + ("" if self.n is None else f", n = {self.n}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """One published protocol."""

    id: str
    source: str
    protocol: str
    overrides: tuple[str, ...]
    """The study, as arguments of a sweep: one cell."""
    regimes: Any
    seeds: int = field(metadata=bounds(ge=2))
    minutes: float = field(metadata=bounds(gt=0))
    """Of processor time that the study takes on the machine that measured it, or is estimated to take."""
    on_demand: str = ""
    """Why it runs only if named: what it needs."""
    deviations: tuple[str, ...]
    rows: tuple[AnchorRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorComparison:
    """A published value and ours."""

    mean: float
    deviation: float
    """Standard deviation over our seeds."""
    n: int
    difference: float
    z: float
    """The difference over its standard error."""
    verdict: Verdict


def load_anchor(name: str) -> Anchor:
    """The anchor of conf/anchor/NAME.yaml. Raises ConfigError naming key, value and fix."""
    anchor = build(Anchor, read_conf("anchor", name), f"anchor.{name}")
    for row in anchor.rows:
        if (row.spread is None) != (row.kind is None) or (row.kind == "SD" and row.n is None):
            problem = "needs its kind (SD, SE or SEM), and an SD its n; give both or neither"
            raise ConfigError(f"anchor.{name}.rows.{row.name}.spread", row.spread, problem)
    return anchor


def compare(row: AnchorRow, ours: Sequence[float]) -> AnchorComparison:
    """Our values, in the unit of the row, with the published one.

    ``equivalent``: shown to be within the margin at 5 % (two one-sided t tests, Welch's degrees of freedom);
    ``differs``: shown to differ at 5 %; ``too few seeds``: not shown, though the difference is above 1.96 standard
    errors, which would show it with many seeds; else ``consistent``.
    """
    values: Floats = np.array(ours, np.float64)
    n, own = len(values), float(values.std(ddof=1)) / math.sqrt(len(values))
    error = max(math.hypot(own, row.error), 1e-9)
    freedom = error**4 / max(own**4 / (n - 1) + row.error**4 / max((row.n or n) - 1, 1), 1e-40)
    difference = float(values.mean()) - row.value
    z = difference / error
    verdict: Verdict = "differs"
    if abs(difference) + float(stdtrit(freedom, 0.95)) * error <= row.margin:
        verdict = "equivalent"
    elif abs(z) < float(stdtrit(freedom, 0.975)):
        verdict = "consistent" if abs(z) < NORMAL_97_5 else "too few seeds"
    deviation = float(values.std(ddof=1))
    return AnchorComparison(
        mean=float(values.mean()), deviation=deviation, n=n, difference=difference, z=z, verdict=verdict
    )


SWEEP = "anchors"
OWN_KEYS = ("anchor", "seeds", "write", "run")
HEADS = ("anchor", "row", "published, %", "ours, %", "difference", "z", "margin", "verdict")
ALIGN = "llrrrrrl"


@dataclass(frozen=True)
class AnchorRuns:
    """An anchor and the runs of its cell."""

    anchor: Anchor
    runs: Sequence[RunRecord]

    @property
    def minutes(self) -> float:
        """Time of the trainings by the clock: on a loaded machine more than their processor time."""
        return sum(float(run.provenance["seconds"]) for run in self.runs) / 60

    def compared(self, row: AnchorRow) -> AnchorComparison | None:
        """The row with ours; None with fewer than two seeds that have its metric."""
        n_parts = max((len(run.result["class_counts"]) for run in self.runs), default=2)
        labels = [parse_regime(entry, n_parts).label for entry in (row.of, row.minus) if entry is not None]
        found: list[dict[int, float]] = []
        for label in labels:
            own = {
                run.seed: run_metric(run, row.metric) for run in self.runs if run.regime == label and not run.diverged
            }
            found.append({seed: 100 * value for seed, value in own.items() if value is not None})
        seeds = sorted(set.intersection(*map(set, found)))
        if len(seeds) < 2:
            return None
        return compare(row, [found[0][s] - (found[1][s] if len(found) > 1 else 0.0) for s in seeds])


def main(arguments: Sequence[str]) -> int:
    """Checks all studies, runs those that lack results and prints the table; returns 1 if a cell failed."""
    options, settings = split_arguments(arguments, OWN_KEYS, "anchor", "anchor=buzzega-permuted")
    if options.get("run", "true") not in ("true", "false"):
        raise ConfigError("run", options["run"], "is true or false; false compares the results that there are")
    if not options.get("seeds", "2").isdigit() or int(options.get("seeds", "2")) < 2:
        raise ConfigError("seeds", options["seeds"], "must be a number of at least 2: a spread needs it")
    named = names_of(options["anchor"]) if "anchor" in options else []
    anchors = [load_anchor(name) for name in named or conf_names("anchor")]
    chosen = [anchor for anchor in anchors if named or not anchor.on_demand]
    others = [anchor for anchor in anchors if anchor not in chosen]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        cells = [cell_of(anchor, settings, options.get("seeds"), loader) for anchor in chosen]
    plan = plan_sweep(cells, laboratory)

    def report(folder: SweepFolder) -> None:
        runs = by_cell(load_records(folder.root, cells=plan.cells).runs)
        all_runs = [AnchorRuns(anchor, runs.get(key, [])) for anchor, key in zip(chosen, plan.hashes, strict=True)]
        console(width=WIDTH).print(table(all_runs).terminal())
        print(summary(all_runs))
        for anchor in others:
            print(f"anchor={anchor.id} runs on demand: {anchor.on_demand}")
        if "write" in options:
            Path(options["write"]).write_text(page(all_runs, others), encoding="utf-8")

    names = [f"anchor={anchor.id}" for anchor in chosen]
    return run_studies(plan, report, names, run=options.get("run", "true") == "true")


def cell_of(anchor: Anchor, settings: Sequence[str], seeds: str | None, loader: ConfigLoader) -> Cell:
    """The one cell of an anchor's study. Raises ConfigError."""
    composer = GroupComposer(loader)

    def compose(overrides: list[str]) -> Mapping[str, Any]:
        return {**composer(overrides), "sweep": SWEEP, "regimes": anchor.regimes, "seeds": int(seeds or anchor.seeds)}

    cells = expand(CommandLine([*anchor.overrides, *settings], compose, loader))
    if len(cells) != 1:
        raise ConfigError("anchor", anchor.id, f"its study has {len(cells)} cells; give one value for each setting")
    return cells[0]


def table(all_runs: Sequence[AnchorRuns]) -> TextTable:
    """A line for each row."""
    lines = []
    for anchor_runs in all_runs:
        for row in anchor_runs.anchor.rows:
            found, head = anchor_runs.compared(row), (anchor_runs.anchor.id, row.name, row.published)
            if found is None:
                lines.append((*head, "-", "-", "-", f"{row.margin:g}", "not run"))
                continue
            ours = f"{found.mean:.2f} ± {found.deviation:.2f} (SD), n = {found.n}"
            numbers = (f"{found.difference:+.2f}", f"{found.z:+.1f}", f"{row.margin:g}")
            lines.append((*head, ours, *numbers, f"**{found.verdict}**"))
    return TextTable(heads=HEADS, rows=tuple(lines), align=ALIGN)


def summary(all_runs: Sequence[AnchorRuns]) -> str:
    """Verdicts and cost in one line."""
    found = [
        one.verdict
        for anchor_runs in all_runs
        for row in anchor_runs.anchor.rows
        if (one := anchor_runs.compared(row)) is not None
    ]
    counts = ", ".join(f"{found.count(v)} {v}" for v in get_args(Verdict))
    minutes = sum(anchor_runs.minutes for anchor_runs in all_runs)
    return f"{len(found)} rows: {counts}; {minutes:.0f} minutes of training by the clock"


def page(all_runs: Sequence[AnchorRuns], others: Sequence[Anchor]) -> str:
    """docs/ANCHORS.md: the table, then source, protocol, deviations and misses of every anchor."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    sections = [*all_runs, *(AnchorRuns(anchor, ()) for anchor in others)]
    return environment.get_template("page.md.j2").render(
        summary=summary(all_runs), table=table(all_runs).markdown(), anchors=[(own.anchor, own) for own in sections]
    )
