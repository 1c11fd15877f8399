"""Every regime yields the stages that docs/REGIMES.md lists, and refuses knobs without meaning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from src.config import parse_regime
from src.config.plugins import knobs_of
from src.errors import ConfigError
from src.regimes.catalog import REGIMES
from src.regimes.parts import Stages, chain, shared_knobs
from src.regimes.stage import Mixture, Stage
from src.typed import hints_of


def sketch(stages: Sequence[Stage]) -> str:
    """Stages in short notation: data sets, shares, source of the weights (stages counted from 1), special settings."""
    return " | ".join(_sketch(stage) for stage in stages)


def _sketch(stage: Stage) -> str:
    mixture, start = stage.mixture, stage.start
    text = "+".join(str(part + 1) for part in mixture.parts)
    if mixture.shares is not None:
        text += " at " + ":".join(f"{share:g}" for share in mixture.shares) + (" balanced" if mixture.balanced else "")
    if mixture.chunk is not None:
        text += f" piece {mixture.chunk[0] + 1}/{mixture.chunk[1]}"
    if mixture.memory is not None:
        text += f" of {mixture.memory} {mixture.kept}"
    text += " evenly" * mixture.even
    if mixture.repeats > 1:
        text += f" each {mixture.piece} {mixture.repeats} times"
    if start.kind != "fresh":
        text += f" from {start.path or ','.join(f'{k + 1}' for k in start.of)}"
    if start.kind == "average":
        text += " by " + ":".join(f"{weight:g}" for weight in start.weights)
    if start.kind == "dash":
        text += f" shrunk to {start.shrink:g}"
    if start.kind == "shrink_perturb":
        text += f" x{start.shrink:g}+{start.perturb:g}"
    if stage.trainable.kind != "all":
        text += f" {stage.trainable.kind} {stage.trainable.pattern or stage.trainable.layers}"
    if stage.penalty.kind != "none":
        of = "w0" if stage.penalty.of is None else stage.penalty.of + 1
        text += f" {stage.penalty.kind} {stage.penalty.strength:g} to {of}"
    if stage.targets.kind != "labels":
        text += f" {stage.targets.kind} of {','.join(f'{k + 1}' for k in stage.targets.of)}"
    if stage.counts_as is not None:
        text += " as " + "+".join(str(part + 1) for part in stage.counts_as)
    return text + (f" for {stage.budget:g}" if stage.budget not in (0, 1) else "" if stage.budget else " untrained")


STAGES = [
    ("sequential", {}, "1 | 2 from 1", "1 | 2 from 1 | 3 from 2"),
    ("combined", {}, "1+2", "1+2+3"),
    ("d1_only", {}, "1", "1"),
    ("d2_only", {}, "2", "2"),
    ("reverse", {}, "2 | 1 from 1", "3 | 2 from 1 | 1 from 2"),
    (
        "replay",
        {"share": 0.2, "balanced": True},
        "1 | 1+2 at 0.2:0.8 balanced from 1 as 2",
        "1 | 1+2 at 0.2:0.8 balanced from 1 as 2 | 1+2+3 at 0.1:0.1:0.8 balanced from 2 as 3",
    ),
    (
        "replay",
        {"share": 0.2, "memory": 9, "kept": "balanced", "even": True},
        "1 | 1+2 at 0.2:0.8 of 9 balanced evenly from 1 as 2",
        "1 | 1+2 at 0.2:0.8 of 9 balanced evenly from 1 as 2 | 1+2+3 at 0.1:0.1:0.8 of 9 balanced evenly from 2 as 3",
    ),
    (
        "self_replay",
        {"share": 0.2},
        "1 | 1+2 at 0.2:0.8 from 1 model of 1 as 2",
        "1 | 1+2 at 0.2:0.8 from 1 model of 1 as 2 | 1+2+3 at 0.1:0.1:0.8 from 2 model of 2,2 as 3",
    ),
    (
        "der",
        {},
        "1 | 1+2 at 0.5:0.5 of 200 reservoir evenly from 1 outputs of 1 as 2",
        "1 | 1+2 at 0.5:0.5 of 200 reservoir evenly from 1 outputs of 1 as 2"
        " | 1+2+3 at 0.25:0.25:0.5 of 200 reservoir evenly from 2 outputs of 1,2 as 3",
    ),
    ("gdumb", {"memory": 9}, "1+2 of 9 greedy", "1+2+3 of 9 greedy"),
    ("rebalanced", {"share": 0.4}, "1+2 at 0.6:0.4 as 1+2", "1+2+3 at 0.3:0.3:0.4 as 1+2+3"),
    ("chunked", {"n_chunks": 2}, "1+2 piece 1/2 | 1+2 piece 2/2 from 1", "1+2+3 piece 1/2 | 1+2+3 piece 2/2 from 1"),
    ("blocks", {"repeats": 3, "piece": 4}, "1+2 each 4 3 times", "1+2+3 each 4 3 times"),
    ("warm_start", {}, "1 | 1+2 from 1", "1 | 1+2 from 1 | 1+2+3 from 2"),
    ("joint_then_new", {}, "1+2 | 2 from 1", "1+2+3 | 3 from 1"),
    ("new_then_joint", {}, "2 | 1+2 from 1", "3 | 1+2+3 from 1"),
    ("dash", {}, "1 | 1+2 from 1 shrunk to 0.3", "1 | 1+2 from 1 shrunk to 0.3 | 1+2+3 from 2 shrunk to 0.3"),
    (
        "model_soup",
        {"weight": 0.2},
        "1 | 2 from 1 | 1+2 from 1,2 by 0.8:0.2 untrained",
        "1 | 2 from 1 | 3 from 2 | 1+2+3 from 1,3 by 0.8:0.2 untrained",
    ),
    ("shrink_perturb", {}, "1 | 1+2 from 1 x0.4+0.1", "1 | 1+2 from 1 x0.4+0.1 | 1+2+3 from 2 x0.4+0.1"),
    (
        "average",
        {"weight": 0.2},
        "1 | 2 | 1+2 from 1,2 by 0.8:0.2 untrained",
        "1 | 2 | 3 | 1+2+3 from 1,2,3 by 0.4:0.4:0.2 untrained",
    ),
    ("freeze", {}, "1 | 2 from 1 last 1", "1 | 2 from 1 last 1 | 3 from 2 last 1"),
    ("freeze", {"first": 2}, "1 | 2 from 1 after 2", "1 | 2 from 1 after 2 | 3 from 2 after 2"),
    (
        "freeze",
        {"pattern": "^head"},
        "1 | 2 from 1 pattern ^head",
        "1 | 2 from 1 pattern ^head | 3 from 2 pattern ^head",
    ),
    (
        "lp_ft",
        {"probe": 0.25},
        "1 | 2 from 1 last 1 for 0.25 | 2 from 2 for 0.75",
        "1 | 2 from 1 last 1 for 0.25 | 2 from 2 for 0.75 | 3 from 3 last 1 for 0.25 | 3 from 4 for 0.75",
    ),
    (
        "l2_init",
        {},
        "1 l2_init 0.01 to w0 | 2 from 1 l2_init 0.01 to w0",
        "1 l2_init 0.01 to w0 | 2 from 1 l2_init 0.01 to w0 | 3 from 2 l2_init 0.01 to w0",
    ),
    ("lwf", {"by_tasks": True}, "1 | 2 from 1 lwf 4 to 1", "1 | 2 from 1 lwf 4 to 1 | 3 from 2 lwf 8 to 2"),
    ("ewc", {}, "1 | 2 from 1 ewc 1 to 1", "1 | 2 from 1 ewc 1 to 1 | 3 from 2 ewc 1 to 2"),
    ("l2_sp", {}, "1 | 2 from 1 l2_sp 0.1 to 1", "1 | 2 from 1 l2_sp 0.1 to 1 | 3 from 2 l2_sp 0.1 to 2"),
    ("lwf", {}, "1 | 2 from 1 lwf 1 to 1", "1 | 2 from 1 lwf 1 to 1 | 3 from 2 lwf 1 to 2"),
    ("sequential", {"checkpoint": "old.pt"}, "1 from old.pt untrained | 2 from 1", None),
    ("warm_start", {"checkpoint": "old.pt"}, "1 from old.pt untrained | 1+2 from 1", None),
]


@pytest.mark.parametrize(("name", "knobs", "of_two", "of_three"), STAGES, ids=lambda value: str(value)[:40])
def test_stages(name: str, knobs: dict[str, object], of_two: str, of_three: str | None) -> None:
    """The stages of a stream of two data sets and of three."""
    assert sketch(REGIMES[name](2, **knobs)) == of_two
    if of_three is not None:
        assert sketch(REGIMES[name](3, **knobs)) == of_three


def test_every_regime_is_in_the_table() -> None:
    """A new regime gets its line above."""
    assert {name for name, *_ in STAGES} == set(REGIMES)


CONTINUING = tuple(
    sorted(name for name in REGIMES if len(sketch(REGIMES[name](2)).split("from")) > 1 and name != "average")
)
"""Regimes of which a later stage trains on from an earlier one's weights."""


