"""A regime from its entry in the configuration: its knobs, and the settings of the optimizer that it replaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from src.config.plugins import Catalog, knobs_of
from src.errors import ConfigError, did_you_mean
from src.optimizers import OptimizerConfig
from src.regimes.catalog import REGIMES, RegimeConfig
from src.regimes.checkpoint import pin
from src.regimes.stage import Stage
from src.typed import convert, hints_of

OPTIMIZER = "optimizer."


def parse_regime(
    entry: object, n_parts: int, catalog: Catalog = REGIMES, optimizer: OptimizerConfig | None = None
) -> RegimeConfig:
    """A regime from its name, a one-key mapping {name: {knob: value}}, or a composed group {name: ..., knob: value}.

    `optimizer`: the cell's, whose settings a regime replaces by knobs such as ``optimizer.lr``.
    """
    if isinstance(entry, str):
        name, knobs = entry, {}
    elif isinstance(entry, Mapping) and "name" in entry:
        name, knobs = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    elif isinstance(entry, Mapping) and len(entry) == 1:
        ((name, knobs),) = entry.items()
        knobs = knobs or {}
    else:
        raise ConfigError("regimes", entry, "an entry is a name or {name: {knob: value}}")
    if name not in catalog:
        raise ConfigError("regimes", name, f"unknown regime; {did_you_mean(str(name), list(catalog))}")
    if not isinstance(knobs, Mapping):
        raise ConfigError(f"regime.{name}", knobs, "must be a mapping of knobs, e.g. {replay: {share: 0.05}}")
    own = None if catalog[name] is REGIMES.get(name) else catalog[name]
    return with_knobs(RegimeConfig(name, (), own), knobs, n_parts, optimizer)


def with_knobs(
    regime: RegimeConfig, knobs: Mapping[str, Any], n_parts: int, optimizer: OptimizerConfig | None = None
) -> RegimeConfig:
    """The regime with further `knobs`: typed, checked, and without those at their default. Raises ConfigError."""
    key, chosen = f"regime.{regime.name}", dict(regime.knobs)
    kind, hints = OptimizerConfig if optimizer is None else type(optimizer), hints_of(regime.function)
    known: dict[str, tuple[Any, dict[str, float], Any]] = {
        knob: (hints[knob], {}, default) for knob, default in knobs_of(regime.function).items()
    }
    for f in dataclasses.fields(kind):
        if f.name != "name":
            known[OPTIMIZER + f.name] = hints_of(kind)[f.name], dict(f.metadata), getattr(optimizer, f.name, None)
    for knob, value in knobs.items():
        if knob not in known:
            alike = [other for other in known if other.startswith(OPTIMIZER) == str(knob).startswith(OPTIMIZER)]
            problem = f"unknown knob; {did_you_mean(str(knob), alike) if alike else 'none'}"
            raise ConfigError(f"{key}.{knob}", value, problem)
        hint, limits, default = known[knob]
        if knob == "checkpoint" and isinstance(value, str | Mapping):
            value = pin(value, f"{key}.{knob}")
        converted = convert(hint, value, f"{key}.{knob}", limits)
        chosen.pop(knob, None)
        if converted != default:
            chosen[knob] = converted
    changed = dataclasses.replace(regime, knobs=tuple(sorted(chosen.items())))
    _check_stages(changed, n_parts)
    if optimizer is not None:
        changed_optimizer(optimizer, changed).check()
    return changed


def _check_stages(regime: RegimeConfig, n_parts: int) -> None:
    """A regime checks its own knobs; what one of the user's own raises or returns is reported as their mistake."""
    try:
        stages = regime.stages(n_parts)
    except Exception as error:
        if isinstance(error, ConfigError) or regime.own is None:
            raise
        problem = f"fails for {n_parts} data sets ({type(error).__name__}: {error}); mend its function"
        raise ConfigError("regime", regime.name, problem) from error
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise ConfigError("regime", regime.name, "must return a list of src.regimes.stage.Stage objects, at least one")


def changed_optimizer(optimizer: OptimizerConfig, regime: RegimeConfig) -> OptimizerConfig:
    """The optimizer with the settings that the regime replaces."""
    own = {knob.removeprefix(OPTIMIZER): value for knob, value in regime.knobs if knob.startswith(OPTIMIZER)}
    return dataclasses.replace(optimizer, **own)
