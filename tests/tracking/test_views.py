"""Saved views, the columns that they show, and the one-liners of docs/TRACKING.md, on one made-up sweep."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from src.config import TrackingConfig
from src.sync import sync
from src.tracking.bulk import finished_sweeps
from src.tracking.connect import tracking_uri
from src.tracking.views import UNDECIDED, colour_of, is_ours, saved_views, view_path
from tests.tracking.folders import sweep_of
from tests.tracking.reading import by_key

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.findall(r"```python\n(.*?)```", (DOCS / "TRACKING.md").read_text(), re.DOTALL)[0]
LOCAL = TrackingConfig(name="local", uri=None, experiment=None)


@pytest.fixture(scope="module")
def swept(empty_multirun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun/ with two sweeps, written to MLflow."""
    multirun = Path(shutil.copytree(empty_multirun, tmp_path_factory.mktemp("swept") / "multirun"))
    sweep_of(multirun, ratios=(0.1,), n_seeds=1, name="another")
    sweep_of(multirun)
    assert sync(multirun, LOCAL).problems == []
    return multirun


@pytest.fixture
def uri(swept: Path) -> str:
    return str(tracking_uri(LOCAL, swept))


def state_of(views: dict[str, str], name: str) -> dict[str, Any]:
    return dict(json.loads(json.loads(views[f"mlflow.sharedViewState.{name}"])["state"]))


def test_each_sweep_has_an_experiment_of_its_own_and_the_latest_is_first(uri: str) -> None:
    client = MlflowClient(uri)
    names = {experiment.name for experiment in client.search_experiments()}
    assert {"another", "digits-mlp"} <= names
    found = finished_sweeps(uri)
    assert found.keys() == {"another", "digits-mlp"}
    ends = [client.search_runs([number], "tags.level = 'sweep'")[0].info.end_time for number in found.values()]
    assert ends == sorted(ends, reverse=True)
    assert [client.get_experiment(number).name for number in found.values()] == list(found)
    assert view_path("7", "cells") == "/#/experiments/7/runs?viewStateShareKey=cells&workflowType=machine_learning"


def test_every_column_and_chart_of_a_view_exists_in_the_runs_that_it_shows(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits-mlp")
    assert experiment is not None
    for name in ("cells", "regimes", "curves", "grid", "runs"):
        state = state_of(experiment.tags, name)
        runs = client.search_runs([experiment.experiment_id], state["searchFilter"], max_results=100)
        assert runs, name
        given = {f"metrics.`{key}`" for run in runs for key in run.data.metrics}
        given |= {f"params.`{key}`" for run in runs for key in run.data.params}
        given |= {f"tags.`{key}`" for run in runs for key in run.data.tags} | {"attributes.start_time"}
        assert set(state["selectedColumns"]) <= given, name
        assert state["orderByKey"] in given
        for card in state.get("compareRunCharts", []):
            keys = [card[axis]["key"] for axis in ("xaxis", "yaxis", "zaxis") if axis in card]
            keys += [*card.get("selectedMetricKeys", []), *card.get("selectedMetrics", [])]
            assert {f"metrics.`{key}`" for key in keys} <= given, (name, card)
    columns = state_of(experiment.tags, "cells")["selectedColumns"]
    texts = ["verdict", "difference", "difference/d1", "difference/d2", "difference/balanced"]
    assert columns[:7] == [f"tags.`{name}`" for name in (*texts, "mean/sequential", "mean/combined")]


def test_a_view_that_a_user_has_changed_stays_and_the_others_follow_the_sweep(
    local: TrackingConfig, multirun: Path
) -> None:
    sweep_dir = sweep_of(multirun, ratios=(0.1,), n_seeds=1)
    client = MlflowClient(str(tracking_uri(local, multirun)))
    experiment = client.get_experiment_by_name("lab")
    assert experiment is not None
    before = experiment.tags
    changed = json.dumps({"name": "mine", "createdAt": 1, "updatedAt": 2, "state": "{}"})
    client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.cells", changed)
    assert sync(multirun, local).problems == []
    after = client.get_experiment(experiment.experiment_id).tags
    assert after["mlflow.sharedViewState.cells"] == changed
    assert after["mlflow.sharedViewState.curves"] != before["mlflow.sharedViewState.curves"]
    assert not is_ours(changed)
    assert all(map(is_ours, saved_views().values()))
    assert (sweep_dir / "summary.json").exists()


def test_runs_have_few_params_and_the_colour_of_their_regime(uri: str) -> None:
    runs = {key: run for key, run in by_key(uri, experiment="digits-mlp").items() if key.level == "run"}
    assert all(len(run.data.params) <= 20 for run in runs.values())
    for run in runs.values():
        assert run.data.tags["mlflow.runColor"] == colour_of(run.data.params["regime"])
    assert colour_of("sequential") != colour_of("combined") != colour_of("replay(share=0.05)") != UNDECIDED
    assert colour_of("undecided") == colour_of("a - b: a; a - c: undecided") == UNDECIDED


def test_the_lines_of_the_documentation_find_what_they_promise(uri: str) -> None:
    names: dict[str, Any] = {"mlflow": mlflow}
    mlflow.set_tracking_uri(uri)
    try:
        for statement in ast.parse(BLOCK).body:
            line = ast.unparse(statement)
            if isinstance(statement, ast.Assign):
                exec(line, names)
            else:
                found = eval(line, names)
                assert len(found) > 0, line
                assert not found.isna().to_numpy().all(), line
    finally:
        mlflow.set_tracking_uri("")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert len(names["cells"]) == 4
    assert len(names["runs"]) == 12
