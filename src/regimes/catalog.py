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
