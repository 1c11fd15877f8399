"""Stages of a plan: keys, sharing, levels and groups.

Properties: a key covers everything that a stage's result depends on and nothing else; equal stages are planned once, in a cell and
across cells; the order of regimes and seeds in the configuration changes nothing; no stage comes before its parents.
"""

from __future__ import annotations

import pytest

from src.errors import ConfigError
from src.training.plan import StagePlan
from tests.training.cells import planned, tiny


def keys(plan: StagePlan) -> dict[tuple[str, int], tuple[str, ...]]:
    return {(run.regime.label, run.seed): run.stages for run in plan.runs}


def only(*overrides: str) -> dict[tuple[str, int], tuple[str, ...]]:
    return keys(planned(tiny("seeds=2", *overrides)))


def test_stages_are_shared_by_content_within_a_cell() -> None:
    found = only("regimes=[sequential,combined,d1_only,d2_only,{replay: {share: 0}},{chunked: {n_chunks: 1}},reverse]")
    for seed in (0, 1):
        assert found["sequential", seed][:1] == found["d1_only", seed]
        assert found["replay(share=0.0)", seed] == found["sequential", seed]
        assert found["chunked(n_chunks=1)", seed] == found["combined", seed]
        assert found["reverse", seed][:1] == found["d2_only", seed]
        assert len(set(found["sequential", seed]) | set(found["combined", seed])) == 3
    assert not {key for (_, seed), run in found.items() if seed for key in run} & {
        key for (_, seed), run in found.items() if not seed for key in run
    }


def test_the_iid_union_is_one_stage_at_every_ratio() -> None:
    a, b = only("split.ratio=0.25"), only("split.ratio=3")
    assert a["combined", 0] == b["combined", 0]
    assert not set(a["sequential", 0]) & set(b["sequential", 0])


def test_an_empty_dataset_2_leaves_dataset_1_alone() -> None:
    found = only("split.size=null", "split.sizes=[30,0]", "regimes=[sequential,combined,d1_only,warm_start,reverse]")
    for seed in (0, 1):
        for label in ("sequential", "combined", "warm_start", "reverse"):
            assert found[label, seed][:1] == found["d1_only", seed]
    with pytest.raises(ConfigError, match=r"split\.sizes"):
        only("split.size=null", "split.sizes=[30,0]", "regimes=[d2_only]")


# (imbalance in reverse order, on the other hand, can leave the union the same samples: one stage then)
@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=0.2",
        "optimizer.batch_size=32",
        "optimizer=adam",
        "optimizer.schedule=cosine",
        "arch.widths=[65]",
        "trainer.precision=64",
        "trainer.threads=2",
        "split.size=62",
        "split.label_noise=0.2",
        "split.val=0.2",
        "loss=mse",
        "stopping.epochs=3",
    ],
)
def test_settings_that_affect_the_result_are_in_the_key(change: str) -> None:
    assert not set(only()["combined", 0]) & set(only(change)["combined", 0])


@pytest.mark.parametrize(
    "change",
    [
        "trainer.replicas=1",
        "trainer.resident_mib=0",
        "trainer=auto",
        "n_workers=2",
        "multirun=elsewhere",
        "sweep=other",
        "tracking=local",
        "seeds=7",
        "regimes=[combined]",
        "regimes=[d2_only,combined,sequential]",
    ],
)
def test_settings_that_do_not_affect_the_result_are_not_in_the_key(change: str) -> None:
    assert only()["combined", 0] == only(change)["combined", 0]


def test_epochs_and_a_budget_of_equal_length_are_the_same_stage() -> None:
    budget = ("stopping=budget", "stopping.epochs=2", "stopping.match=samples")
    assert only()["combined", 1] == only(*budget)["combined", 1]


def test_early_stopping_on_another_set_is_another_stage() -> None:
    early = ("stopping=early_stopping", "stopping.max_epochs=4", "stopping.patience=2", "split.imbalance=3")
    found = [only(*early, f"stopping.monitor_on={name}")["sequential", 0][0] for name in ("own", "d2", "union")]
    assert len(set(found)) == 3


def test_groups_hold_stages_of_one_shape_and_come_after_their_parents() -> None:
    plan = planned(tiny("regimes=[sequential,combined,ewc,average,chunked,warm_start]", "split.ratio=0.5"))
    place = {key: number for number, group in enumerate(plan.groups) for key in group}
    assert place.keys() == plan.nodes.keys()
    for node in plan.nodes.values():
        for parent in (*node.parents, *([node.penalty_parent] if node.penalty_parent else [])):
            assert place[parent] < place[node.key]
    for group in plan.groups:
        assert len({(plan.nodes[key].shape, plan.nodes[key].length) for key in group}) == 1


def test_the_order_of_regimes_and_seeds_changes_no_stage() -> None:
    a = only("regimes=[sequential,combined,ewc]", "seeds=[0,4,2]")
    b = only("regimes=[ewc,combined,sequential]", "seeds=[2,0,4]")
    assert a == b


def test_momentum_is_kept_only_for_stages_that_continue_it() -> None:
    plan = planned(tiny("seeds=1", "regimes=[sequential,{sequential: {reset_optimizer: false}}]"))
    plain, continued = (run.stages for run in plan.runs)
    assert plain[0] == continued[0]
    assert plain[1] != continued[1]
    assert plan.keep_optimizer == {plain[0]}
