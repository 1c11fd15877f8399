"""Saved views of MLflow's table of runs, which the experiment's page lists in its menu Views.

MLflow 3 keeps a saved view in a tag of the experiment: a name and the state of the page. A view's address is
``/#/experiments/<id>/runs?viewStateShareKey=grid&workflowType=machine_learning``; without the last part MLflow 3.17
opens its pages for GenAI, whatever the tag of the experiment's kind.
"""

from __future__ import annotations

import json
from typing import Any

from src.axes import NUMERIC_AXES

_PREFIX = "mlflow.sharedViewState."
_CREATED = 1_735_689_600_000  # a fixed time, so that equal views are equal tags
_RUN_NAME, _CREATED_COLUMN = "attributes.`Run Name`", "runDateAndNestInfo"
_TEXT_AXES = ("regime", "shift", "seed")
_TESTS = ("test/union/accuracy", "test/d1/accuracy", "test/d2/accuracy")
_DIFFERENCE = "delta/sequential-combined/union/accuracy"


def saved_views() -> dict[str, str]:
    """Tags of the experiment by name: the whole tree, the cells with their verdicts, the runs by their axes."""
    params = [f"params.`{name}`" for name in _TEXT_AXES]
    tests = [f"metrics.`{name}`" for name in _TESTS]
    axes = [f"metrics.`{name}`" for name in NUMERIC_AXES]  # as metrics, since MLflow sorts params as text
    difference = [f"metrics.`{_DIFFERENCE}{end}`" for end in ("", "/ci_low", "/ci_high", "/p")]
    verdict = ["tags.`verdict`"]
    views = {
        "grid": _view("sweep > cell > run", [*axes, *params, *verdict, *tests, difference[0]], "attributes.start_time"),
        "cells": _view("cells, by ratio", [*axes, *verdict, *difference], "metrics.`ratio`", level="cell"),
        "runs": _view("runs, by ratio", [*axes, *params, *tests], "metrics.`ratio`", level="run"),
    }
    return {f"{_PREFIX}{name}": view for name, view in views.items()}


def _view(name: str, columns: list[str], order: str, *, level: str | None = None) -> str:
    widths = {_RUN_NAME: 300, _CREATED_COLUMN: 120, **{column: _width(column) for column in columns}}
    state: dict[str, Any] = {
        "searchFilter": f"tags.level = '{level}'" if level else "",
        "orderByKey": order,
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    return json.dumps({"name": name, "createdAt": _CREATED, "updatedAt": _CREATED, "state": json.dumps(state)})


def _width(column: str) -> int:
    """Width in pixels that shows nearly the whole heading of the column."""
    return min(330, max(80, 8 * (len(column.split("`")[1]) + 4)))
