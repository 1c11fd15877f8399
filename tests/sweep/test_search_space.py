"""The space, objective and cells of a search are those of its command line, and a mistake is one line before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from src.config.space import rounded
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.grid.cells import CommandLine, expand
from src.sweep.grid.plan import plan_sweep
from src.sweep.search.search import load_search
from src.sweep.search.work import make_search, space_of
from tests.sweep import fake_engine
from tests.sweep.searches import BASE, CUT, LR, OK, line_of, search_of

pytestmark = pytest.mark.usefixtures("hydra")


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("optimizer.lr=interval(0.1,1)", FloatDistribution(0.1, 1)),
        (LR, FloatDistribution(1e-3, 1, log=True)),
        ("stopping.epochs=int(interval(1,9))", IntDistribution(1, 9)),
        ("stopping.epochs=range(1,10)", IntDistribution(1, 9)),
        ("stopping.epochs=range(2,11,3)", IntDistribution(2, 8, step=3)),
        ("split.size=tag(log,range(100,401))", IntDistribution(100, 400, log=True)),
        ("split.val=range(0.25,1,0.25)", FloatDistribution(0.25, 0.75, step=0.25)),
        ("optimizer.batch_size=16,32", CategoricalDistribution([16, 32])),
        ("arch=mlp,cnn", CategoricalDistribution(["mlp", "cnn"])),
        ("split.sizes=[100,10],[50,0]", CategoricalDistribution(["[100,10]", "[50,0]"])),
    ],
)
def test_hydras_grammar_is_the_space(override: str, distribution: optuna.distributions.BaseDistribution) -> None:
    assert space_of(line_of(override)) == {override.partition("=")[0]: distribution}


def test_sampled_numbers_are_short_near_and_within_their_interval() -> None:
    space = {
        "lr": FloatDistribution(1e-3, 1, log=True),
        "ratio": FloatDistribution(1000.0, 1000.5),
        "val": FloatDistribution(0.1, 0.7, step=0.1),
        "size": IntDistribution(1, 9),
    }
    found = rounded({"lr": 0.01234567, "ratio": 1000.43219, "val": 0.30000000000000004, "size": 7}, space)
    assert found == {"lr": 0.01235, "ratio": 1000.432, "val": 0.3, "size": 7}
    assert rounded({"lr": 0.99999999}, space) == {"lr": 1.0}
    assert rounded({"ratio": 1000.4999999}, space) == {"ratio": 1000.5}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (BASE, ["search=random", "nothing to choose", "interval"]),
        ([*BASE, "optimizer.learn=interval(0,1)"], ["optimizer.learn=", "unknown key", "every corner"]),
        ([*BASE, "optimizer.lr=interval(1,0.1)"], ["optimizer.lr=interval(1,0.1)", "empty"]),
        ([*BASE, "stopping.epochs=range(5,5)"], ["stopping.epochs=range(5,5)", "empty"]),
        ([*BASE, "optimizer.lr=tag(log,interval(0,1))"], ["optimizer.lr=", "above 0"]),
        ([*BASE, "optimizer.lr=tag(lg,interval(0.1,1))"], ["optimizer.lr=", "lg", "did you mean log"]),
        ([*BASE, "arch=tag(log,choice(mlp,cnn))"], ["arch=", "no scale"]),
        ([*BASE, "stopping.epochs=interval(1,5)"], ["stopping.epochs=1.0", "whole number", "int(interval"]),
        ([*BASE, "split.val=interval(1.5,2)"], ["split.val=1.5", "every corner"]),
        ([*BASE, LR, "seed=0,1"], ["seed=0,1", "a seed cannot be searched", "seeds"]),
        ([*BASE, LR, "regime=sequential,combined"], ["regime=sequential,combined", "cannot be searched"]),
        ([*BASE, LR, "regime=replay", "regime.share=interval(0,1)"], ["regime.share=interval(0,1)", "regimes"]),
        ([*BASE, LR, "n_workers=1,2"], ["n_workers=1,2", "cannot be an axis"]),
        ([*OK, "search.n_trials=0"], ["search.n_trials=0", ">= 1"]),
        ([*OK, "search.pruner=medain"], ["search.pruner=medain", "did you mean median"]),
        (
            [*OK, "search.pruner=median", "objective=sequential-combined/val/d1/loss"],
            ["search.pruner=median", "bias the comparison sequential-combined", "search.pruner=none"],
        ),
        ([*OK, "search.pruner=median"], ["search.pruner=median", "combined too", "regimes=[sequential]"]),
        ([*CUT, "stopping=early_stopping"], ["search.pruner=hyperband", "early_stopping", "stopping=epochs"]),
        ([*CUT, "stopping=epochs,convergence"], ["search.pruner=hyperband", "convergence", "stopping=epochs"]),
        (
            [*CUT, "regimes=[average]", "objective='average/val/d1/loss'"],
            ["search.pruner=hyperband", "last stage of average", "search.pruner=none"],
        ),
        ([*CUT, "trainer=cpu", "trainer.devices=2"], ["search.pruner=hyperband", "several devices"]),
        ([*CUT, "trainer.curve_points=1"], ["search.pruner=hyperband", "raise trainer.curve_points"]),
        ([*CUT, "trainer.checkpoint_seconds=0"], ["search.pruner=hyperband", "checkpoint_seconds=0"]),
        ([*CUT, "trainer.precision=16-mixed"], ["search.pruner=hyperband", "16-mixed", "bf16-mixed"]),
        ([*OK, "objective=null"], ["objective=null", "sequential/val/union/accuracy"]),
        ([*OK, "objective=sequential/test/union/accuracy"], ["objective=sequential/test", "reads test sets"]),
        ([*OK, "objective=sequential/forgetting"], ["objective=sequential/forgetting", "reads test sets"]),
        ([*OK, "objective=accuracy"], ["objective=accuracy", "REGIME/val/SET/METRIC"]),
        ([*OK, "objective=replay/val/union/accuracy"], ["objective=replay/val", "neither a regime of regimes="]),
        (
            [*OK, "objective=sequential/val/union/acuracy"],
            ["val/union/acuracy", "did you mean sequential/val/union/accuracy"],
        ),
        ([*OK, "objective=sequential/val/d3/loss"], ["there is no val/d3/loss"]),
        ([*OK, "split.sizes=[100,0]", "objective=sequential/val/d2/loss"], ["there is no val/d2/loss"]),
        ([*OK, "objective=combined-sequential/val/d1/loss"], ["sequential-combined", "objective_direction=minimize"]),
        ([*OK, "objective_direction=maximise"], ["objective_direction=maximise", "did you mean maximize"]),
        ([*OK, "objective_direction=minimize_absolute"], ["objective_direction=minimize_absolute", "difference"]),
        ([*OK, "storage=mysql://here"], ["storage=mysql://here", "postgresql"]),
        ([*OK, "sweep='a/b'"], ["sweep=a/b", "letters"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(overrides: list[str], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_search(line_of(*overrides, f"multirun={tmp_path / 'm'}"), fake_engine)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in named), line
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("overrides", "of", "direction"),
    [
        (["objective=combined/val/d1/accuracy"], ("combined",), "maximize"),
        (["objective=combined/val/d1/loss"], ("combined",), "minimize"),
        (["objective=sequential-combined/val/union/loss"], ("sequential", "combined"), "minimize"),
        (
            ["objective=sequential-combined/val/union/accuracy", "objective_direction=minimize_absolute"],
            ("sequential", "combined"),
            "minimize_absolute",
        ),
        (
            [
                "regimes=[sequential,{replay:{share:0.05}}]",
                "objective='sequential-replay(share=0.05)/val/union/accuracy'",
            ],
            ("sequential", "replay(share=0.05)"),
            "maximize",
        ),
    ],
)
def test_the_objective_names_regimes_by_label_and_its_metric_implies_the_direction(
    overrides: list[str], of: tuple[str, ...], direction: str, tmp_path: Path
) -> None:
    objective = search_of(LR, *overrides, multirun=tmp_path).objective
    assert (objective.of, objective.direction) == (of, direction)


def test_a_cell_of_a_search_is_the_cell_of_a_grid(tmp_path: Path) -> None:
    """Group choices, values that follow others and plain ones: the same recipe, so the same address on disk."""
    fixed = ["seeds=2", "sweep=s", f"multirun={tmp_path}", "stopping.epochs=${split.parts}"]
    search = search_of(*fixed, "arch=mlp,cnn", "optimizer.batch_size=16,32", LR, multirun=tmp_path)

    def resolved(given: list[str]) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], OmegaConf.to_container(compose("config", given), resolve=True))

    words = [*fixed, "arch=mlp,cnn", "optimizer.batch_size=16,32", "optimizer.lr=0.02"]
    grid = expand(CommandLine(words, resolved, GlobalHydra.instance().config_loader()))
    for cell in grid:
        point = {
            "arch": cell.config.arch.name,
            "optimizer.batch_size": cell.config.optimizer.batch_size,
            "optimizer.lr": 0.02,
        }
        assert search.cell(point).config == cell.config
        assert list(search.plan(point, fake_engine).cells) == list(plan_sweep([cell], fake_engine).cells)


def test_a_worker_reads_the_search_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    search = search_of("storage=postgresql://ann:geheim@db/lab", LR, multirun=tmp_path)
    folder = SweepFolder(tmp_path, "s")
    search.save(folder)
    assert load_search(folder, search.id) == search
    assert "geheim" not in (folder.search(search.id) / "search.json").read_text()
