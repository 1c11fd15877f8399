"""A command line means its cells: the product of its axes, each recipe once, every mistake found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from src.config import composing, parse
from src.config.serialize import to_mapping
from src.errors import ConfigError
from src.io import CONF_DIR
from src.sweep.grid.cells import Cell, CommandLine, expand


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


def cells_of(*overrides: str) -> list[Cell]:
    loader = GlobalHydra.instance().config_loader()
    with patch.object(composing, "compose_mapping", wraps=composing.compose_mapping) as composed:
        found = expand(CommandLine(overrides, composing.GroupComposer(loader), loader))
    cells_of.n_composed = composed.call_count  # type: ignore[attr-defined]
    return found


def labels(cell: Cell) -> list[str]:
    return [regime.label for regime in cell.config.regimes]


def test_without_axes_there_is_one_cell_with_all_regimes_and_seeds() -> None:
    (cell,) = cells_of("seeds=3")
    assert labels(cell) == ["sequential", "combined"]
    assert cell.config.seeds == (0, 1, 2)
    assert cell.n_runs == 6


def test_the_grid_is_the_product_in_the_order_of_the_command_line() -> None:
    cells = cells_of("split.ratio=0.1,1", "stopping.epochs=1,2")
    assert [cell.overrides for cell in cells] == [
        ("split.ratio=0.1", "stopping.epochs=1"),
        ("split.ratio=0.1", "stopping.epochs=2"),
        ("split.ratio=1", "stopping.epochs=1"),
        ("split.ratio=1", "stopping.epochs=2"),
    ]
    assert [(c.config.split.ratio, c.config.axes()["epochs"]) for c in cells] == [
        (0.1, 1),
        (0.1, 2),
        (1.0, 1),
        (1.0, 2),
    ]


def test_a_cell_of_the_grid_equals_hydras_composition() -> None:
    swept = cells_of("split.ratio=0.5,2", "arch=mlp,cnn", "optimizer.lr=0.05,0.1", "split.val=0.2")
    for cell in swept:
        mapping = OmegaConf.to_container(compose("config", [*cell.overrides, "split.val=0.2"]), resolve=True)
        assert cell.config == parse(cast(Mapping[str, Any], mapping))


def test_every_kind_of_value_is_set_as_hydra_sets_it() -> None:
    lists_and_mappings = (
        "split.sizes=[60,60],[40,80]",
        "arch.widths=[8],[8,4]",
        "split.shift={kind:rotate,amount:5},{kind:noise,amount:1.0}",
    )
    plain = ("online=true,false", "optimizer.lr=1e-2,.1", "trainer.precision='64',32", "stopping.epochs=range(1,3)")
    swept = cells_of(*lists_and_mappings, *plain, "stopping=epochs,budget")
    assert len(swept) == 2**8
    assert cells_of.n_composed == 2  # type: ignore[attr-defined]
    for cell in (swept[0b01010101], swept[0b10101010], swept[0b00110011]):  # both values of every axis
        mapping = OmegaConf.to_container(compose("config", list(cell.overrides)), resolve=True)
        assert cell.config == parse(cast(Mapping[str, Any], mapping))


def test_hydra_composes_once_per_choice_of_groups_not_per_cell() -> None:
    cells = cells_of("arch=mlp,linear", "split.ratio=0.1,0.5,1,2,10", "stopping.epochs=1,2,3,4")
    assert len(cells) == 40
    assert cells_of.n_composed == 2  # type: ignore[attr-defined]


def test_a_value_that_follows_a_swept_one_follows_it_in_every_cell() -> None:
    cells = cells_of("split.size=100,200", "stopping.epochs=${split.size}")
    assert [cell.config.axes()["epochs"] for cell in cells] == [100, 200]


def test_regime_and_seed_are_axes_of_runs() -> None:
    cells = cells_of("regime=sequential,combined", "seed=0,4", "split.ratio=0.1,1")
    assert len(cells) == 2
    assert all(labels(cell) == ["sequential", "combined"] and cell.config.seeds == (0, 4) for cell in cells)
    assert cells_of("regime=combined", "seed=0")[0].config.seeds == (0,)


def test_a_knob_is_an_axis_of_runs_and_names_its_regimes() -> None:
    (cell,) = cells_of("regime=sequential", "regime.lr_factor=0.1,1")
    assert labels(cell) == ["sequential(lr_factor=0.1)", "sequential"]


def test_equal_recipes_are_one_cell_with_the_runs_of_both() -> None:
    (cell,) = cells_of("seeds=[0,1],[1,2]")
    assert cell.config.seeds == (0, 1, 2)
    assert len(cells_of("split.size=null,400", "split.ratio=1")) == 1


def test_paths_keep_cells_apart_although_the_recipe_leaves_them_out() -> None:
    assert len(cells_of("data=arrays", "data.path=one.npz,two.npz")) == 2


def test_a_swept_list_is_one_value() -> None:
    assert [cell.config.split.sizes for cell in cells_of("split.sizes=[100,10],[100,0]")] == [(100, 10), (100, 0)]


def test_axes_have_short_names_and_other_keys_their_own() -> None:
    cell = cells_of("split.ratio=0.1,1", "optimizer.lr=0.05,0.1")[0]
    assert cell.axes["ratio"] == 0.1
    assert cell.axes["optimizer.lr"] == 0.05
    assert not {"split.ratio", "regime", "seed"} & set(cell.axes)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["split.ratio=0.1,1,-3"], ["split.ratio=-3", "> 0"]),
        (["stopping.epochs=5,0", "split.ratio=0.1,1"], ["stopping.epochs=0", "in the cell", "split.ratio=0.1"]),
        (["split.ratoi=0.1,1"], ["split.ratoi=0.1", "did you mean split.ratio"]),
        (["regime=sequential,combined", "regimes=[combined]"], ["regimes=[combined]", "give one of the two"]),
        (["seed=0,1", "seeds=4"], ["seeds=4", "give one of the two"]),
        (["split.ratio=interval(0.1,1)"], ["split.ratio=interval(0.1,1)", "search"]),
        (["tune=equal", "optimizer.lr=0.1,0.2"], ["optimizer.lr=0.1,0.2", "is tuned for each regime"]),
        (["tune=equal", "regime=sequential", "regime.lr_factor=0.1,1"], ["regime.lr_factor=0.1,1", "is tuned"]),
        (["n_workers=1,2"], ["n_workers=1,2", "cannot be an axis"]),
        (["split.ratio=1,2", "split.sizes=[10,10]"], ["split.ratio=1.0", "split.sizes"]),
    ],
)
def test_a_mistake_in_any_cell_is_one_line_that_names_key_value_and_cell(
    overrides: list[str], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        cells_of(*overrides)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in named), line


def test_a_cell_written_as_plain_yaml_is_read_as_the_same_config() -> None:
    for cell in cells_of(
        "regime=sequential",
        "regime.lr_factor=0.1,1",
        "split=imbalanced,iid",
        "arch=mlp,cnn",
        "split.sizes=[90,30],null",
    ):
        assert parse(to_mapping(cell.config)) == cell.config
