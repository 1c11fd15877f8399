"""Saved views of an experiment's runs, which MLflow's page lists in its menu Views.

MLflow 3 keeps a saved view in a tag of the experiment: a name and the state of the page, its table and its charts. A
view's address is ``/#/experiments/<id>/runs?viewStateShareKey=cells&workflowType=machine_learning``; without the last
part MLflow 3.17 opens its pages for GenAI, whatever the tag of the experiment's kind. ``&compareRunsMode=CHART`` opens
its charts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from src.axes import NUMERIC_AXES
from src.tracking.record import clean_name

_PREFIX = "mlflow.sharedViewState."
_CREATED = 1_735_689_600_000  # a fixed time, so that equal views are equal tags
_RUN_NAME, _CREATED_COLUMN = "attributes.`Run Name`", "runDateAndNestInfo"
_SECTION = "comparison"
BEFORE_RESULTS: Mapping[str, Any] = {
    "pairs": [["sequential", "combined"]],
    "metric": "union/accuracy",
    "higher_is_better": True,
    "axes": list(NUMERIC_AXES),
    "largest": None,
    "elsewhere": (),
}
"""See `reports.SweepComparison`; of an experiment that has no finished sweep."""

COLOUR = "mlflow.runColor"
"""The tag from which MLflow's charts take the colour of a run."""
COLOURS = {"sequential": "#e66101", "combined": "#5e3c99"}
"""As in the map of differences."""
FURTHER_COLOURS = ("#1b9e77", "#e7298a", "#1f78b4", "#a6761d", "#b8860b", "#377eb8", "#4daf4a", "#984ea3")
UNDECIDED = "#9e9e9e"


def colour_of(label: str) -> str:
    """The colour of a regime, and of a cell that it wins; grey for a cell without one winner."""
    if ": " in label or label in ("undecided", "too few seeds", "inconclusive", "equivalent"):
        return UNDECIDED
    number = hashlib.sha256(label.encode()).digest()[0]
    return COLOURS.get(label, FURTHER_COLOURS[number % len(FURTHER_COLOURS)])


def view_path(experiment_id: str, view: str, *, charts: bool = False) -> str:
    """The address of a saved view below that of the server."""
    query = {"viewStateShareKey": view, "workflowType": "machine_learning"}
    query |= {"compareRunsMode": "CHART"} if charts else {}
    return f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def is_ours(view: str) -> bool:
    """Whether a saved view is as it was written here: one that the user has changed stays."""
    try:
        return bool(json.loads(view)["updatedAt"] == _CREATED)
    except (ValueError, TypeError, KeyError):
        return False


def saved_views(comparison: Mapping[str, Any] = BEFORE_RESULTS) -> dict[str, str]:
    """Tags of the experiment by name. `comparison`: see `reports.SweepComparison`."""
    pairs, metric = comparison["pairs"], comparison["metric"]
    regimes = list(dict.fromkeys(regime for pair in pairs for regime in pair))
    differences = [clean_name(f"delta/{a}-{b}/{metric}") for a, b in pairs]
    numeric = [axis for axis in NUMERIC_AXES if axis in comparison["axes"]] or ["ratio"]
    others = [clean_name(axis) for axis in comparison["axes"] if axis not in NUMERIC_AXES]
    axes = _metrics(numeric) + _params(others)  # numbers as metrics, since MLflow sorts params as text
    texts = ["difference"] if len(pairs) == 1 else [f"difference/{a}-{b}" for a, b in pairs]
    elsewhere = [f"{text}/{name}" for text in texts for name in comparison.get("elsewhere", ())]
    verdict, means = _tags(["verdict"]), _tags([f"mean/{regime}" for regime in regimes])
    tests = [f"test/{metric.replace('union', name, 1)}" for name in ("union", "d1", "d2")]
    charts = [_scatter(axis, differences[0]) for axis in numeric]
    charts += [_scatter(axis, differences[0], "PARAM") for axis in others]
    charts += [_parallel(numeric, differences[0])]
    charts += [_contour(numeric[0], numeric[1], differences[0])] if len(numeric) > 1 else []
    by_regime = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "regime"}]}
    winners = {"orderByKey": f"metrics.`{differences[0]}`", "orderByAsc": not comparison["higher_is_better"]}
    by_seed = {"orderByKey": "params.`seed`", "orderByAsc": True}  # the first 100 runs are of all cells
    by_ratio = {"orderByKey": "metrics.`ratio`", "orderByAsc": True}
    lines = [_line(f"val/{metric}"), _line("train/loss"), *(_line(f"val/{name}/accuracy") for name in ("d1", "d2"))]
    cell, name = comparison["largest"] or ("", "all cells")
    views = {
        "cells": _view(
            "cells: who wins, by how much",
            [*verdict, *_tags(texts), *_tags(elsewhere), *means, *axes, *_metrics(differences)],
            {
                "searchFilter": "tags.level = 'cell'",
                **winners,
                **_charts(charts, height=460),
            },  # shows the whole axis title
            name_width=230,
        ),
        "regimes": _view(
            "runs, grouped by regime",
            [*_metrics(tests), *axes, *_params(["regime", "seed"])],
            {"searchFilter": "tags.level = 'run'", **by_seed, "groupBy": by_regime}
            | _charts([_scatter(axis, tests[0]) for axis in numeric]),
        ),
        "curves": _view(
            f"curves: {name}",
            [*_params(["regime", "seed"]), *_metrics(tests)],
            {"searchFilter": "tags.level = 'run'" + (f" AND tags.cell = '{cell}'" if cell else ""), **by_ratio}
            | {"groupBy": by_regime, **_charts(lines)},
        ),
        "grid": _view(
            "sweep > cell > run",
            [*verdict, *_tags(texts), *axes, *_params(["regime", "seed"]), *_metrics([*tests, differences[0]])],
            {"searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": True},
        ),
        "runs": _view(
            "runs, by ratio",
            [*_params(["regime", "seed"]), *axes, *_metrics(tests)],
            {"searchFilter": "tags.level = 'run'", **by_ratio},
        ),
    }
    return {f"{_PREFIX}{name}": view for name, view in views.items()}


