"""Run names are sentences that MLflow accepts; passwords are masked; digests follow the content."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.utils.validation import _validate_metric_name

from src.tracking.params import MAX_PARAMS, run_params
from src.tracking.record import Key, MetricPoint, Record, clean_name, flatten, mask, run_name
from src.tracking.reports import SweepReport, write_sweep
from src.tracking.runs import DAMAGED, record_of
from tests.tracking.folders import axes_of, cell_report, run_folder, sweep_report


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({}, "sequential r=0.10 imb=5 e=20 s=3"),
        ({"ratio": 10.0, "imbalance": 1.0}, "sequential r=10 imb=1 e=20 s=3"),
        ({"ratio": 0.125}, "sequential r=0.125 imb=5 e=20 s=3"),
        ({"ratio": math.inf, "epochs": "-"}, "sequential r=inf imb=5 s=3"),
        ({"shift": "rotate:30"}, "sequential r=0.10 imb=5 shift=rotate:30 e=20 s=3"),
    ],
)
def test_a_run_name_is_a_run_name(axes: dict[str, object], expected: str) -> None:
    assert run_name({**axes_of(), **axes}, regime="sequential", seed=3) == expected


@pytest.mark.parametrize("name", ["replay(share=0.05)-combined", "recall/a/../b", "chat (noir)", "x//y", "été/№5", "."])
def test_every_clean_name_is_one_that_mlflow_accepts(name: str) -> None:
    _validate_metric_name(clean_name(name))


def test_labels_with_knobs_stay_readable() -> None:
    assert clean_name("delta/replay(share=0.05)-combined/p") == "delta/replay share:0.05-combined/p"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:s3cret@db:5432/optuna",
        "http://ann:s3/c@ret@host/x failed",
        "tried postgresql+psycopg2://ann:s3cret@db and gave up",
        "postgresql://db/optuna?user=ann&password=s3cret",
    ],
)
def test_no_password_survives_masking(text: str) -> None:
    assert "s3" not in mask(text)
    assert "cret" not in mask(text)
    assert "***" in mask(text)


def test_masking_leaves_other_addresses_alone() -> None:
    for text in ("http://127.0.0.1:5000", "sqlite:////home/ann/mlflow.db", "mlflow-artifacts:/lab", "a@b: c"):
        assert mask(text) == text


def test_params_are_flat_masked_and_short() -> None:
    flat = flatten({"a": {"b": 0.1, "c": None, "d": [1, 2]}, "e": "redis://u:pw@h", "long": "x" * 9000})
    assert flat["a.b"] == "0.1"
    assert flat["a.c"] == "null"
    assert flat["a.d"] == "[1, 2]"
    assert flat["e"] == "redis://u:***@h"
    assert len(flat["long"]) == 6000


def test_a_digest_follows_every_part_of_the_content() -> None:
    record = Record(key=Key("run", "s", "c", "r"), name="n", status="FINISHED", start=1, end=2)
    others = [
        replace(record, status="FAILED"),
        replace(record, end=3),
        replace(record, tags={"a": "b"}),
        replace(record, points=(MetricPoint("m", math.nan, 1, 1),)),
        replace(record, artifacts={"f": b"x"}),
    ]
    assert len({record.digest(), *(other.digest() for other in others)}) == 6
    assert record.digest() == replace(record, parent=others[0]).digest()


def test_a_finished_run_has_all_fields_of_the_contract(tmp_path: Path) -> None:
    record = record_of(run_folder(tmp_path / "sweep", seed=3))
    assert record.name == "sequential r=0.10 imb=5 e=20 s=3"
    assert record.status == "FINISHED"
    assert record.end - record.start == 60_000
    axes = {
        name: record.params[name]
        for name in ["ratio", "imbalance", "shift", "epochs", "seed", "regime", "arch", "data"]
    }
    assert axes == {
        "ratio": "0.1",
        "imbalance": "5",
        "shift": "none",
        "epochs": "20",
        "seed": "3",
        "regime": "sequential",
        "arch": "mlp",
        "data": "digits",
    }
    assert record.params["optimizer.lr"] == "0.1"
    assert "storage" not in record.params
    assert record.params["optimizer.batch_size"] == "32"
    assert "optimizer.momentum" not in record.params, "it has its default"
    assert b"s3cret" not in record.artifacts["config.yaml"]
    names = {point.name for point in record.points}
    assert {"train/loss", "val/d1/accuracy", "val/union/accuracy", "stage", "learning_accuracy"} <= names
    assert {"test/d1/accuracy", "test/union/recall/9", "cost/flops", "cost/seconds", "cost/reused_samples"} <= names
    assert "forgetting" not in names
    assert record.tags["undefined"] == "forgetting"
    assert record.tags["mlflow.source.git.commit"] == "0123abc"
    assert record.tags["version.torch"] == "2.15.0"
    assert [(item.name, json.loads(item.profile)["num_rows"]) for item in record.inputs] == [
        ("digits-d1", 30),
        ("digits-d2", 3),
    ]


def test_settings_that_cannot_be_read_are_named_in_one_line(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "sweep", seed=3)
    for damage in ("loss: [\nseed: 1", "- no settings"):
        (folder / "config.yaml").write_text(damage)
        with pytest.raises(DAMAGED, match=r"config\.yaml is damaged .*; delete .*, and repeat") as caught:
            record_of(folder)
        assert "\n" not in str(caught.value)


def test_curves_run_over_one_axis_of_updates_within_the_run(tmp_path: Path) -> None:
    record = record_of(run_folder(tmp_path / "sweep"))
    assert [(point.step, point.value) for point in record.points if point.name == "stage"] == [
        (1, 1.0),
        (20, 1.0),
        (21, 2.0),
        (40, 2.0),
    ]
    curve = [point for point in record.points if point.name == "train/loss"]
    assert [point.step for point in curve] == sorted({point.step for point in curve})
    assert all(record.start <= point.timestamp <= record.end for point in record.points)
    # The loss over the whole training set is no point of the curve of batch losses.
    assert [point.value for point in record.points if point.name == "train/loss/final"] == [0.9]


def test_a_diverged_run_is_finished_and_tagged(tmp_path: Path) -> None:
    record = record_of(run_folder(tmp_path / "sweep", status="diverged"))
    assert record.status == "FINISHED"
    assert record.tags["diverged"] == "true"
    assert "test/union/accuracy" not in {point.name for point in record.points}
    assert any(math.isnan(point.value) for point in record.points if point.name == "train/loss")


def test_a_failed_run_has_its_error_without_the_password(tmp_path: Path) -> None:
    record = record_of(run_folder(tmp_path / "sweep", status="failed"))
    assert record.status == "FAILED"
    assert record.tags["error"] == "OSError: no space on postgresql://ann:***@db"
    assert record.tags["attempts"] == "2"
    assert record.artifacts["traceback.txt"] == b"Traceback ..."


def test_an_unchanged_report_leaves_the_record_of_a_cell_unchanged(tmp_path: Path) -> None:
    sweep_dir = tmp_path / "sweep"
    cell = record_of(cell_report(sweep_dir))
    assert cell.name == "r=0.10 imb=5 e=20"
    assert cell.tags["verdict"] == "combined"
    assert "python -m src.sweep" in cell.tags["mlflow.note.content"]
    values = {point.name: point.value for point in cell.points}
    assert values["delta/sequential-combined/union/accuracy/ci_low"] == -0.03
    sweep = record_of(sweep_report(sweep_dir))
    assert set(sweep.artifacts) == {"table.csv", "table.md"}
    assert record_of(cell_report(sweep_dir)).digest() == cell.digest()
    assert record_of(cell_report(sweep_dir, n=4)).digest() != cell.digest()


def test_a_sweep_without_any_result_has_failed(tmp_path: Path) -> None:
    for sweep, runs, status in (("a", 0.0, "FAILED"), ("b", 1.0, "FINISHED")):
        counts = {"cells": 1.0, "runs": runs, "failed": 3.0}
        write_sweep(tmp_path / sweep, SweepReport(sweep=sweep, note="", command="python -m src.sweep", metrics=counts))
        assert record_of(tmp_path / sweep).status == status


def test_a_run_has_at_most_twenty_params_and_says_how_many_it_leaves_out() -> None:
    config = {"data": {"name": "mine", "path": "x.npz"}, "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9}}
    params = run_params({**config, "loss": "mse", "n_workers": 4}, {"ratio": "1", "seed": "0"})
    assert params == {
        "ratio": "1",
        "seed": "0",
        "optimizer.name": "sgd",
        "optimizer.lr": "0.5",
        "data.name": "mine",
        "data.path": "x.npz",
        "loss": "mse",
    }
    assert "data.name" not in run_params(config, {"data": "mine"}), "the axis shows it"
    many = run_params({**config, "data": {"name": "mine"} | {f"knob{k}": k for k in range(40)}}, {"ratio": "1"})
    assert len(many) == MAX_PARAMS
    assert many["further"].startswith("25 settings")
