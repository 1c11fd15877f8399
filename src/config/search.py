"""What a search is asked: how it samples, how often, and its objective, which reads validation sets alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

from src.config.schema import Config
from src.errors import ConfigError, did_you_mean
from src.typed import bounds

SEARCH_KEYS = ("search", "objective", "objective_direction")
"""Top-level keys that concern a whole command: they are no part of a cell."""

Direction = Literal["maximize", "minimize", "maximize_absolute", "minimize_absolute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """`n_trials`: points in all, those of earlier commands included; `seed`: the sampler's, not that of a run."""

    name: Literal["tpe", "gp", "random", "boundary"]
    n_trials: int = field(metadata=bounds(ge=1))
    seed: int = field(metadata=bounds(ge=0))
    pruner: Literal["none", "median", "hyperband"]
    step: int = field(default=4, metadata=bounds(ge=2))
    """Of a boundary: seeds that a visit adds to a cell."""
    certain: float = field(default=0.95, metadata=bounds(gt=0, le=1))
    """Of a boundary: share of the map whose sign is certain when the search ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The mean over the seeds of a validation metric of one regime, or of the paired difference of two.

    `of`: one label or two; `metric`: ``val/{d1,d2,union}/{accuracy,loss}``, of the weights that the regime ends with.
    """

    of: tuple[str, ...]
    metric: str
    direction: Direction

    @property
    def text(self) -> str:
        """As the command line has it: ``sequential-combined/val/union/accuracy``."""
        return f"{'-'.join(self.of)}/{self.metric}"

    @property
    def maximised(self) -> bool:
        """Whether larger values are better."""
        return self.direction.startswith("maximize")

    @property
    def goal(self) -> Literal["maximize", "minimize"]:
        """What is done with the value, whose sign the direction may have taken off."""
        return "maximize" if self.maximised else "minimize"

    def value(self, means: Mapping[str, float]) -> float:
        """The trial's value, from the mean of the metric of each regime in `of`."""
        first, *others = (means[label] for label in self.of)
        value = first - others[0] if others else first
        return abs(value) if self.direction.endswith("absolute") else value


def is_search(composed: Mapping[str, Any]) -> bool:
    """Whether the composed mapping of conf/config.yaml asks for a search in place of a grid."""
    search = composed.get("search")
    return isinstance(search, Mapping) and search.get("name") != "grid"


def refuse_search(composed: Mapping[str, Any]) -> None:
    """Raise ConfigError if a command for given cells requests a search or an objective."""
    if is_search(composed):
        problem = "chooses its cells as it goes: only src.sweep does; take search=grid here"
        raise ConfigError("search", composed["search"].get("name"), problem)
    for key in SEARCH_KEYS[1:]:
        if composed.get(key) is not None:
            raise ConfigError(key, composed[key], "has no effect without a search, e.g. search=tpe")


def parse_objective(composed: Mapping[str, Any], config: Config) -> Objective:
    """The objective of a composed mapping, for cells like `config`. Raises ConfigError with the reason and the fix."""
    text, direction = composed["objective"], composed["objective_direction"]
    labels = [regime.label for regime in config.regimes]
    example = f"{labels[0]}/val/union/{_kinds(config)[0]}"
    if not isinstance(text, str):
        pair = f", or the difference of two regimes, {'-'.join(labels[:2])}/..." if len(labels) > 1 else ""
        raise ConfigError("objective", text, f"a search needs one: a validation metric, e.g. {example}{pair}")
    who, slash, rest = text.partition("/val/")
    if not slash:
        last = text.rpartition("/")[2]
        if "/test/" in text or last in ("forgetting", "learning_accuracy", "average_accuracy", "backward_transfer"):
            reason = "reads test sets, which would no longer test what was selected on them"
            raise ConfigError("objective", text, f"{reason}; take a validation set, e.g. {example}")
        raise ConfigError("objective", text, f"must be REGIME/val/SET/METRIC, e.g. {example}")
    metrics = validation_metrics(config)
    if f"val/{rest}" not in metrics:
        there_are = [f"{who}/{metric}" for metric in metrics]
        raise ConfigError("objective", text, f"there is no val/{rest}; {did_you_mean(text, there_are)}")
    known = {label: (label,) for label in labels} | {f"{a}-{b}": (a, b) for a, b in combinations(labels, 2)}
    if who not in known:
        turned = {f"{b}-{a}": f"{a}-{b}" for a, b in combinations(labels, 2)}
        fix = (
            f"differences are {turned[who]} in the order of `regimes`; take that and objective_direction=minimize"
            if who in turned
            else f"{who} is neither a regime of regimes=[{','.join(labels)}] nor the difference of two; "
            + did_you_mean(who, list(known))
        )
        raise ConfigError("objective", text, fix)
    if direction is None:
        direction = "minimize" if rest.endswith("loss") else "maximize"
    if direction not in get_args(Direction):
        raise ConfigError("objective_direction", direction, did_you_mean(str(direction), get_args(Direction)))
    if direction.endswith("absolute") and len(known[who]) == 1:
        raise ConfigError("objective_direction", direction, "is for the difference of two regimes, a-b/val/...")
    return Objective(of=known[who], metric=f"val/{rest}", direction=direction)


def check_pruner(search: SearchConfig, objective: Objective, config: Config) -> None:
    """Refuses a pruner where cutting runs of `config` short would bias what is found, could not be decided, or would
    lose what was trained. Raises ConfigError with the reason and the fix."""
    problem = None if search.pruner == "none" else _against_pruning(objective, config)
    if problem is not None:
        raise ConfigError("search.pruner", search.pruner, problem)


def _against_pruning(objective: Objective, config: Config) -> str | None:
    first, *others = objective.of
    trainer, stopping = config.trainer, config.stopping
    if others:
        fix = f"take search.pruner=none, or objective={first}/val/... with regimes=[{first}]"
        return f"would bias the comparison {'-'.join(objective.of)}; {fix}"
    unread = [regime.label for regime in config.regimes if regime.label != first]
    if unread:
        return f"would cut short {', '.join(unread)} too, which the objective does not read; take 'regimes=[{first}]'"
    if not stopping.is_fixed_length:
        return (
            f"compares shares of a length, which stopping={stopping.name} leaves open; take stopping=epochs or budget"
        )
    (regime,) = config.regimes
    if not regime.stages(config.split.parts)[-1].budget:
        return f"has no curve to look at, since the last stage of {first} trains nothing; take search.pruner=none"
    if trainer.devices > 1:
        return "cannot reach the processes of a run on several devices; take trainer.devices=1 or search.pruner=none"
    if trainer.curve_points == 1:
        return "looks at the points of the curves on the way, of which there are none; raise trainer.curve_points"
    if not trainer.checkpoint_seconds:
        return "would lose what was trained, as trainer.checkpoint_seconds=0 keeps nothing half-way; take e.g. 60"
    if trainer.precision == "16-mixed":
        return "would lose what was trained, as trainer.precision=16-mixed keeps nothing half-way; take bf16-mixed"
    return None


def validation_metrics(config: Config) -> list[str]:
    """What cells like `config` can be selected by: ``val/union/accuracy``, ...; the usual one first."""
    sets = ["union", *(f"d{part}" for part, size in enumerate(config.split.dataset_sizes(), start=1) if size)]
    return [f"val/{name}/{kind}" for name in sets for kind in _kinds(config)]


def _kinds(config: Config) -> list[str]:
    return ["loss"] if config.data.is_regression else ["accuracy", "loss"]
