"""The regimes: each is a short function from the number of data sets in the stream to a list of stages.

Regimes differ only in their stages. The keyword arguments of a regime are its knobs, with defaults that
conf/regime/NAME.yaml repeats. Knobs that switch the method off (a replay share of 0, a penalty of 0) give the stages of
the plain regime, and thus the same runs. docs/REGIMES.md has the tables, the sources and every deviation from them.
Common knobs, which `shared_knobs` adds: `checkpoint` is a file of weights (.pt, .pth, .safetensors) in place of the
stage on Dataset 1; `reset_optimizer` clears the optimizer's state at every boundary; `lr_factor` multiplies the
learning rate of every stage but the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from src.regimes.checkpoint import parts_of
from src.regimes.mixtures import blocks, chunked, der, gdumb, rebalanced, replay, self_replay
from src.regimes.parts import Stages
from src.regimes.plain import combined, d1_only, d2_only, reverse, sequential
from src.regimes.restricted import ewc, freeze, l2_init, l2_sp, lp_ft, lwf
from src.regimes.weights import average, dash, joint_then_new, model_soup, new_then_joint, shrink_perturb, warm_start

PLAIN = (sequential, combined, d1_only, d2_only, reverse)
MIXTURES = (replay, self_replay, der, gdumb, rebalanced, chunked, blocks)
WEIGHTS = (warm_start, joint_then_new, new_then_joint, shrink_perturb, dash, average, model_soup)
RESTRICTED = (freeze, lp_ft, ewc, l2_sp, l2_init, lwf)
REGIMES: dict[str, Callable[..., Stages]] = {
    regime.__name__: regime for regime in (*PLAIN, *MIXTURES, *WEIGHTS, *RESTRICTED)
}


@dataclass(frozen=True, slots=True, order=True)
class RegimeConfig:
    """A regime and its knobs that differ from the catalog's defaults, sorted by name: equal recipes are equal objects.

    A knob with a dot replaces a setting of the cell in this regime alone: ``optimizer.lr``.
    """

    name: str
    knobs: tuple[tuple[str, Any], ...] = ()
    own: Callable[..., Stages] | None = field(default=None, compare=False, repr=False)
    """The regime's function, if it comes from a plugin; None: the catalog's."""
    named: str = field(default="", compare=False)
    """The label, where it does not show the knobs: a tuned regime has one label in all cells."""

    @property
    def function(self) -> Callable[..., Stages]:
        """The regime itself."""
        return REGIMES[self.name] if self.own is None else self.own

    def stages(self, n_parts: int) -> Stages:
        """The stages for a stream of `n_parts` data sets. Raises ConfigError for a knob out of range."""
        return self.function(n_parts, **{knob: value for knob, value in self.knobs if "." not in knob})

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