def _metrics(names: Sequence[str]) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _params(names: Sequence[str]) -> list[str]:
    return [f"params.`{name}`" for name in names]


def _tags(names: Sequence[str]) -> list[str]:
    return [f"tags.`{clean_name(name)}`" for name in names]


def _view(name: str, columns: list[str], further: Mapping[str, Any], *, name_width: int = 330) -> str:
    widths = {_RUN_NAME: name_width, **{column: _width(column) for column in columns}, _CREATED_COLUMN: 130}
    state: dict[str, Any] = {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
        **further,
    }
    return json.dumps({"name": name, "createdAt": _CREATED, "updatedAt": _CREATED, "state": json.dumps(state)})


def _width(column: str) -> int:
    """Width in pixels that shows the texts of the column, and nearly its whole heading."""
    kind, name = column.split("`")[0], column.split("`")[1]
    if name.startswith("difference/") and name.endswith(("/d1", "/d2", "/balanced")):
        return 150
    texts = {"tags.verdict": 130, "tags.difference": 215, "params.regime": 190}
    return texts.get(f"{kind}{name}", min(330, max(80, 8 * (len(name) + 4))))


def _charts(cards: Sequence[Mapping[str, Any]], height: int = 360) -> dict[str, Any]:
    """The state of the page's charts: `cards` in a section that stays before those that MLflow adds.

    `height`: of a card, in pixels; the default is MLflow's.
    """
    section = {"uuid": _SECTION, "name": "Comparison", "display": True, "isReordered": False, "isGenerated": False}
    common = {"metricSectionId": _SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": 2000}
    return {
        "compareRunSections": [section | {"deleted": False, "cardHeight": height}],
        "compareRunCharts": [{**card, **common, "uuid": f"card-{number}"} for number, card in enumerate(cards)],
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": True,
    }


def _scatter(x: str, y: str, kind: str = "METRIC") -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": {"key": x, "type": kind}, "yaxis": {"key": y, "type": "METRIC"}}


def _parallel(axes: Sequence[str], metric: str) -> dict[str, Any]:
    return {"type": "PARALLEL", "selectedParams": list(axes), "selectedMetrics": [metric], "showAllRuns": True}


def _contour(x: str, y: str, z: str) -> dict[str, Any]:
    return {**_scatter(x, y), "type": "CONTOUR", "zaxis": {"key": z, "type": "METRIC"}}


def _line(metric: str) -> dict[str, Any]:
    shared = {"xAxisKey": "step", "useGlobalXaxisKey": True, "xAxisScaleType": "linear", "scaleType": "linear"}
    shared |= {"lineSmoothness": 0, "useGlobalLineSmoothing": True, "range": {}, "yAxisKey": "metric"}
    return {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "yAxisExpressions": [], **shared}
