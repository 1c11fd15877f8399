"""Finished runs are never repeated, failed ones always are, and no interruption changes a result.

The `result` part is bit for bit the same whatever the order of regimes and seeds, in one call or many, grouped or alone,
interrupted or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import src.training.execute as execute_module
from src.cells import write
from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import Config, parse
from src.config.composing import composer
from src.training.control import RunControl
from src.training.plan import Node
from src.training.store.store import Store
from tests.cells.running import cell, curves, ran, results


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
        words = ["trainer=cpu", "tracking=off", "split.size=60", "stopping.epochs=2", f"multirun={tmp_path / 'b'}"]
        alone = parse(composer()([*words, f"regime={regime}", f"seed={seed}"]), single_run=True)
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
    monkeypatch.setattr(write, "WRITERS", 1)  # so that one folder at most is under way besides the one reported
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
    assert {folder.name for folder in done} <= results(config).keys() < whole.keys()
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
