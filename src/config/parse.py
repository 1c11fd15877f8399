"""From composed YAML to a `Config`: typed and validated once; every mistake is one line with key, value and fix."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from cachetools import LRUCache, cached

from src.config.checks import check
from src.config.plugins import Catalog, catalogs, offer_plugins, pin_plugins
from src.config.regimes import parse_regime
from src.config.schema import LAUNCHERS, Config
from src.config.search import SEARCH_KEYS, refuse_search
from src.config.tune import OFF, TUNES
from src.errors import ConfigError, did_you_mean
from src.io import MAX_OWN_NAME
from src.regimes.catalog import RegimeConfig
from src.regimes.checkpoint import pin
from src.typed import bounds, build, build_variant, convert, hints_of

TOP_LEVEL = {f.name for f in dataclasses.fields(Config)} | {"regime", "seed"}
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Config) if f.default is not dataclasses.MISSING}
AUTO = "auto"
"""The value of `seeds` that leaves it to the sweep how many seeds each cell gets."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seeding:
    """Limits of `seeds=auto`."""

    max: int = dataclasses.field(default=48, metadata=bounds(ge=6))
    """Most seeds of a cell; they are 0, 1, ..."""
    margin: float | None = dataclasses.field(default=None, metadata=bounds(gt=0))
    """A difference within it counts as none, in the metric's own unit (accuracy: 0.01 is a point); None: never."""
    runs: int | None = dataclasses.field(default=None, metadata=bounds(ge=1))
    """Most runs of the command, earlier ones included; None: no limit."""


def compose(overrides: Sequence[str] = ()) -> Config:
    """The `Config` of a command line: conf/config.yaml under `overrides`."""
    from src.config.composing import composer

    offer_plugins(overrides)
    return parse(composer()(list(overrides)))


