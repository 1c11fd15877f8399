"""Settings of tuning and of a regime alone: refused in one line, kept by files and commands, and neutral where unused."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from src import cli
from src.config import cell_hash, compose
from src.config.command import command
from src.config.serialize import config_text, read_config
from src.config.tune import EqualTuning
from src.errors import ConfigError
from tests.training.cells import planned, tiny

RATES = "tune.space='{optimizer.lr: tag(log,interval(1e-3,1))}'"


def test_without_tuning_no_hash_and_no_file_changes() -> None:
    config = compose([])
    assert "tune" not in config.recipe()
    assert "tune" not in config.axes()
    assert "tune" not in config_text(config)
    assert cell_hash(config, "data") == "83394076cebd3e54"
    assert cell_hash(compose(["tune=equal"]), "data") != cell_hash(config, "data")


def test_a_space_is_the_same_however_it_is_written() -> None:
    one, other = "{optimizer.lr: tag(log,interval(1e-3,1))}", "{optimizer.lr:tag(log, interval(0.001, 1.0))}"
    assert len({cell_hash(compose(["tune=equal", f"tune.space='{text}'"]), "data") for text in (one, other)}) == 1


@pytest.mark.parametrize(
    "words",
    [["tune=equal", RATES, "tune.trials=16"], ["regimes=[{sequential:{lr_factor:0.1,optimizer.lr:0.03}},combined]"]],
)
def test_a_file_and_the_command_give_the_same_cell_again(tmp_path: Path, words: list[str]) -> None:
    config = compose(words)
    (tmp_path / "cell.yaml").write_text(config_text(config))
    assert read_config(tmp_path / "cell.yaml", Path(config.multirun)) == config
    assert compose(shlex.split(command(config))[3:]) == config


def test_the_command_line_needs_no_quotes_within_quotes() -> None:
    word = "tune.space={optimizer.lr: tag(log,interval(1e-3,1))}"
    assert compose(["tune=equal", cli.quote_space(word)]).tune == compose(["tune=equal", RATES]).tune


def test_a_regime_with_settings_of_its_own_trains_the_stages_of_a_cell_with_them() -> None:
    own = tiny("regimes=[{combined:{optimizer.lr:0.03}},combined]", "seeds=1")
    assert [regime.label for regime in own.regimes] == ["combined(optimizer.lr=0.03)", "combined"]
    stages = [
        planned(config).runs[0].stages for config in (own, tiny("optimizer.lr=0.03", "regimes=[combined]"), tiny())
    ]
    assert stages[0] == stages[1]
    assert planned(own).runs[1].stages != stages[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tune.trials=1"], "tune.trials=1: must be >= 2"),
        (["tune.seeds=0"], "tune.seeds=0: must be >= 1"),
        (["tune.space='{}'"], "tune.space={}: is empty; name what is tuned, e.g. "),
        (["tune.space=lr"], "tune.space=lr: must be {key: values, ...}, e.g. "),
        (["tune.space='{optimizer.rate: [1,2]}'"], "tune.space.optimizer.rate=1: unknown knob; did you mean "),
        (["tune.space='{share: [0.1,0.2]}'"], "tune.space=share: is no knob of a compared regime that leaves it open"),
        (
            ["tune.space='{lr_factor: [0.1,1]}'", "regimes=[{sequential:{lr_factor:0.1}}]"],
            "tune.space=lr_factor: is no",
        ),
        (["tune.space='{optimizer.lr: interval(0,1)}'"], "tune.space.optimizer.lr=0.0: must be > 0"),
        (["tune.space='{optimizer.lr: interval(1,0)}'"], "tune.space.optimizer.lr=interval(1.0,0.0): is empty"),
        (["tune.space='{optimizer.lr: 0.1}'"], "tune.space.optimizer.lr=0.1: is one value; give several"),
        (["tune.objective=test/union/accuracy"], "tune.objective=test/union/accuracy: must be a validation metric"),
        (["tune.objective=val/d2/accuracy", "split.sizes=[400,0]"], "tune.objective=val/d2/accuracy: must be"),
        (["seeds=[0,1000001]"], "seeds=[1000001]: belong to tuning; take seeds below 1000000"),
        (["split.val=0"], "split.val=0.0: must be > 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refusals(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["tune=equal", *words])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_regimes_take_what_they_have_of_the_default_space() -> None:
    """It was refused where no regime has the factor on the rate of stage 2."""
    words = ["tune=equal", "regimes=[d1_only,combined]"]
    config = compose(words)
    assert isinstance(config.tune, EqualTuning)
    assert [list(config.tune.space_of(regime)) for regime in config.regimes] == [["optimizer.lr"]] * 2
    assert compose([*words, f"tune.space='{config.tune.space}'"]) == config
    with pytest.raises(ConfigError, match=r"tune\.space=lr_factor: is no knob of a compared regime"):
        compose([*words, f"tune.space='{config.tune.space.replace('1e-3', '1e-2')}'"])


def test_choices_of_mixed_types_and_knobs_of_other_regimes_are_a_space() -> None:
    space = "{optimizer.batch_size: [32,full], share: interval(0.05,0.5), optimizer.schedule: [constant,cosine]}"
    config = compose(["tune=equal", "regimes=[replay,combined]", f"tune.space='{space}'"])
    assert config.tune.keys == ("optimizer.batch_size", "share", "optimizer.schedule")
