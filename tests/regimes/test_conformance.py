"""Every regime under every stopping rule: properties of single regimes in addition to tests/regimes/test_equivalences.py.

Properties: a matched budget is the same for every regime, to the update or sample; training follows the plan; test
sets are not read before the end of training; each stage's samples are those of its mixture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from src.cells.resolve import resolve
from src.config import Config
from src.data.stream import Evaluations
from src.regimes.catalog import REGIMES
from src.training.plan import Run, StagePlan, make_plan
from tests.regimes.test_catalog import CONTINUING
from tests.training.cells import executed, planned, tiny

ALL = f"regimes=[{','.join(REGIMES)}]"
RAGGED = ("split.size=null", "split.sizes=[45,16]", "optimizer.batch_size=8")
ONE_SCHEDULE = ("optimizer.schedule=cosine", "optimizer.warmup=2", "optimizer.span=run")
RULES = {
    "epochs": ("stopping.epochs=2",),
    "updates": ("stopping=budget", "stopping.epochs=3", "stopping.match=updates"),
    "samples": ("stopping=budget", "stopping.epochs=3", "stopping.match=samples", *ONE_SCHEDULE),
    "marginal": ("stopping=budget", "stopping.epochs=3", "stopping.match=marginal"),
    "early_stopping": ("stopping=early_stopping", "stopping.max_epochs=3", "stopping.patience=1"),
    "convergence": ("stopping=convergence", "stopping.max_epochs=3", "stopping.tolerance=1.5"),
}


def totals(plan: StagePlan, run: Run) -> tuple[int, int]:
    lengths = [plan.nodes[key].length for key in run.stages]
    return sum(length.updates for length in lengths), sum(length.samples for length in lengths)


def test_matched_updates_and_samples_are_the_same_for_every_regime() -> None:
    # sequential: 3 passes of ceil(45/8) + ceil(16/8) = 8 updates, 61 samples
    updates = planned(tiny(ALL, "seeds=1", *RAGGED, *RULES["updates"]))
    assert {run.regime.name: totals(updates, run)[0] for run in updates.runs} == dict.fromkeys(REGIMES, 24)
    samples = planned(tiny(ALL, "seeds=1", *RAGGED, *RULES["samples"]))
    assert {run.regime.name: totals(samples, run)[1] for run in samples.runs} == dict.fromkeys(REGIMES, 183)


def test_marginal_updates_are_those_of_dataset_2_for_every_regime() -> None:
    plan = planned(tiny(ALL, "seeds=1", *RAGGED, *RULES["marginal"]))
    for run in plan.runs:
        nodes = [plan.nodes[key] for key in run.stages]
        sunk = [n for n in nodes if n.stage.mixture.parts == (0,) and n.stage.start.kind == "fresh"]
        assert sum(node.length.updates for node in nodes if node not in sunk) == (
            0 if run.regime.name == "d1_only" else 6
        )
        assert [node.length.updates for node in sunk] in ([], [18])


def test_epochs_are_passes_over_the_counted_samples() -> None:
    plan = planned(tiny(ALL, "seeds=1", *RAGGED, *RULES["epochs"]))
    found = {run.regime.name: [plan.nodes[key].length.updates for key in run.stages] for run in plan.runs}
    first, second, both = 12, 4, 16  # 2 epochs of 6, 2 and 8 updates
    then = {name: [first, second] for name in ("sequential", "replay", "freeze", "ewc", "l2_sp", "lwf")}
    then |= {name: [first, second] for name in ("self_replay", "der", "l2_init")}
    grown = {name: [first, both] for name in ("warm_start", "shrink_perturb", "dash")}
    assert found == {
        **then,
        **grown,
        "combined": [both],
        "joint_then_new": [both, second],
        "new_then_joint": [second, both],
        "model_soup": [first, second, 0],
        "lp_ft": [first, second // 2, second // 2],
        "gdumb": [both],
        "rebalanced": [both],
        "blocks": [-(-2 * 61 // 8)],
        "d1_only": [first],
        "d2_only": [second],
        "reverse": [second, first],
        "average": [first, second, 0],
        "chunked": [2 * -(-31 // 8), 2 * -(-30 // 8)],
    }


class Untouchable(Evaluations):
    """Test sets that raise when they are read."""

    def __init__(self) -> None: ...

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the test sets were read: {name}")


def guarded(config: Config) -> StagePlan:
    """The plan of the cell on streams whose test sets raise when they are read."""
    factory = resolve(config).streams
    streams = {seed: dataclasses.replace(factory.build(seed), test=Untouchable()) for seed in config.seeds}
    return make_plan(config, streams, [(regime, seed) for regime in config.regimes for seed in config.seeds])


@pytest.mark.parametrize("rule", RULES)
def test_training_follows_the_plan_and_reads_no_test_set(rule: str) -> None:
    config = tiny(ALL, "seeds=2", *RAGGED, *RULES[rule])
    plan, execution = executed(config, plan=guarded(config))
    assert execution.failures == {}
    assert execution.trained == set(plan.nodes)
    for key, node in plan.nodes.items():
        ledger = execution.results[key].ledger
        if rule in ("early_stopping", "convergence"):
            assert ledger.epochs <= node.length.n_epochs
            assert ledger.samples == ledger.epochs * node.length.n_draws or ledger.updates == node.length.updates
            if node.length.updates:
                assert (ledger.converged is not None) == (rule == "convergence")
                assert (ledger.best_epoch is not None) == (rule == "early_stopping")
        else:
            assert (ledger.updates, ledger.samples) == (node.length.updates, node.length.samples)
            assert ledger.stopped_by == "length"
        assert execution.results[key].curves.steps[-1] == ledger.updates


def test_the_optimizer_state_may_be_kept_in_every_regime_that_continues() -> None:
    """Adam's state crosses every boundary, whatever the stage before trained; and it makes a difference."""
    words = ("seeds=1", "optimizer=adam", *RAGGED, *RULES["epochs"])
    found = {}
    for reset in ("true", "false"):
        regimes = ",".join(f"{{{name}:{{reset_optimizer:{reset}}}}}" for name in CONTINUING)
        plan, execution = executed(tiny(f"regimes=[{regimes}]", *words))
        assert execution.failures == {}
        last = {run.regime.name: plan.nodes[run.stages[-1]].key for run in plan.runs}
        found[reset] = {name: execution.results[key].weights["head.weight"] for name, key in last.items()}
    assert [n for n in CONTINUING if np.array_equal(found["true"][n], found["false"][n])] == []


def test_a_stage_draws_from_its_mixture_alone() -> None:
    plan = planned(tiny(ALL, "seeds=1", *RAGGED))
    for node in plan.nodes.values():
        ids = [set(part.ids.tolist()) for part in node.stream.train]
        allowed = set.union(*(ids[part] for part in node.stage.mixture.parts))
        known = np.concatenate([part.ids.numpy() for part in node.data.parts])
        for epoch in range(2):
            drawn = known[node.data.order(epoch)]
            assert len(drawn) == node.data.n_draws
            assert set(drawn) <= allowed
            if node.data.counts is None and node.stage.mixture.chunk is None:
                assert set(drawn) == allowed, "every sample, every epoch"
        assert not np.array_equal(node.data.order(0), node.data.order(1))
