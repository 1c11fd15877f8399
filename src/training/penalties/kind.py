"""The interface of a kind of penalty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from torch import nn

from src.config import Config
from src.training.devices import Device
from src.training.plan import Node, StagePlan
from src.training.replicas import ModelState, PenaltyTerm
from src.training.result import StageResult
from src.training.starting import loaded_model


@dataclass(frozen=True, eq=False)
class PenaltyContext:
    """What a penalty may use: the cell's plan and the results of earlier stages.

    `fishers`: a cache of Fisher information over the groups of a plan.
    """

    config: Config
    plan: StagePlan
    results: Mapping[str, StageResult]
    fishers: MutableMapping[str, ModelState]
    device: Device

    def model(self, node: Node) -> nn.Module:
        """The network at the end of a stage, on the CPU."""
        return loaded_model(self.config, node, self.results[node.key].weights, self.device.dtype)


class PenaltyKind(ABC):
    """Makes the penalties of one kind, for the value of `kind` in a stage's `PenaltyTerm`."""

    @abstractmethod
    def make(self, context: PenaltyContext, nodes: Sequence[Node], anchors: Sequence[Node]) -> PenaltyTerm:
        """The penalty of a group; `anchors`: for each of its stages the earlier stage that it is held near to, or
        nothing if that is the initial weights."""

    def extra_passes(self, plan: StagePlan, node: Node, samples: int) -> float:
        """Its cost besides the updates, in forward and backward passes of one sample (a forward pass is a third of
        one).

        `samples`: seen in the stage's updates.
        """
        return 0.0
