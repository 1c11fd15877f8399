"""One cell on disk: the content of its files, which does not depend on how the cell was run.

Properties: the `result` part is bit for bit the same whatever the order of regimes and seeds, in one call or many, grouped or
alone, interrupted or not, from the store or not; finished runs are never repeated, failed ones always are; a saved
configuration gives the same run. Equivalences: no Dataset 2 is Dataset 1 alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import src.training.execute as execute_module
from src.cells import write
from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config, compose, parse
from src.errors import ConfigError
from src.models.build import build_model
from src.training.control import RunControl
from src.training.plan import Node
from src.training.store.store import Store
from tests.training.cells import tiny

Results = dict[str, Any]


def cell(folder: Path, *overrides: str) -> Config:
    return tiny(f"multirun={folder}", *overrides)


def results(config: Config) -> Results:
    """The `result` part of every run of the cell, by its folder's name."""
    return {
        path.parent.name: json.loads(path.read_text())["result"]
        for path in sorted(resolve(config).folder.glob("*/result.json"))
    }


def ran(config: Config) -> Results:
    run_cell(resolve(config))
    return results(config)


def curves(config: Config) -> dict[str, Any]:
    return {
        path.parent.name: pq.read_table(path).to_pydict() for path in resolve(config).folder.glob("*/history.parquet")
    }


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the trained groups."""
    sizes: list[int] = []
    whole = execute_module.fit

    def counted(config: Config, nodes: Sequence[Node], *rest: Any, **options: Any) -> Any:
        sizes.append(len(nodes))
        return whole(config, nodes, *rest, **options)

    monkeypatch.setattr(execute_module, "fit", counted)
    return sizes


# ------------------------------------------------------------------------------------------------ files


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
    a, b = (json.loads((folder / "result.json").read_text())["result"]["metrics"] for folder in seen[:2])
    assert outcome.value is not None
    assert a.keys() == b.keys()


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


# ------------------------------------------------------------------------------------------------ never twice, never lost


def test_finished_runs_are_not_repeated(tmp_path: Path, fits: list[int]) -> None:
    config = cell(tmp_path, "seeds=2")
    first = ran(config)
    times = {path: path.stat().st_mtime_ns for path in resolve(config).folder.rglob("*") if path.is_file()}
    fits.clear()
    outcome = run_cell(resolve(config))
    assert outcome.folders == ()
    assert fits == []
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert results(config) == first


def test_an_extended_cell_trains_only_the_new_runs(tmp_path: Path, fits: list[int]) -> None:
    first = ran(cell(tmp_path, "seeds=2"))
    fits.clear()
    grown = cell(tmp_path, "seeds=4", "regimes=[sequential,combined,d1_only]")
    assert [(regime.label, seed) for regime, seed in resolve(grown).missing_runs()] == [
        ("sequential", 2),
        ("sequential", 3),
        ("combined", 2),
        ("combined", 3),
        ("d1_only", 0),
        ("d1_only", 1),
        ("d1_only", 2),
        ("d1_only", 3),
    ]
    both = ran(grown)
    assert sum(fits) == 6, "two seeds of two stages and one; d1_only is stage 1 of sequential"
    assert {name: both[name] for name in first} == first
    reused = json.loads((resolve(grown).folder / "d1_only-0" / "result.json").read_text())["provenance"][
        "reused_samples"
    ]
    assert reused == both["d1_only-0"]["cost"]["samples"] == 60


@pytest.mark.parametrize(
    "another",
    [
        ("regimes=[ewc,combined,sequential]", "seeds=[2,0,1]"),
        ("trainer.replicas=1",),
        ("trainer.replicas=2",),
        ("trainer.resident_mib=0",),
    ],
    ids=lambda words: words[-1],
)
def test_results_do_not_depend_on_order_or_grouping(another: tuple[str, ...], tmp_path: Path) -> None:
    early = ("stopping=early_stopping", "stopping.max_epochs=6", "stopping.patience=1", "optimizer.lr=0.5")
    usual = cell(tmp_path / "a", "regimes=[sequential,combined,ewc]", *early)
    other = cell(tmp_path / "b", "regimes=[sequential,combined,ewc]", *early, *another)
    assert ran(usual) == ran(other)
    assert curves(usual) == curves(other)


def test_one_run_alone_is_the_run_in_its_cell(tmp_path: Path) -> None:
    whole = ran(cell(tmp_path / "a"))
    for regime, seed in (("combined", 2), ("sequential", 0)):
        alone = compose(
            [
                "trainer=cpu",
                "tracking=off",
                "split.size=60",
                "stopping.epochs=2",
                f"multirun={tmp_path / 'b'}",
                f"regime={regime}",
                f"seed={seed}",
            ],
            single_run=True,
        )
        run_cell(resolve(alone))
        assert results(alone)[f"{regime}-{seed}"] == whole[f"{regime}-{seed}"]


def test_interrupted_between_groups_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: list[int]
) -> None:
    whole = ran(cell(tmp_path / "a"))
    n_groups = len(fits)
    counted = execute_module.fit
    for stop_after in range(1, n_groups):
        config = cell(tmp_path / f"b{stop_after}")
        fits.clear()

        def killed(*rest: Any, after: int = stop_after, **options: Any) -> Any:
            if len(fits) == after:
                raise KeyboardInterrupt
            return counted(*rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(execute_module, "fit", killed)
            with pytest.raises(KeyboardInterrupt):
                run_cell(resolve(config))
        assert results(config) == {}
        fits.clear()
        assert ran(config) == whole
        assert len(fits) == n_groups - stop_after, "trained groups are not trained again"


def test_interrupted_between_folders_is_uninterrupted(
    tmp_path: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "WRITERS", 2)
    whole = ran(cell(tmp_path / "a"))
    config = cell(tmp_path / "b")
    done: list[Path] = []

    class Kill(RunControl):
        def on_run(self, folder: Path) -> None:
            done.append(folder)
            if len(done) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(resolve(config), Kill())
    assert len(results(config)) == 2
    fits.clear()
    assert ran(config) == whole
    assert fits == []


def test_a_regime_that_raises_is_recorded_with_the_reason_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell(tmp_path, "seeds=2", "regimes=[sequential,combined]")
    whole = execute_module.fit

    def broken(config: Config, nodes: Sequence[Node], *rest: Any, **options: Any) -> Any:
        if nodes[0].stage.start.kind == "previous":
            raise ZeroDivisionError("planted")
        return whole(config, nodes, *rest, **options)

    for attempt in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(execute_module, "fit", broken)
            outcome = run_cell(resolve(config))
        assert outcome.failures == (
            "sequential-0: ZeroDivisionError: planted",
            "sequential-1: ZeroDivisionError: planted",
        )
        assert results(config).keys() == {"combined-0", "combined-1"}
        for seed in (0, 1):
            failed = json.loads((resolve(config).folder / f"sequential-{seed}" / "failed.json").read_text())
            assert (failed["regime"], failed["seed"], failed["attempts"]) == ("sequential", seed, attempt)
            assert failed["error"] == "ZeroDivisionError: planted"
            assert 'raise ZeroDivisionError("planted")' in failed["traceback"]
    assert run_cell(resolve(config)).failures == ()
    assert len(results(config)) == 4
    assert not list(resolve(config).folder.rglob("failed.json"))


def test_a_run_whose_folder_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=2")
    in_the_way = resolve(config).folder / "combined-0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    outcome = run_cell(resolve(config))
    assert {folder.name for folder in outcome.folders} == {"sequential-0", "sequential-1", "combined-1"}
    (failure,) = outcome.failures
    assert failure.startswith("combined-0: FileExistsError")
    in_the_way.unlink()
    assert [folder.name for folder in run_cell(resolve(config)).folders] == ["combined-0"]


def test_an_exception_outside_a_stage_is_recorded_for_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cell(tmp_path, "seeds=2")

    def full(store: Store, key: str, _: object) -> None:
        raise OSError(28, "No space left on device", str(store.path(key)))

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", full)
        with pytest.raises(OSError, match="No space"):
            run_cell(resolve(config))
    notes = [json.loads(path.read_text()) for path in resolve(config).folder.glob("*/failed.json")]
    assert len(notes) == 4
    assert all("No space left on device" in note["error"] and "in full" in note["traceback"] for note in notes)
    assert len(list((tmp_path / config.sweep / "outbox").glob("*.json"))) == 4, "MLflow hears of it"
    assert len(ran(config)) == 4
    assert not list(resolve(config).folder.glob("*/failed.json"))


def test_a_diverged_run_is_finished_and_does_not_end_the_others(tmp_path: Path) -> None:
    knobs = "regimes=[combined,{sequential: {lr_factor: 1e30}}]"
    config = cell(tmp_path, "seeds=2", knobs)
    outcome = run_cell(resolve(config))
    assert outcome.value is None, "a cell with a run that diverged has no difference"
    found = {path.parent.name: json.loads(path.read_text()) for path in resolve(config).folder.glob("*/result.json")}
    assert {name.split("-")[0]: body["status"] for name, body in found.items()} == {
        "combined": "finished",
        "sequential(lr_factor=1e+30)": "diverged",
    }
    ill = found["sequential(lr_factor=1e+30)-0"]["result"]
    assert [stage["stopped_by"] for stage in ill["stages"]] == ["epochs", "diverged"]
    assert all(value is None for value in ill["metrics"].values())
    assert resolve(config).missing_runs() == [], "a diverged run is never retried"
    assert ran(cell(tmp_path / "b", "seeds=2", "regimes=[combined]")) == {
        name: body["result"] for name, body in found.items() if name.startswith("combined")
    }


# ------------------------------------------------------------------------------------------------ equivalences


@pytest.mark.parametrize("rule", ["epochs", "budget", "early_stopping", "convergence"])
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_no_dataset_2_is_dataset_1_alone(arch: str, rule: str, tmp_path: Path) -> None:
    short = {"epochs": "epochs=2", "budget": "epochs=2"}.get(rule, "max_epochs=4")
    small = ("arch.widths=[4]", f"arch={arch}")
    stopping = (f"stopping={rule}", f"stopping.{short}")
    config = cell(
        tmp_path,
        "seeds=2",
        "regimes=[sequential,combined,d1_only]",
        "split.size=null",
        "split.sizes=[40,0]",
        *small,
        *stopping,
    )
    found = ran(config)
    for seed in (0, 1):
        alone = found[f"d1_only-{seed}"]
        assert found[f"sequential-{seed}"] == found[f"combined-{seed}"] == alone
        assert [alone["metrics"][f"test/d2/{kind}"] for kind in ("accuracy", "loss", "balanced_accuracy", "ece")] == [
            None
        ] * 4
        assert alone["metrics"]["test/d1/loss"] == pytest.approx(alone["metrics"]["test/union/loss"])
        assert alone["metrics"]["forgetting"] is None
    assert found["d1_only-0"]["weights"] != found["d1_only-1"]["weights"]


def test_the_iid_union_is_trained_once_for_all_ratios(tmp_path: Path, fits: list[int]) -> None:
    first = ran(cell(tmp_path, "regimes=[combined]", "split.ratio=0.25"))
    assert sum(fits) == 3
    second = ran(cell(tmp_path, "regimes=[combined]", "split.ratio=4"))
    assert sum(fits) == 3
    for name, result in first.items():
        assert second[name]["weights"] == result["weights"]
        assert second[name]["cost"] == result["cost"], "the ledger charges the full cost"


def test_same_seed_twice(tmp_path: Path) -> None:
    a, b = (ran(cell(tmp_path / name, "arch=cnn", "arch.widths=[4]")) for name in "ab")
    assert a == b
    assert len({result["weights"] for result in a.values()}) == 6


def test_a_written_configuration_makes_the_same_run(tmp_path: Path) -> None:
    config = cell(tmp_path, "seeds=[3]", "regimes=[{replay: {share: 0.3}}]", "split.ratio=0.5", "optimizer=adam")
    first = ran(config)
    written = yaml.safe_load((resolve(config).folder / "replay(share=0.3)-3" / "config.yaml").read_text())
    for single_run in (True, False):
        again = parse({**written, "multirun": str(tmp_path)}, single_run=single_run)
        assert resolve(again).folder == resolve(config).folder
        assert resolve(again).missing_runs() == []
        elsewhere = parse({**written, "multirun": str(tmp_path / f"{single_run}")}, single_run=single_run)
        assert ran(elsewhere) == first


# ------------------------------------------------------------------------------------------------ refused


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
