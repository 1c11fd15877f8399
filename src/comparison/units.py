"""How a metric is displayed: accuracies in percent, their differences in points, losses and risks unscaled."""

from __future__ import annotations

import functools
from dataclasses import dataclass

UNSCALED = frozenset({"loss", "risk", "excess_risk", "rmse", "mae", "perplexity"})
ERROR_RATES = frozenset({"ece", "error", "wer", "cer", "forgetting"})
LOWER_IS_BETTER = UNSCALED | ERROR_RATES
RATES = frozenset({"accuracy", "balanced_accuracy", "recall", "precision", "f1", "map", "iou", "auc"})
"""Shares whose larger values are better."""
ROUNDING_NOISE = 1e-9
"""Effects below are sums of double precision that cancel: metrics have sizes near 1."""

LARGE = 100_000.0
"""From here on a number is shown with an exponent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Scale, labels and number of decimals of one metric."""

    scale: float
    of_values: str
    of_differences: str
    decimals: int
    higher_is_better: bool

    @property
    def sign(self) -> int:
        """1, or -1 where lower values are better: times it, larger is better."""
        return 1 if self.higher_is_better else -1

    @property
    def points(self) -> str:
        """The unit of differences as a suffix of a heading."""
        return f", {self.of_differences}" if self.of_differences else ""

    def value(self, value: float | None) -> str:
        return "-" if value is None else self._text(self.scale * value)

    def difference(self, difference: float | None) -> str:
        """The difference with its sign; without one if it rounds to zero."""
        if difference is None:
            return "-"
        text = self._text(self.scale * difference, "+")
        return text[1:] if float(text) == 0 else text

    def _text(self, number: float, sign: str = "") -> str:
        """Fixed decimals; of the loss of a collapsed run, four digits."""
        return f"{number:{sign}.{self.decimals}f}" if abs(number) < LARGE else f"{number:{sign}.3e}"

    def interval(self, low: float | None, high: float | None) -> str:
        return "-" if low is None or high is None else f"[{self.difference(low)}, {self.difference(high)}]"

    def estimate(self, difference: float | None, low: float | None, high: float | None) -> str:
        """A difference with its interval, if there is one."""
        return self.difference(difference) + ("" if low is None else f" {self.interval(low, high)}")


@functools.lru_cache
def unit_of(metric: str) -> Unit:
    """The unit of a metric, from the last part of its name: ``test/union/accuracy`` is displayed in percent.

    Recorded metrics may have any name: ``NAME_loss`` and ``NAME_score`` are displayed as they are.
    """
    parts = metric.split("/")
    kind = "recall" if "recall" in parts[-2:] and len(parts) > 2 else parts[-1].lower()
    better = kind not in LOWER_IS_BETTER and not kind.endswith("_loss")
    if kind in UNSCALED or kind == "r2" or kind.endswith(("_loss", "_score")):
        return Unit(scale=1.0, of_values="", of_differences="", decimals=4, higher_is_better=better)
    return Unit(scale=100.0, of_values="%", of_differences="points", decimals=1, higher_is_better=better)


def name_of(metric: str) -> str:
    """A metric in words: ``test/union/balanced_accuracy`` is "balanced accuracy on union"."""
    parts = metric.replace("_", " ").split("/")
    parts[-1] = {"rmse": "RMSE", "r2": "R2"}.get(parts[-1], parts[-1])
    if parts[0] in ("test", "val") and len(parts) >= 3:
        kind = f"recall of class {parts[3]}" if parts[2] == "recall" and len(parts) > 3 else parts[2]
        return f"{kind} on {parts[1]}" + (" (validation)" if parts[0] == "val" else "")
    return " ".join(reversed(parts))


def set_title(name: str) -> str:
    """An evaluation set in words: ``d1`` is "Dataset 1", ``old`` the classes that Dataset 1 has."""
    words = {"union": "union of the data sets", "old": "old classes", "new": "new classes"}
    return words.get(name) or f"Dataset {name[1:]}"


def format_effect(effect: float | None) -> str:
    """An effect in a unit of its own, with its sign and three significant digits; "0" for rounding noise."""
    if effect is None:
        return "-"
    return "0" if abs(effect) < ROUNDING_NOISE else f"{effect:+.3g}"


def format_interval(low: float | None, high: float | None) -> str:
    """The interval of such an effect."""
    return "-" if low is None or high is None else f"[{format_effect(low)}, {format_effect(high)}]"


def format_p(p: float | None) -> str:
    """A p-value with three decimals, or as an upper bound below that."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def p_equals(p: float) -> str:
    """A p-value in a sentence."""
    return "p < 0.001" if p < 0.0005 else f"p = {format_p(p)}"
