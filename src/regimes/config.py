"""A regime as it is configured: its name and the knobs that differ from the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class RegimeConfig:
    """A regime and its knobs that differ from the catalog's defaults, sorted by name: equal recipes are equal objects."""

    name: str
    knobs: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The regime as it is shown and stored: ``sequential``, ``replay(share=0.05)``."""
        shown = {key: value[:8] if key == "checkpoint" else value for key, value in self.content().items()}
        inner = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.name}({inner})" if inner else self.name

    def content(self) -> dict[str, Any]:
        """The knobs by what they stand for: of a file ``path@digest`` the digest, wherever it lies."""
        return {key: value.rpartition("@")[2] if key == "checkpoint" else value for key, value in self.knobs}
