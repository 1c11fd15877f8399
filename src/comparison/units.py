"""How a metric is shown: accuracies as percentages, their differences as points, losses as they are."""

from __future__ import annotations

from dataclasses import dataclass

LOWER_IS_BETTER = frozenset({"loss", "ece", "forgetting", "risk", "excess_risk"})
AS_THEY_ARE = frozenset({"loss", "risk", "excess_risk"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Scale and words of one metric. `value` and `difference` format a number of the metric with fixed decimals."""

    scale: float
    of_values: str
    of_differences: str
    decimals: int
    higher_is_better: bool

    def value(self, number: float | None) -> str:
        return "-" if number is None else f"{self.scale * number:.{self.decimals}f}"

    def difference(self, number: float | None) -> str:
        """With its sign; what rounds to zero has none."""
        if number is None:
            return "-"
        text = f"{self.scale * number:+.{self.decimals}f}"
        return text[1:] if float(text) == 0 else text

    def interval(self, low: float | None, high: float | None) -> str:
        return "-" if low is None or high is None else f"[{self.difference(low)}, {self.difference(high)}]"


def unit_of(metric: str) -> Unit:
    """Unit of a metric by the last word of its name: ``test/union/accuracy`` is shown in percent and points."""
    parts = metric.split("/")
    word = parts[-2] if len(parts) > 2 and parts[-2] == "recall" else parts[-1]
    better = word not in LOWER_IS_BETTER
    if word in AS_THEY_ARE:
        return Unit(scale=1.0, of_values="", of_differences="", decimals=4, higher_is_better=better)
    return Unit(scale=100.0, of_values="%", of_differences="points", decimals=1, higher_is_better=better)


def name_of(metric: str) -> str:
    """A metric in words: ``test/union/balanced_accuracy`` is "balanced accuracy on union"."""
    parts = metric.replace("_", " ").split("/")
    if parts[0] in ("test", "val") and len(parts) >= 3:
        where = parts[1] if parts[0] == "test" else f"{parts[1]} (validation)"
        what = f"recall of class {parts[3]}" if parts[2] == "recall" and len(parts) > 3 else parts[2]
        return f"{what} on {where}"
    return " ".join(parts[::-1])
