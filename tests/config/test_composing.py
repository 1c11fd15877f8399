"""The fast composition of many command lines gives what Hydra gives for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from src.config import composing
from src.config.composing import GroupComposer, compose_mapping
from src.io import CONF_DIR

LINES = [
    ["stopping=convergence", "stopping.tolerance=0.1", "split.sizes=[400,40]", "arch.widths=[64,64]", "seeds=3"],
    ["data=arrays", "data.root=elsewhere", "stopping=convergence", "tracking=off"],
    ["stopping=convergence", "split.shift={kind:rotate,amount:30}"],
    ["study=linear_lab", "data.noise=1", "stopping=convergence"],
    ["split.size=100", "+split.priors=null", "split.size=200", "arch.widths=[]", "loss=mse"],
]


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_values_are_set_as_hydra_sets_them_and_groups_are_composed_once(
    loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that interpolate a changed one, nested ones, and studies are among them."""
    for words in LINES:
        assert GroupComposer(loader)(words) == compose_mapping(loader, words)
    composed: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        composing,
        "compose_mapping",
        lambda *given, **more: composed.append(given[1]) or compose_mapping(*given, **more),
    )
    several = GroupComposer(loader)
    assert [several(["arch=cnn", f"split.size={size}"])["split"]["size"] for size in (100, 200)] == [100, 200]
    assert composed == [("arch=cnn",)]
    with pytest.raises(HydraException, match=r"split\.sise"):
        several(["arch=cnn", "split.sise=100"])
    for given in (["seeds=1,2"], ["seeds=[1"]):
        with pytest.raises(HydraException) as whole:
            compose_mapping(loader, given)
        with pytest.raises(HydraException) as fast:
            several(given)
        assert str(fast.value) == str(whole.value), given
