"""The files of a cell: results, provenance, curves; nothing is written for a configuration that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records
from src.errors import ConfigError
from src.io import AlreadyWritten, read_json
from src.models.build import build_model
from src.training import run_files
from src.training.control import RunControl
from src.training.run_files import write_run
from src.training.store.store import Store
from tests.cells.running import cell, curves, results


def test_a_result_is_written_once_unless_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_run(tmp_path, {"provenance": {}, "by": "one"}, {"step": [], "stage": [], "name": [], "value": []}, "")
    with pytest.raises(AlreadyWritten):
        write_run(tmp_path, {"provenance": {}, "by": "two"}, {"step": [], "stage": [], "name": [], "value": []}, "")
    assert read_json(path)["by"] == "one"
    path.write_text("{")
    write_run(tmp_path, {"provenance": {}, "by": "two"}, {"step": [], "stage": [], "name": [], "value": []}, "")
    assert read_json(path)["by"] == "two"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.yaml", "history.parquet", "result.json"]


def test_a_result_that_another_worker_writes_after_the_look_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was stopped between its look at a missing file and the deletion of a damaged one, and deleted a good one."""
    path, nothing = tmp_path / "result.json", {"step": [], "stage": [], "name": [], "value": []}

    def then_another_writes(look: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*arguments: Any) -> Any:
            found = look(*arguments)
            if path in arguments and not found:
                path.write_text(json.dumps({"provenance": {}, "by": "another"}))
            return found

        return looked

    monkeypatch.setattr(Path, "exists", then_another_writes(Path.exists))
    monkeypatch.setattr(run_files, "read_json_or", then_another_writes(run_files.read_json_or))
    with pytest.raises(AlreadyWritten):
        write_run(tmp_path, {"provenance": {}, "by": "one"}, nothing, "")
    assert read_json(path)["by"] == "another"


def test_files_of_a_run(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=2", "split.imbalance=2", "split.ratio=0.5")
    seen: list[Path] = []

    class Control(RunControl):
        def on_run(self, folder: Path) -> None:
            seen.append(folder)

    outcome = run_cell(resolve(config), Control())
    assert list(outcome.folders) == seen
    assert {folder.name for folder in seen} == {"sequential-0", "sequential-1", "combined-0", "combined-1"}
    assert outcome.failures == ()
    body = json.loads((resolve(config).run_folder(config.regimes[0], 1) / "result.json").read_text())
    assert (body["schema"], body["sweep"], body["cell"]) == (1, "digits-mlp", resolve(config).hash)
    assert (body["regime"], body["regime_name"], body["knobs"], body["seed"]) == ("sequential", "sequential", {}, 1)
    assert body["status"] == "finished"
    result, provenance = body["result"], body["provenance"]
    assert [stage["parts"] for stage in result["stages"]] == [[0], [1]]
    assert [stage["stopped_by"] for stage in result["stages"]] == ["epochs", "epochs"]
    assert result["cost"]["updates"] == sum(stage["updates"] for stage in result["stages"]) == 4
    assert result["cost"]["samples"] == 120
    assert [sum(counts) for counts in result["class_counts"]] == [40, 20]
    matrix = result["accuracy_matrix"]
    assert np.shape(matrix) == (2, 2)
    metrics = result["metrics"]
    assert [metrics["test/d1/accuracy"], metrics["test/d2/accuracy"]] == matrix[-1]
    assert metrics["forgetting"] == pytest.approx(matrix[0][0] - matrix[1][0])
    assert metrics["learning_accuracy"] == pytest.approx((matrix[0][0] + matrix[1][1]) / 2)
    assert provenance["engine"] == "vmap"
    assert {"seconds", "host", "fingerprint", "versions", "finished_at", "reused_samples"} <= provenance.keys()
    shares = np.array(result["class_counts"]) / [[40], [20]]
    entropies = -(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=1)
    assert list(provenance["constant_loss"].values()) == pytest.approx(entropies.tolist())
    a, b = (json.loads((folder / "result.json").read_text())["result"]["metrics"] for folder in seen[:2])
    assert outcome.value is not None
    assert a.keys() == b.keys()


def test_a_regression_that_learns_nothing_is_recognised_from_its_files(tmp_path: Path) -> None:
    config = cell(
        tmp_path, "data=gaussian", "arch=linear", "loss=mse", "seeds=1", "regimes=[combined]", "optimizer.lr=1e-9"
    )
    run_cell(resolve(config))
    (run,) = load_records(resolve(config).sweep_dir).runs
    assert run.collapsed == "its training loss is not below that of a constant prediction"


def test_the_value_of_a_cell_is_the_mean_paired_difference(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=3")
    outcome = run_cell(resolve(config))
    found = {name: result["metrics"]["test/union/accuracy"] for name, result in results(config).items()}
    differences = [found[f"sequential-{seed}"] - found[f"combined-{seed}"] for seed in range(3)]
    assert outcome.value == pytest.approx(np.mean(differences))


def test_metrics_are_those_of_the_stored_weights_on_the_test_sets(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=1", "regimes=[combined]", "split.imbalance=3", "split.opposed=false")
    run_cell(resolve(config))
    body = json.loads(next(resolve(config).folder.glob("*/result.json")).read_text())
    stream = resolve(config).streams.build(0)
    stage = Store(tmp_path / ".stages").get(body["provenance"]["stage_keys"][-1])
    assert stage is not None
    model = build_model(config.arch, (1, 8, 8), 10, 0)
    model.load_state_dict(dict(stage.weights))
    for name, chosen in stream.test.sets.items():
        accuracy = loss = 0.0
        for pool, weights in chosen.weights.items():
            samples = stream.test.pools[pool]
            with torch.no_grad():
                out = model(samples.inputs())
            accuracy += float(weights[out.argmax(1) == samples.y].sum())
            losses = torch.nn.functional.cross_entropy(out, samples.y, reduction="none").double()
            loss += float((weights * losses).sum())
        assert body["result"]["metrics"][f"test/{name}/accuracy"] == pytest.approx(accuracy)
        assert body["result"]["metrics"][f"test/{name}/loss"] == pytest.approx(loss, rel=1e-5)


def test_curves_run_through_all_stages_on_one_axis_of_updates(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=1", "regimes=[sequential]", "optimizer.batch_size=8", "split.ratio=0.5")
    run_cell(resolve(config))
    (history,) = curves(config).values()
    points = [
        (s, k)
        for s, k, name in zip(history["step"], history["stage"], history["name"], strict=True)
        if name == "train/loss"
    ]
    assert points == [(5, 0), (10, 0), (13, 1), (16, 1)]
    names = {f"val/{pool}/{kind}" for pool in ("d1", "d2", "union") for kind in ("accuracy", "loss")}
    assert set(history["name"]) == {"train/loss", *names}


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("regimes=[d2_only]", "split.size=null", "split.sizes=[30,0]"), "split.sizes"),
        (("arch=linear", "regimes=[freeze]"), "freeze"),
        (("trainer.devices=2",), "trainer.devices"),
        (("split.size=5000",), "split"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    overrides: tuple[str, ...], key: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=key):
        run_cell(resolve(cell(tmp_path, *overrides)))
    assert not list(tmp_path.rglob("*.json"))
