"""Penalties: terms added to a stage's loss that hold it near the end of an earlier stage. One file each."""

from __future__ import annotations

from collections.abc import Sequence

from src.training.penalties.ewc import Ewc, EwcFull
from src.training.penalties.kind import PenaltyContext, PenaltyKind
from src.training.penalties.l2_sp import L2Init, L2Sp
from src.training.penalties.lwf import Lwf
from src.training.plan import Node
from src.training.replicas import PenaltyTerm

PENALTIES: dict[str, PenaltyKind] = {
    "l2_sp": L2Sp(),
    "l2_init": L2Init(),
    "ewc": Ewc(),
    "ewc_full": EwcFull(),
    "lwf": Lwf(),
}


def make_penalty(context: PenaltyContext, nodes: Sequence[Node]) -> PenaltyTerm | None:
    """The penalty of a group of stages; None if they have none."""
    penalty = nodes[0].stage.penalty
    if penalty.kind == "none":
        return None
    anchors = [context.plan.nodes[node.penalty_parent] for node in nodes if node.penalty_parent is not None]
    assert len(anchors) == (0 if penalty.of is None else len(nodes))
    return PENALTIES[penalty.kind].make(context, nodes, anchors)
