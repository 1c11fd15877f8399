"""A regime without its method is the plain one; every regime keeps its budget to the update, is deterministic, resumes from
the store, and is bit for bit the same in a group as alone, whatever the stopping rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.config import Config
from src.regimes.catalog import REGIMES
from tests.training.cells import differences, executed, planned, tiny, with_replicas

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
