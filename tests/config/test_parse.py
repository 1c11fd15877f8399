"""The composed YAML becomes one frozen `Config`; equal recipes are equal objects with equal hashes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from src.config import Config, SearchConfig, cell_hash, compose, parse, parse_seeds, run_hash
from src.config.command import command
from src.config.plugins import knobs_of
from src.config.serialize import config_text, read_settings, run_text, to_mapping
from src.errors import ConfigError
from src.io import CONF_DIR
from src.regimes.catalog import REGIMES, RegimeConfig
from src.typed import as_dict, build

GROUPS = [
    path
    for path in sorted(CONF_DIR.rglob("*.yaml"))
    if path.parent != CONF_DIR and "hydra" not in path.parts and path.parent.name not in ("claim", "anchor", "advice")
]
NEEDED = {
    "image_folder": ["data.path=images"],
    "arrays": ["data.path=arrays.npz"],
    "table": ["data.path=table.csv", "data.target=y"],
    "data=torchvision": ["data.dataset=KMNIST"],
    "gaussian": ["loss=mse"],
    "budget": ["stopping.epochs=3"],
}


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_file_of_conf_composes_and_opens_with_its_command(path: Path) -> None:
    """A group file is valid with the defaults of the other groups, and says in its first lines how it is used."""
    group = str(path.parent.relative_to(CONF_DIR))
    if group == "search" and path.stem != "grid":  # no part of a cell
        assert build(SearchConfig, yaml.safe_load(path.read_text(encoding="utf-8")), "search").name == path.stem
    else:
        config = compose([f"{group}={path.stem}", *NEEDED.get(path.stem, NEEDED.get(f"{group}={path.stem}", []))])
        assert config.regimes if group in ("regime", "study", "search") else getattr(config, group)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#")
    assert "python -m src." in text or "make " in text


def test_defaults_of_a_regime_file_are_those_of_the_catalog() -> None:
    """conf/regime/NAME.yaml repeats the knobs of the catalog's function; a drift would make two defaults."""
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF_DIR / "regime").glob("*.yaml")}
    assert set(files) == set(REGIMES)
    for name, content in files.items():
        assert content.pop("name") == name
        assert content == knobs_of(REGIMES[name])


def test_a_config_is_frozen() -> None:
    """Nobody can change a recipe after its hash was taken."""
    config = compose()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.loss = "mse"  # type: ignore[misc]


def test_size_and_ratio_are_equivalent_to_sizes() -> None:
    """The same data sets give the same cell, however they are written."""
    by_ratio = compose(["split.size=400", "split.ratio=3"])
    by_sizes = compose(["split.sizes=[100,300]"])
    assert by_ratio.split.dataset_sizes() == (100, 300)
    assert cell_hash(by_ratio, "x") == cell_hash(by_sizes, "x")


@pytest.mark.parametrize(
    "same",
    ["trainer=cpu", "n_workers=3", "multirun=elsewhere", "tracking=off", "sweep=other", "seeds=3", "data.root=d"],
)
def test_settings_of_the_execution_are_not_part_of_the_hash(same: str) -> None:
    """Device, workers, paths and tracking do not change a run's address; neither do the seeds of its neighbours."""
    assert cell_hash(compose([same]), "x") == cell_hash(compose(), "x")


@pytest.mark.parametrize(
    "other",
    [
        "split.size=401",
        "split.ratio=2",
        "split.imbalance=2",
        "split.opposed=false",
        "split.val=0.2",
        "split.label_noise=0.1",
        "split.labels=[0,1,0,1,0,1,0,1,0,1]",
        "stopping.epochs=21",
        "optimizer.lr=0.2",
        "optimizer.batch_size=32",
        "optimizer.schedule=cosine",
        "arch.widths=[65]",
        "trainer.precision='64'",
        "trainer.threads=2",
        "trainer.compile=true",
        "loss=mse",
    ],
)
def test_settings_that_change_the_result_change_the_hash(other: str) -> None:
    """Every part of the recipe counts, precision and threads included, and so does the content of the data."""
    assert cell_hash(compose([other]), "x") != cell_hash(compose(), "x")
    assert cell_hash(compose(), "y") != cell_hash(compose(), "x")