@pytest.mark.parametrize("name", CONTINUING)
def test_the_rate_and_the_optimizer_state_of_every_stage_but_the_first(name: str) -> None:
    plain, slower = (REGIMES[name](3, **knobs) for knobs in ({}, {"lr_factor": 0.1}))
    trained = [stage.lr_factor for stage in slower if stage.budget]
    assert trained == [1.0, *[0.1] * (len(trained) - 1)]
    assert len(trained) > 1
    assert sketch(slower) == sketch(plain)
    with pytest.raises(ConfigError, match=rf"^regime\.{name}\.lr_factor=0\.0: must be above 0"):
        parse_regime({name: {"lr_factor": 0.0}}, 2)
    kept = [stage.reset_optimizer for stage in REGIMES[name](3, reset_optimizer=False) if stage.budget]
    assert kept == [True, *[False] * (len(kept) - 1)]


WITHOUT_MEANING = [
    ("replay", {"share": 1.0}, "share"),
    ("replay", {"share": -0.1}, "share"),
    ("replay", {"memory": 0}, "memory"),
    ("replay", {"kept": "balanced"}, "kept"),
    ("self_replay", {"share": 1.0}, "share"),
    ("der", {"strength": -1.0}, "strength"),
    ("der", {"strength": 0.0}, "strength"),
    ("der", {"labels": -1.0}, "labels"),
    ("gdumb", {"memory": 0}, "memory"),
    ("dash", {"floor": 0.0}, "floor"),
    ("dash", {"alpha": 1.5}, "alpha"),
    ("model_soup", {"weight": -0.5}, "weight"),
    ("lp_ft", {"probe": 1.5}, "probe"),
    ("l2_init", {"strength": -1.0}, "strength"),
    ("rebalanced", {"share": 0.0}, "share"),
    ("chunked", {"n_chunks": 0}, "n_chunks"),
    ("blocks", {"repeats": 0}, "repeats"),
    ("blocks", {"piece": 0}, "piece"),
    ("shrink_perturb", {"shrink": -1.0}, "shrink"),
    ("shrink_perturb", {"perturb": -1.0}, "perturb"),
    ("average", {"weight": 1.5}, "weight"),
    ("freeze", {"layers": 0}, "layers"),
    ("freeze", {"first": 0}, "first"),
    ("freeze", {"first": 1, "layers": 2}, "freeze"),
    ("freeze", {"first": 1, "pattern": "head"}, "freeze"),
    ("freeze", {"pattern": "("}, "pattern"),
    ("ewc", {"strength": -1.0}, "strength"),
    ("l2_sp", {"strength": -1.0}, "strength"),
    ("lwf", {"temperature": 0.0}, "temperature"),
    ("warm_start", {"checkpoint": "absent.pt"}, "checkpoint"),
]


