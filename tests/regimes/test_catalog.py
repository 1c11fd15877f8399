"""Every regime yields the stages that docs/REGIMES.md lists, refuses knobs without meaning, and, whatever the stopping rule,
keeps its budget to the update, is deterministic, resumes from the store and is bit for bit the same in a group as alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from src.config import Config, compose, parse_regime
from src.errors import ConfigError
from src.regimes.catalog import REGIMES
from src.regimes.stage import Stage
from src.training.starting import initial_model
from tests.training.cells import differences, executed, planned, tiny, with_replicas

# ------------------------------------------------------------------------------------------------ stages


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


# ------------------------------------------------------------------------------------------------ equivalences

EQUAL = [
    ("{replay:{share:0}}", "sequential"),
    ("{chunked:{n_chunks:1}}", "combined"),
    ("{blocks:{repeats:1,piece:5}}", "combined"),
    ("{shrink_perturb:{shrink:1,perturb:0}}", "warm_start"),
    ("{ewc:{strength:0}}", "sequential"),
    ("{l2_sp:{strength:0}}", "sequential"),
    ("{lwf:{strength:0}}", "sequential"),
    ("{l2_init:{strength:0}}", "sequential"),
    ("{self_replay:{share:0}}", "sequential"),
    ("{der:{share:0}}", "sequential"),
    ("{model_soup:{weight:1}}", "sequential"),
    ("{lp_ft:{probe:0}}", "sequential"),
    ("{lp_ft:{probe:1}}", "freeze"),
    ("{dash:{floor:1}}", "warm_start"),
    ("{gdumb:{memory:null}}", "combined"),
    ("{gdumb:{memory:1000}}", "combined"),
    ("{replay:{memory:60}}", "replay"),
    ("{der:{strength:0,labels:1,memory:20}}", "{replay:{share:0.5,memory:20,even:true}}"),
]
RULES = {
    "epochs": ["stopping.epochs=2"],
    "updates": ["stopping=budget", "stopping.epochs=2", "stopping.match=updates"],
    "early_stopping": ["stopping=early_stopping", "stopping.max_epochs=4", "stopping.patience=1"],
    "convergence": ["stopping=convergence", "stopping.max_epochs=4", "stopping.tolerance=0.8"],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_regime_without_its_method_is_the_plain_one(rule: str) -> None:
    """The very same stages by content, hence the very same result, bit for bit, for every stopping rule."""
    regimes = [word for pair in EQUAL for word in pair]
    names = "[" + ",".join(dict.fromkeys(regimes)) + "]"
    config = tiny(f"regimes={names}", "seeds=1", *RULES[rule])
    stages = {run.regime: run.stages for run in planned(config).runs}
    chosen = dict(zip(dict.fromkeys(regimes), config.regimes, strict=True))
    for special, plain in EQUAL:
        assert stages[chosen[special]] == stages[chosen[plain]], special


def test_an_empty_second_data_set_adds_no_stage() -> None:
    """Without Dataset 2, regimes that continue on Dataset 2 equal Dataset 1 alone, stage by stage."""
    regimes = ["sequential", "reverse", "replay", "freeze", "ewc", "l2_sp", "lwf", "combined", "rebalanced"]
    plan = planned(tiny(f"regimes=[d1_only,{','.join(regimes)}]", "seeds=1", "split.size=null", "split.sizes=[30,0]"))
    alone = plan.runs[0].stages
    assert all(run.stages == alone for run in plan.runs)


# ------------------------------------------------------------------------------------------------ conformance


def every_regime(rule: str) -> Config:
    """All regimes at their defaults, and where a default hides something, at another value too."""
    names = ",".join([*REGIMES, "{replay:{share:0.5,balanced:true}}", "{freeze:{first:1}}", "{chunked:{n_chunks:5}}"])
    names += ",{gdumb:{memory:20}},{der:{memory:9,labels:0.5}},{replay:{memory:9,kept:balanced,even:true}}"
    return tiny(f"regimes=[{names}]", "seeds=2", "optimizer.batch_size=8", "optimizer.momentum=0.9", *RULES[rule])


@pytest.mark.parametrize("rule", RULES)
def test_conformance(rule: str, tmp_path: Path) -> None:
    """Every regime under one stopping rule: all train, a group equals its single models, and the store returns all stages."""
    config = every_regime(rule)
    plan, together = executed(config, tmp_path / "together")
    assert not together.failures
    _, alone = executed(with_replicas(config, 1), tmp_path / "alone")
    _, again = executed(config, tmp_path / "together")
    assert again.trained == set()
    for key in plan.nodes:
        assert differences(together.results[key], alone.results[key]) == [], plan.nodes[key].stage
        assert differences(together.results[key], again.results[key]) == [], plan.nodes[key].stage
    for key, node in plan.nodes.items():  # the budget is kept to the update
        ledger = together.results[key].ledger
        assert ledger.updates <= node.length.updates
        if ledger.stopped_by in ("length", "cap"):
            assert (ledger.updates, ledger.samples) == (node.length.updates, node.length.samples)
    if rule == "updates":
        total = 2 * 2 * 4  # epochs x data sets x updates of a pass over 30 samples
        assert {sum(plan.nodes[key].length.updates for key in run.stages) for run in plan.runs} == {total}


def test_a_model_of_the_average_is_that_of_its_data_set() -> None:
    """All weight on one model is that model."""
    names = "[d1_only,d2_only,{average:{weight:0}},{average:{weight:1}}]"
    plan, execution = executed(tiny(f"regimes={names}", "seeds=1"))
    first, second, none, all_of_it = (execution.results[run.stages[-1]].weights for run in plan.runs)
    for name in first:
        torch.testing.assert_close(none[name], first[name], rtol=0, atol=0)
        torch.testing.assert_close(all_of_it[name], second[name], rtol=0, atol=0)


@pytest.mark.parametrize("arch", [["arch=mlp", "arch.widths=[8,8]"], ["arch=cnn", "arch.widths=[2,4]"]])
def test_frozen_layers_do_not_move(arch: list[str]) -> None:
    """Stage 2 of freeze leaves every parameter as it was but those of the last layer."""
    plan, execution = executed(tiny("regimes=[freeze]", "seeds=1", "optimizer.weight_decay=0.01", *arch))
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}


def test_self_replay_of_a_network_that_is_right_is_replay() -> None:
    """Labels that equal the true ones give the very weights of replay; those of a bad network do not."""
    names = "regimes=[self_replay,replay]"
    fitted = tiny(names, "seeds=1", "stopping=convergence", "stopping.max_epochs=200", "stopping.tolerance=0.01")
    for config, is_right in ((fitted, True), (tiny(names, "seeds=1", "stopping.epochs=1"), False)):
        plan, execution = executed(config)
        own, true = (execution.results[run.stages[-1]].weights for run in plan.runs)
        assert all(torch.equal(own[name], true[name]) for name in own) == is_right


def test_dash_shrinks_each_unit_to_no_less_than_its_floor() -> None:
    """At a rate of nearly 0 the end of the stage is its start: each unit keeps its direction, times .3 to 1."""
    config = tiny("regimes=[{dash:{optimizer.lr:0.1,lr_factor:1.0e-12}}]", "seeds=1", "arch.widths=[6]")
    plan, execution = executed(config)
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    for name in ("hidden_1.weight", "head.weight"):
        factor = (after[name] / before[name]).mean(1, keepdim=True)
        torch.testing.assert_close(after[name], before[name] * factor, rtol=1e-4, atol=1e-7)
        assert ((factor > 0.2999) & (factor < 1.0001)).all()
        assert factor.min() < 0.31


def test_l2_init_pulls_every_stage_to_the_initial_weights() -> None:
    """Under a strong penalty both stages end near the seed's initial weights."""
    plan, execution = executed(tiny("regimes=[{l2_init:{strength:10}},sequential]", "seeds=1", "stopping.epochs=10"))
    drawn = dict(initial_model(tiny(), next(iter(plan.nodes.values())), torch.float32).state_dict())

    def distances(run: int) -> list[float]:
        stages = [execution.results[key].weights for key in plan.runs[run].stages]
        return [sum(float((w[name] - drawn[name]).square().sum()) for name in w) for w in stages]

    assert all(held < 0.5 * free for held, free in zip(distances(0), distances(1), strict=True))