def test_keys_added_later_do_not_change_older_addresses() -> None:
    """Work that was finished before split.labels and stopping.updates_per_part is found again, and its files are read."""
    assert cell_hash(compose(), "x") == "4cec6cd00d81cf27"
    budget = compose(["stopping=budget", "stopping.epochs=5"])
    assert cell_hash(budget, "x") == "4cc7fe9f61122799"
    written = json.loads(json.dumps(to_mapping(budget)))
    del written["split"]["labels"], written["stopping"]["updates_per_part"], written["trainer"]["compile"]
    assert parse(written) == budget


def test_an_old_file_with_tracking_batched_is_read() -> None:
    config = compose()
    written = json.loads(json.dumps(to_mapping(config)))
    written["tracking"]["batched"] = False
    assert parse(written) == config


def test_a_regime_at_its_defaults_is_the_regime_by_name() -> None:
    """Knobs that say what the defaults say neither change the label nor the hash."""
    spelled = compose(["regimes=[{sequential:{lr_factor:1.0,reset_optimizer:true}},combined]"])
    assert spelled.regimes == compose().regimes
    changed = compose(["regimes=[{sequential:{lr_factor:0.1}},combined]"]).regimes[0]
    assert changed.label == "sequential(lr_factor=0.1)"
    assert run_hash("c", changed, 0) != run_hash("c", RegimeConfig("sequential"), 0)


def test_seeds_are_a_number_or_a_list_and_zero_is_a_seed() -> None:
    """12 means 0..11; seed 0 is a seed like any other."""
    assert parse_seeds(3) == (0, 1, 2)
    assert parse_seeds([5, 0]) == (5, 0)
    for wrong in (0, [], [1, 1], [-1], [0.5], "three", True):
        with pytest.raises(ConfigError, match="seeds"):
            parse_seeds(wrong)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["split.ratio=0.1", "stopping.epochs=5"],
        ["arch=cnn", "arch.widths=[8,8]", "optimizer=adam", "seeds=[3,5]"],
        ["stopping=convergence", "stopping.tolerance=0.05", "regimes=[combined,{sequential:{lr_factor:0.5}}]"],
        ["split.sizes=[30,0]", "split.priors=null", "split.shift.kind=rotate", "split.shift.amount=30"],
        ["stopping=budget", "stopping.updates=50", "trainer.precision='64'"],
    ],
)
def test_the_reproducing_command_gives_the_same_cell(overrides: list[str]) -> None:
    """The command noted with a cell composes to the very same recipe, regimes and seeds."""
    import shlex

    config = compose(overrides)
    words = shlex.split(command(config))
    assert words[:3] == ["python", "-m", "src.sweep"]
    again = compose(words[3:])
    assert again.recipe() == config.recipe()
    assert (again.regimes, again.seeds) == (config.regimes, config.seeds)


def test_a_saved_config_parses_to_the_same_config() -> None:
    """What a worker reads from disk is what the sweep composed."""
    from src.config import parse

    config = compose(["stopping=early_stopping", "split.classes=[[0,1],[2,3]]"])
    assert isinstance(config, Config)
    assert parse(yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


def test_a_file_read_section_by_section_is_the_whole_file() -> None:
    config = compose(["arch.widths=[8,8]", "regimes=[{replay:{share:0.1}},combined]", f"data.root='{'a b ' * 60}x'"])
    texts = [config_text(config), *(run_text(config, regime, 3) for regime in config.regimes)]
    texts += ["# nothing\n", "", "---\na: {b: 1}\n\n# more\nc:\n- 2\n- d: 3\n", "a: &x [1]\nb: *x\n", "a: 1\na: 2\n"]
    for text in texts:
        assert read_settings(text) == (yaml.safe_load(text) or {}), text
    for damaged in ("a: [", "a: 1\nb", "- a", "a: *x", "[" * 10_000):
        with pytest.raises(ValueError, match=r"found|expected|holds|undefined|deep|recursion"):
            read_settings(damaged)


def test_settings_as_plain_values_are_those_of_asdict() -> None:
    config = compose(
        ["regimes=[{replay:{share:0.1}}]", "split.classes=[[0,1],[2]]", "data=gaussian", "arch=linear", "loss=mse"]
    )
    assert as_dict(config) == dataclasses.asdict(config)
    assert repr(as_dict(config)) == repr(dataclasses.asdict(config))
