"""`tune`: whether the regimes of a cell are first tuned, each by equally many trials on validation data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from src.config.plugins import knobs_of
from src.config.regimes import OPTIMIZER
from src.errors import ConfigError
from src.io import CONF_DIR
from src.regimes.catalog import RegimeConfig
from src.typed import bounds

if TYPE_CHECKING:  # loads Optuna
    from src.config.space import Space

FIRST_SEED = 1_000_000
"""Seeds of tuning count from here, so that no comparison shares them."""
EXAMPLE = "'tune.space={optimizer.lr: tag(log,interval(1e-3,1))}'"


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """`tune=off`: every regime trains with the settings of the cell."""

    name: str

    @property
    def n_runs(self) -> int:
        """Trainings that the tuning of one regime takes; 0: regimes are not tuned."""
        return 0

    @property
    def seeds_used(self) -> range:
        """The seeds of these trainings."""
        return range(0)

    @property
    def keys(self) -> tuple[str, ...]:
        """What is tuned: settings of the optimizer and knobs of regimes."""
        return ()

    def recipe(self) -> dict[str, Any]:
        """What the choice depends on, as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualTuning(TuneConfig):
    """`tune=equal`: `trials` trials for each regime, each on `seeds` seeds, of points that `seed` and the cell
    determine.

    `space`: the values to try, ``{optimizer.lr: tag(log,interval(1e-3,1)), lr_factor: ...}``, in Hydra's grammar of
    sweeps; a regime takes the settings of the optimizer and the knobs that it has and does not set. `objective`: the
    validation metric that decides; None: accuracy on the union, or the loss of a regression.
    """

    name: Literal["equal"]
    trials: int = field(metadata=bounds(ge=2))
    seeds: int = field(metadata=bounds(ge=1))
    space: str
    objective: str | None
    seed: int = field(metadata=bounds(ge=0))

    @property
    def n_runs(self) -> int:
        return self.trials * self.seeds

    @property
    def seeds_used(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(_entries(self.space))

    def recipe(self) -> dict[str, Any]:
        return {**asdict(self), "space": dict(_entries(self.space))}

    def space_of(self, regime: RegimeConfig) -> Space:
        """What is tuned in a regime. Raises ConfigError for values that are no space."""
        own = {key for key in self.keys if key.startswith(OPTIMIZER)}
        own |= set(knobs_of(regime.function))
        own -= set(dict(regime.knobs))
        return {key: _distribution(key, text) for key, text in sorted(_entries(self.space).items()) if key in own}


@functools.cache
def default_space() -> str:
    """The space of a command that gives none: each regime takes what it has of it."""
    space: str = yaml.safe_load((CONF_DIR / "tune" / "equal.yaml").read_text(encoding="utf-8"))["space"]
    return space


TUNES: dict[str, type[TuneConfig]] = {"off": TuneConfig, "equal": EqualTuning}
OFF = TuneConfig(name="off")


@functools.cache
def _entries(space: str) -> Mapping[str, str]:
    """Key -> its values as an axis of the command line has them, from the text of a space."""
    try:
        given = OverridesParser.create().parse_override(f"tune.space={space}").value()
    except HydraException:
        given = None
    if given == {}:
        raise ConfigError("tune.space", space, f"is empty; name what is tuned, e.g. {EXAMPLE}")
    if not isinstance(given, dict):
        raise ConfigError("tune.space", space, f"must be {{key: values, ...}}, e.g. {EXAMPLE}")
    return {str(key): _values(value) for key, value in given.items()}


def _values(value: Any) -> str:
    """Values as typed: intervals and ranges are those of Hydra's grammar, a list is a choice."""
    if isinstance(value, IntervalSweep):
        text = f"interval({value.start},{value.end})"
        text = f"int({text})" if type(value.start) is type(value.end) is int else text
    elif isinstance(value, RangeSweep):
        text = f"range({value.start},{value.stop},{value.step})"
    else:
        choices = value.list if isinstance(value, ChoiceSweep) else value
        return ",".join(map(str, choices)) if isinstance(choices, list) else str(choices)
    return f"tag({','.join(sorted(value.tags))},{text})" if value.tags else text


@functools.cache
def _distribution(key: str, text: str) -> Any:
    from src.config.space import distribution_of

    override = OverridesParser.create().parse_override(f"{key}={text}")
    if not override.is_sweep_override():
        raise ConfigError(f"tune.space.{key}", text, f"is one value; give several, e.g. [{text},...], or an interval")
    return distribution_of(f"tune.space.{key}", override)


def plain_point(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a space with the types of its values: choices are texts, as the command line has them."""
    parser = OverridesParser.create()
    return {k: parser.parse_override(f"{k}={v}").value() if isinstance(v, str) else v for k, v in point.items()}