@pytest.mark.parametrize(("name", "knobs", "key"), WITHOUT_MEANING, ids=str)
def test_knobs_without_meaning_are_refused(name: str, knobs: dict[str, object], key: str) -> None:
    """An invalid knob is refused when the configuration is parsed, with the knob's name."""
    with pytest.raises(ConfigError, match=rf"^regime\.{name}.*{key}|^regime\.{name}="):
        parse_regime({name: knobs}, 2)


def test_a_regime_of_ones_own_can_have_the_shared_knobs() -> None:
    """They follow its own in the signature, apply to its stages, and are refused under its name."""

    @shared_knobs(checkpoint=True)
    def mine(n_parts: int, *, rounds: int = 1) -> Stages:
        return chain([Mixture(parts=(part,)) for part in range(n_parts)] * rounds)

    assert knobs_of(mine) == {"rounds": 1, "reset_optimizer": True, "lr_factor": 1.0, "checkpoint": None}
    assert [hints_of(mine)[knob] for knob in knobs_of(mine)] == [int, bool, float, str | None]
    assert sketch(mine(2, rounds=2, checkpoint="a.pt")).startswith("1 from a.pt")
    assert [stage.lr_factor for stage in mine(2, rounds=2, lr_factor=0.5)] == [1.0, 0.5, 0.5, 0.5]
    assert [stage.reset_optimizer for stage in mine(2, reset_optimizer=False)] == [True, False]
    with pytest.raises(ConfigError, match=r"regime\.mine\.lr_factor=0"):
        mine(2, lr_factor=0)


def test_the_shared_knobs_keep_what_a_regime_says_itself() -> None:
    @shared_knobs(checkpoint=False)
    def mine(n_parts: int) -> Stages:
        return chain([Mixture(parts=(part,)) for part in range(n_parts)], reset_optimizer=False)

    assert [stage.reset_optimizer for stage in mine(2)] == [True, False]
    assert [stage.reset_optimizer for stage in mine(2, reset_optimizer=True)] == [True, False]
