"""Claims can be supported and refuted, and every contrast computes its documented value per seed.

A planted effect is detected with its sign, the opposite effect refutes, a missing or diverged run is inconclusive; a claim
is supported if all its statements are; the forms of the table agree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.claims.claims import Statement
from src.claims.table import claim_entry, claims_table, merged, verdict_style
from src.claims.verdicts import JUDGES, ContrastTable, judge_claim
from src.config import Config, compose
from tests.claims.made_up_claims import Rule, claim_of, evidence_of, jitter, verdict_of


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["tracking=off"])


def test_a_difference_is_averaged_over_the_chosen_cells(config: Config) -> None:
    def rule(where: Mapping[str, Any], regime: str, seed: int) -> float:
        return (where["split.ratio"] if regime == "combined" else 0.0) + jitter(seed)

    all_cells = verdict_of({"minus": "sequential", "predicted": "positive"}, rule, config)
    assert all_cells.effect == pytest.approx((0.1 + 1 + 10) / 3)
    assert (all_cells.verdict, all_cells.n) == ("supported", 12)
    some = {"minus": "sequential", "predicted": "negative", "at": {"split.ratio": [0.1, 1]}}
    found = verdict_of(some, rule, config)
    assert found.effect == pytest.approx(0.55)
    assert found.verdict == "refuted"
    assert len(found.values) == 12


def test_a_value_is_judged_against_its_reference(config: Config) -> None:
    def rule(_where: Mapping[str, Any], _regime: str, seed: int) -> float:
        return -1.0 + jitter(seed)

    slope = {"contrast": "value", "predicted": "equivalent", "against": -1, "margin": 0.1}
    found = verdict_of(slope, rule, config)
    assert found.verdict == "supported"
    assert found.effect == pytest.approx(-1, abs=0.001)
    assert found.ci_low < -1 < found.ci_high
    assert verdict_of({**slope, "against": -2}, rule, config).verdict == "refuted"


def test_cells_are_subtracted_from_cells(config: Config) -> None:
    def rule(where: Mapping[str, Any], regime: str, seed: int) -> float:
        return where["split.imbalance"] + 100 * (regime == "combined") + jitter(seed)

    statement = {
        "contrast": "between_cells",
        "at": {"split.imbalance": 5},
        "minus_at": {"split.imbalance": 1},
        "predicted": "positive",
    }
    assert verdict_of(statement, rule, config).effect == pytest.approx(4)
    assert verdict_of({**statement, "minus": "sequential"}, rule, config).effect == pytest.approx(0)


def test_a_trend_follows_the_axis_or_the_regimes_and_a_certain_step_against_it_refutes(config: Config) -> None:
    along = {"contrast": "trend", "along": "split.ratio", "predicted": "increasing"}

    def rising(where: Mapping[str, Any], _regime: str, seed: int) -> float:
        return math.log10(where["split.ratio"]) + jitter(seed)

    def hump(where: Mapping[str, Any], _regime: str, seed: int) -> float:
        return {0.1: 0.0, 1: 2.0, 10: 1.0}[where["split.ratio"]] + jitter(seed)

    found = verdict_of(along, rising, config)
    assert (found.verdict, list(found.means)) == ("supported", ["0.1", "1", "10"])
    assert found.effect == pytest.approx(2)
    assert verdict_of({**along, "predicted": "decreasing"}, rising, config).verdict == "refuted"
    assert verdict_of(along, hump, config).verdict == "refuted"
    within = verdict_of(
        {**along, "margin": 1.5}, hump, config
    )  # the step back is, but the other step is all of the rise
    assert (within.verdict, within.reason[:19]) == ("inconclusive", "one step carries it")

    def by_regime(_where: Mapping[str, Any], regime: str, seed: int) -> float:
        return {"sequential": 3.0, "replay(share=0.2)": 2.0, "combined": 1.0}[regime] + jitter(seed)

    over = {
        "contrast": "trend",
        "of": ["sequential", {"replay": {"share": 0.2}}, "combined"],
        "predicted": "decreasing",
    }
    found = verdict_of(over, by_regime, config)
    assert (found.verdict, found.effect) == ("supported", pytest.approx(-2))


def test_everywhere_needs_every_cell_and_one_certain_cell_refutes(config: Config) -> None:
    everywhere = {"contrast": "everywhere", "minus": "sequential", "predicted": "non_inferior", "margin": 0.02}

    def rule_with(worst: float) -> Rule:
        def rule(where: Mapping[str, Any], regime: str, seed: int) -> float:
            is_worst = where == {"split.ratio": 10, "split.imbalance": 5}
            return (worst if is_worst else 0.0) * (regime == "combined") + 2 * jitter(seed) * (regime == "combined")

        return rule

    assert verdict_of(everywhere, rule_with(0.0), config).verdict == "supported"
    opposite = verdict_of(everywhere, rule_with(-0.01), config)
    assert opposite.verdict == "equivalent", "worse with certainty in one cell, by less than the margin"
    assert opposite.ci_high is not None
    assert opposite.ci_high < 0
    assert "below 0 with certainty in 1" in opposite.reason
    refuted = verdict_of(everywhere, rule_with(-0.1), config)
    assert refuted.verdict == "refuted"
    assert "split.ratio=10 split.imbalance=5" in refuted.reason
    assert refuted.effect == pytest.approx(-0.1, abs=0.002)
    assert verdict_of(everywhere, rule_with(-0.02), config).verdict == "inconclusive"


def test_missing_and_diverged_runs_are_inconclusive(config: Config) -> None:
    def rule(_where: Mapping[str, Any], _regime: str, _seed: int) -> float:
        return 1.0

    statement = {"contrast": "value", "predicted": "positive"}
    found = verdict_of(statement, rule, config, diverged=("combined", 3))
    assert (found.verdict, found.effect, found.n) == ("inconclusive", None, 0)
    assert "combined, seed 3, diverged" in found.reason
    found = verdict_of({**statement, "of": "sequential"}, rule, config, diverged=("combined", 3))
    assert found.verdict == "supported"  # a diverged run of another regime has no influence
    found = verdict_of(statement, lambda *_: None, config)
    assert (found.verdict, found.n) == ("inconclusive", 0)


def test_a_claim_is_supported_if_all_its_statements_are(config: Config) -> None:
    def rule(_where: Mapping[str, Any], regime: str, seed: int) -> float:
        return {"combined": 1.0, "sequential": 0.0}.get(regime, 0.5) + jitter(seed) * (regime == "combined")

    yes = {"minus": "sequential", "predicted": "positive"}
    no = {"minus": "sequential", "predicted": "negative"}
    maybe = {"of": "sequential", "contrast": "value", "predicted": "positive"}
    same = {"of": "sequential", "contrast": "value", "predicted": "positive", "margin": 0.1}
    reported = {**no, "decides": False}
    for statements, verdict in (
        ([yes, yes], "supported"),
        ([yes, no, maybe], "refuted"),
        ([yes, maybe], "inconclusive"),
        ([yes, same], "equivalent"),
        ([yes, reported], "supported"),
    ):
        claim = claim_of(*statements)
        judged = judge_claim(claim, evidence_of(claim.studies[0], rule, config))
        assert judged.verdict == verdict
        assert judged.decisive.verdict == verdict
        assert judged.as_expected == (verdict == "supported")


def test_the_forms_of_the_table_agree(config: Config, tmp_path: Path) -> None:
    from rich.console import Console

    def rule(_where: Mapping[str, Any], regime: str, seed: int) -> float:
        return float(regime == "combined") + jitter(seed) * (regime == "combined")

    claim = claim_of({"minus": "sequential", "predicted": "negative"})
    judged = judge_claim(claim, evidence_of(claim.studies[0], rule, config))
    one = claim_entry(judged, "digits", "python -m src.claims claim=plain")
    assert {"id", "data", "predicted", "effect", "ci_low", "ci_high", "p", "n", "verdict"} <= set(one)
    assert (one["id"], one["verdict"], one["n"], one["predicted"]) == ("plain", "refuted", 12, "x < 0")
    assert one["ci_low"] < one["effect"] < one["ci_high"]
    console = Console(width=170, record=True, file=(tmp_path / "out").open("w"))
    console.print(claims_table([one]).terminal(last_style=verdict_style))
    for text in (console.export_text(), claims_table([one]).markdown()):
        assert "plain" in text
        assert "refuted" in text
        assert "expected: supported" in text
        assert "+1" in text
    newer = {**one, "verdict": "supported"}
    elsewhere_too = {**one, "data": "mnist"}
    assert merged([one, elsewhere_too], [newer]) == [newer, elsewhere_too]


def test_a_trend_with_a_certain_small_step_against_it_is_not_supported() -> None:
    """The corrected test finds the opposite there: within the margin the trend is equivalent, beyond it refuted."""
    statement = Statement(
        says="x", contrast="trend", metric="x", of="combined", along="x", predicted="increasing", margin=0.2
    )
    means = np.array([0.0, 1.0, 2.0, 1.9, 3.0, 4.0])
    values = means + 0.01 * np.random.default_rng(0).normal(size=(12, 6))
    table = ContrastTable(values=values, columns=tuple("abcdef"))
    assert JUDGES["trend"](statement, table).verdict == "equivalent"
    assert JUDGES["trend"](dataclasses.replace(statement, margin=0.05), table).verdict == "refuted"
    rising = ContrastTable(values=values[:, [0, 1, 2, 4, 5]], columns=tuple("abcde"))
    assert JUDGES["trend"](statement, rising).verdict == "supported"
