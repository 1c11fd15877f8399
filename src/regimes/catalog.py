"""The regimes: each a short function from the number of data sets in the stream to a list of stages.

Nothing but its stages differs between regimes: one training loop, one evaluation, one way to count. A regime's keyword
arguments are its knobs; their defaults are the catalog's, repeated in conf/regime/NAME.yaml for reading.
"""

from __future__ import annotations

from collections.abc import Callable

from src.regimes.stage import Mixture, Stage, Start


def sequential(n_parts: int, *, reset_optimizer: bool = True, lr_factor: float = 1.0) -> list[Stage]:
    """Dataset 1, then 2, ..., weights kept: naive fine-tuning, the field's lower bound.

    `reset_optimizer`: forget momentum at every boundary; `lr_factor`: on the learning rate of every stage but the first.
    """
    first = Stage(mixture=Mixture(parts=(0,)))
    return [first] + [
        Stage(
            mixture=Mixture(parts=(part,)),
            start=Start(kind="previous", of=(part - 1,)),
            reset_optimizer=reset_optimizer,
            lr_factor=lr_factor,
        )
        for part in range(1, n_parts)
    ]


def combined(n_parts: int) -> list[Stage]:
    """A fresh model on the union of all data sets: joint (offline) training, the field's upper bound."""
    return [Stage(mixture=Mixture(parts=tuple(range(n_parts))))]


def d1_only(n_parts: int) -> list[Stage]:
    """A fresh model on Dataset 1 alone: what sequential has after its first stage."""
    del n_parts
    return [Stage(mixture=Mixture(parts=(0,)))]


def d2_only(n_parts: int) -> list[Stage]:
    """A fresh model on Dataset 2 alone: what training without Dataset 1 would give."""
    assert n_parts >= 2
    return [Stage(mixture=Mixture(parts=(1,)))]


REGIMES: dict[str, Callable[..., list[Stage]]] = {
    "sequential": sequential,
    "combined": combined,
    "d1_only": d1_only,
    "d2_only": d2_only,
}
