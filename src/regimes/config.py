"""A regime as it is configured: its name and the knobs that differ from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from src.regimes.catalog import REGIMES
from src.regimes.checkpoint import parts_of
from src.regimes.stage import Stage


@dataclass(frozen=True, slots=True, order=True)
class RegimeConfig:
    """A regime and its knobs that differ from the catalog's defaults, sorted by name: equal recipes are equal objects.

    A knob with a dot replaces a setting of the cell in this regime alone: ``optimizer.lr``.
    """

    name: str
    knobs: tuple[tuple[str, Any], ...] = ()
    function: Callable[..., list[Stage]] | None = field(default=None, compare=False, repr=False)
    """The regime itself, if it comes from a plugin; None: the catalog's."""
    named: str = field(default="", compare=False)
    """The label, where it does not show the knobs: a tuned regime has one label in all cells."""

    def stages(self, n_parts: int) -> list[Stage]:
        """The stages for a stream of `n_parts` data sets. Raises ConfigError for a knob out of range."""
        function = REGIMES[self.name] if self.function is None else self.function
        return function(n_parts, **{knob: value for knob, value in self.knobs if "." not in knob})

    @property
    def label(self) -> str:
        """The regime as it is shown and stored: ``sequential``, ``replay(share=0.05)``."""
        if self.named:
            return self.named
        shown = {key: value[:8] if key == "checkpoint" else value for key, value in self.content().items()}
        inner = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.name}({inner})" if inner else self.name

    def content(self) -> dict[str, Any]:
        """The knobs by content: for a file its identity, wherever it lies."""
        return {key: parts_of(value).identity if key == "checkpoint" else value for key, value in self.knobs}