def test_a_memory_keeps_its_size_balance_and_past() -> None:
    """A memory is fixed at the end of a stage: what it holds later of that stage's data, it held before."""
    three = ("split.parts=3", "split.size=240", "split.imbalance=8", "seeds=1", "optimizer.batch_size=10")
    plan = planned(tiny("regimes=[{replay:{share:0.3,memory:30,even:true}}]", *three))
    second, third = (plan.nodes[key].data for key in plan.runs[0].stages[1:])
    ids = [set(torch.cat([part.ids for part in data.parts])[data.pools[0]].tolist()) for data in (second, third)]
    assert [len(own) for own in ids] == [30, 30]
    first = set(second.parts[0].ids.tolist())
    assert ids[1] & first < ids[0]
    batches = second.order(0).reshape(-1, 10)
    assert ((batches < len(second.parts[0])).sum(1) == 3).all()
    for regime in ("{replay:{memory:30,kept:balanced}}", "{gdumb:{memory:30}}"):
        plan = planned(tiny(f"regimes=[{regime}]", *three))
        data = plan.nodes[plan.runs[0].stages[-1]].data
        counts = torch.bincount(data.labels[data.pools[0]], minlength=10)
        assert counts.sum() == 30
        assert counts.max() <= 4


def test_frozen_normalisation_keeps_its_statistics() -> None:
    """Running means belong to frozen features: they stay, while those of trained layers follow the new data."""
    overrides = ["regimes=[{freeze:{pattern:'^(layer4|fc)'}}]", "split.size=20", "seeds=1", "stopping.epochs=1"]
    plan, execution = executed(tiny(*overrides, "arch=resnet18", "optimizer.batch_size=10"))
    before, after = (execution.results[key].weights for key in plan.runs[0].stages)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer4", "fc"}
    assert not torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


