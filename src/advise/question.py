"""What the user asks: the serving mix, prices and values, and the budget of the advice; the keys of
conf/advice/question.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.comparison.units import unit_of
from src.errors import ConfigError
from src.io import CONF_DIR
from src.typed import bounds, build

SETS = ("d1", "d2", "union")
METRICS = ("accuracy", "balanced_accuracy", "loss")
SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}
MAX_ARRIVALS = 12
AUTO_SECONDS, AUTO_SHARE = 60.0, 0.25
"""budget=auto: this share, or this much training if that is more: small data need no thrift."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    hour: float = field(metadata=bounds(ge=0))
    """Price of an hour of the machine that trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    point: float | None = field(metadata=bounds(gt=0))
    """Worth of a point of the metric, in the currency of the price; null: the metric alone decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What the advice may spend: seconds of training, a share of training all candidates in full, or the larger."""

    seconds: float | None = None
    share: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The keys of `python -m src.advise` beyond those of a sweep."""

    serve: Any
    metric: str
    margin: float | None = field(metadata=bounds(gt=0))
    budget: Any
    price: Price
    value: Worth
    checkpoint: Any
    arrivals: Any
    go: bool

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError("metric", self.metric, f"is unknown; choose one of {', '.join(METRICS)}")
        if self.value.point is not None and not self.price.hour:
            raise ConfigError("value.point", self.value.point, "is weighed against costs; give price.hour=... too")
        if self.arrivals is not None:
            self._check_arrivals()
        self.mix()
        self.allowance()

    def _check_arrivals(self) -> None:
        sizes, problem = self.arrivals, ""
        if not isinstance(sizes, list) or not sizes or any(type(n) is not int or n < 1 for n in sizes):
            problem = "must list the training samples of each arrival, e.g. arrivals=[200,200]"
        elif len(sizes) > MAX_ARRIVALS:
            problem = f"has more than {MAX_ARRIVALS} batches; leave out the last ones"
        elif self.value.point is None or not self.price.hour:
            problem = "weighs points against training; give price.hour=... and value.point=... (until the next arrival)"
        if problem:
            raise ConfigError("arrivals", sizes, problem)

    def mix(self) -> dict[str, float]:
        """The share of each test set in what the deployed model will see."""
        if isinstance(self.serve, str) and self.serve in SETS:
            return {self.serve: 1.0}
        fix = "must be d1, d2, union or shares such as {d1:0.3,d2:0.7}"
        if not isinstance(self.serve, Mapping) or not self.serve:
            raise ConfigError("serve", self.serve, fix)
        for name, share in self.serve.items():
            if name not in SETS or isinstance(share, bool) or not isinstance(share, int | float) or share < 0:
                raise ConfigError("serve", dict(self.serve), fix)
        if abs(sum(self.serve.values()) - 1) > 1e-6:
            raise ConfigError("serve", dict(self.serve), "has shares that do not sum to 1; make them")
        return {str(name): float(share) for name, share in self.serve.items() if share}

    def allowance(self) -> Budget:
        """The budget as a number. Raises ConfigError."""
        if self.budget == "auto":
            return Budget(seconds=AUTO_SECONDS, share=AUTO_SHARE)
        found = re.fullmatch(r"([0-9.]+)\s*(%|s|sec|min|h)", str(self.budget).strip())
        try:
            amount = float(found[1]) if found else 0.0
        except ValueError:
            amount = 0.0
        if not found or amount <= 0:
            raise ConfigError("budget", self.budget, "must be a time or a share, e.g. budget=10min or budget=25%")
        return Budget(share=amount / 100) if found[2] == "%" else Budget(seconds=amount * SECONDS[found[2]])

    @property
    def served(self) -> str:
        """The serving mix in words."""
        words = {"d1": "Dataset 1", "d2": "Dataset 2", "union": "both data sets together"}
        mix = self.mix()
        if len(mix) == 1:
            return words[next(iter(mix))]
        return " and ".join(f"{100 * share:.3g} % {words[name]}" for name, share in mix.items())

    @property
    def is_error(self) -> bool:
        """Whether lower values of the metric are better."""
        return not unit_of(self.metric).higher_is_better

    def margin_at(self, best: float) -> float:
        """The difference in points that does not matter, given the best prediction: by default 1 point (loss: 2 %)."""
        if self.margin is not None:
            return self.margin
        return 0.02 * abs(best) if self.is_error else 1.0


def split_arguments(arguments: Sequence[str]) -> tuple[Question, list[str]]:
    """The question, and the arguments that are settings of the training. Raises ConfigError."""
    given: dict[str, Any] = yaml.safe_load((CONF_DIR / "advice" / "question.yaml").read_text(encoding="utf-8"))
    rest = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        group, _, name = key.partition(".")
        if not equals:
            raise ConfigError("advise", argument, "is no setting; write key=value, e.g. serve=d2 budget=10min")
        if key in given and not isinstance(given[key], dict):
            given[key] = _value(argument)
        elif isinstance(given.get(group), dict):
            if not name:
                keys = ", ".join(f"{key}.{k}" for k in given[key])
                raise ConfigError(key, argument.partition("=")[2], f"is a group; give {keys}")
            given[group] = {**given[group], name: _value(argument)}
        else:
            rest.append(argument)
    return build(Question, given, ""), rest


def _value(argument: str) -> Any:
    """A value in Hydra's grammar; a share needs no quotes."""
    if re.fullmatch(r"budget=[0-9.]+%", argument):
        return argument.partition("=")[2]
    parsed = OverridesParser.create().parse_override(argument)
    if parsed.is_sweep_override():
        raise ConfigError(parsed.key_or_group, argument.partition("=")[2], "takes one value here")
    return parsed.value()