def parse(given: Mapping[str, Any], *, single_run: bool = False) -> Config:
    """The typed, checked `Config` of a composed mapping.

    `single_run`: the cell is the one run (`regime`, `seed`) instead of `regimes` x `seeds`.
    Raises ConfigError (a ValueError) that names the key, the value and the fix.
    """
    given = _completed(given)
    hints = hints_of(Config)
    limits = {f.name: dict(f.metadata) for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {"plugins": pin_plugins(given["plugins"])}
    for name in ("data", "stopping", "optimizer", "arch", "launcher", "tune"):
        values[name] = _variant(name, values["plugins"], given[name])
    if (weights := values["arch"].weights) is not None:
        pinned = pin(values["arch"].weights_file(weights), "arch.weights")
        values["arch"] = dataclasses.replace(values["arch"], weights=pinned)
    for name in ("split", "trainer", "tracking"):
        values[name] = _group(name, given[name])
    plain = ("loss", "head", "online", "label_smoothing", "augment", "margin")
    for name in (*plain, "multirun", "storage", "n_workers", "dry_run"):
        values[name] = convert(hints[name], given[name], name, limits[name])
    if single_run:
        values |= {"regimes": _regimes([given["regime"]], values), "seeds": parse_seeds([given["seed"]])}
    else:
        values |= _compared_runs(given, values)
    config = Config(sweep=_sweep_name(given["sweep"], values), **values)
    check(config)
    return config


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The composed mapping with defaults for later keys. Refuses unknown and missing keys, and those of a search."""
    given = DEFAULTS | {key: value for key, value in given.items() if key not in ("hydra", "notify")}
    if isinstance(given.get("tracking"), Mapping):  # files of earlier versions name a key that no longer exists
        given["tracking"] = {key: value for key, value in given["tracking"].items() if key != "batched"}
    if isinstance(trainer := given.get("trainer"), Mapping) and type(trainer.get("precision")) is int:  # 64, not "64"
        given["trainer"] = {**trainer, "precision": str(trainer["precision"])}
    for key, value in given.items():
        if key not in TOP_LEVEL and key not in (*SEARCH_KEYS, "seeding"):
            raise ConfigError(key, value, f"unknown key; {did_you_mean(key, sorted(TOP_LEVEL))}")
    if given["tune"] == OFF or (isinstance(given["tune"], Mapping) and given["tune"].get("name") == OFF.name):
        given["tune"] = {"name": OFF.name}  # the rest is for the other choices of an axis tune.name=off,equal
    refuse_search(given)
    for key in TOP_LEVEL:
        if key not in given:
            raise ConfigError(key, "", "is missing; give it a value")
    return given


def _compared_runs(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The regimes that are compared, on which seeds, and with which baseline."""
    regimes, baseline = _regimes(given["regimes"], values), given.get("baseline")
    labels = [regime.label for regime in regimes]
    if baseline not in (None, *labels):
        raise ConfigError("baseline", baseline, f"is no compared regime; {did_you_mean(str(baseline), labels)}")
    seeding = parse_seeding(given)
    if seeding is not None and values["margin"] is not None:
        problem = "is for a fixed number of seeds; with seeds=auto set seeding.margin"
        raise ConfigError("margin", values["margin"], problem)
    return {"regimes": regimes, "baseline": baseline, "seeds": parse_seeds(seeding.max if seeding else given["seeds"])}


def _regimes(entries: object, values: Mapping[str, Any]) -> tuple[RegimeConfig, ...]:
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ConfigError("regimes", entries, "must be a list of regimes, e.g. regimes=[sequential,combined]")
    n_parts, catalog = values["split"].parts, catalogs(values["plugins"])["regime"]
    regimes = tuple(parse_regime(entry, n_parts, catalog, values["optimizer"]) for entry in entries)
    if len(set(regimes)) < len(entries):
        raise ConfigError("regimes", [r.label for r in regimes], "names a regime twice; leave one out")
    return regimes


def _sweep_name(given: object, values: Mapping[str, Any]) -> str:
    """The user's name of the sweep, or one made of the data and the architecture."""
    name = f"{values['data'].label}-{values['arch'].name}" if given is None else given
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError("sweep", name, "must be a name of letters, digits, '.', '_' and '-', e.g. sweep=mine")
    if len(name) > MAX_OWN_NAME:
        raise ConfigError("sweep", name, f"is too long for the name of a folder; use at most {MAX_OWN_NAME} characters")
    if name.lower().startswith("mlflow.") or name.lower() == "mlartifacts":
        raise ConfigError("sweep", name, f"is a name that MLflow's files have in multirun; e.g. sweep=my-{name}")
    return name


def _by_text(*arguments: object) -> str:
    """The key of a cache under which settings are equal if their texts are, so that 1 is not 1.0."""
    return repr(arguments)


@cached(LRUCache(1024), key=_by_text, lock=Lock())
def _variant(group: str, plugins: tuple[str, ...], given: object) -> Any:
    """A group with variants, typed; the cells of a grid share most of theirs."""
    variants: Mapping[str, Catalog] = {"launcher": LAUNCHERS, "tune": TUNES, **catalogs(plugins)}
    return build_variant(variants[group], given, group)


@cached(LRUCache(1024), key=_by_text, lock=Lock())
def _group(name: str, given: object) -> Any:
    """A group without variants, typed."""
    return convert(hints_of(Config)[name], given, name, {})


def parse_seeding(given: Mapping[str, Any]) -> Seeding | None:
    """The limits of a mapping with `seeds=auto`; otherwise None. Raises ConfigError for limits without it."""
    seeding: Seeding = build(Seeding, given.get("seeding") or dataclasses.asdict(Seeding()), "seeding")
    if given["seeds"] == AUTO:
        return seeding
    for key, value in dataclasses.asdict(seeding).items():
        if value != getattr(Seeding(), key):
            raise ConfigError(f"seeding.{key}", value, "has no effect without seeds=auto")
    return None


def parse_seeds(given: object) -> tuple[int, ...]:
    """Seeds from a number (12 means 0..11) or a list."""
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise ConfigError("seeds", given, "must be at least 1, or a list such as seeds=[0,3,7]")
        return tuple(range(given))
    seeds = given if isinstance(given, (list, tuple)) else [given]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("seeds", given, "must be a number of seeds, a list of different whole numbers >= 0, or auto")
    return tuple(seeds)