def test_a_network_that_cannot_be_frozen_is_refused_before_training() -> None:
    """One layer has no layer before the last; the cell is refused as a whole."""
    from src.cells.resolve import resolve

    with pytest.raises(ConfigError, match=r"^regime\.freeze=1: nothing is frozen; .*head"):
        resolve(compose(["arch=linear", "regimes=[freeze]"]))
    with pytest.raises(ConfigError, match=r"^regime\.chunked\.n_chunks=401"):
        resolve(compose(["regimes=[{chunked:{n_chunks:401}}]"]))


def test_blocks_count_passes_as_combined_does() -> None:
    """Ten epochs are one pass over the blocks, each sample ten times in a row; one epoch is a tenth of the samples."""
    config = tiny("regimes=[{blocks:{repeats:10}}]", "seeds=1", "stopping.epochs=10", "optimizer.batch_size=1")
    plan = planned(config)
    (node,) = plan.nodes.values()
    assert (node.length.updates, node.length.samples, node.length.n_epochs) == (600, 600, 1)
    order = node.data.order(0).reshape(60, 10)
    assert (order == order[:, :1]).all()
    assert sorted(order[:, 0].tolist()) == list(range(60))
    pieces = planned(tiny("regimes=[{blocks:{repeats:3,piece:20}}]", "seeds=1"))
    blocks = next(iter(pieces.nodes.values())).data.order(0).reshape(3, 3, 20)
    assert (blocks == blocks[:, :1]).all()
    assert sorted(blocks[:, 0].reshape(-1).tolist()) == list(range(60))


def test_replay_draws_its_share_and_balances_earlier_data() -> None:
    """Stage 2 draws the share from Dataset 1, balanced over classes on request, and Dataset 2 without balancing."""
    overrides = ["regimes=[{replay:{share:0.5,balanced:true}}]", "seeds=1", "split.size=200", "split.imbalance=5"]
    plan = planned(tiny(*overrides))
    node = plan.nodes[plan.runs[0].stages[-1]]
    order, n_old = node.data.order(0), len(node.data.parts[0])
    labels = node.data.labels.numpy()
    assert (order < n_old).sum() == 50 == len(order) // 2
    counts = [int((labels[order[order < n_old]] == c).sum()) for c in range(10)]
    assert counts == [5] * 10
    assert len(set(order[order >= n_old])) == 50
