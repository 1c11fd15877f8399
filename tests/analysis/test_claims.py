"""Claims are settled by what their files say beforehand, and can come out either way.

Properties: every claim of the thread has a file that opens with its purpose, composes, and asks for runs it has; a mistake in
a file is refused by key; every contrast makes the number per seed that it promises; a planted effect is found with its sign,
a planted opposite refutes, a missing or diverged run decides nothing; a claim holds if all its statements do; settings of
the user's replace the claim's own; probes give known answers where there are some; the command writes what the report reads.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src import claims, compare
from src.analysis.claims import Claim, Study, claim_ids, elsewhere, hydra_text, load_claim, parse_claim
from src.analysis.claims_table import entry, markdown, merged, terminal_table
from src.analysis.contrasts import judge_statement, settle
from src.analysis.evidence import CellEvidence, Evidence
from src.analysis.metrics import parse_metric
from src.analysis.pairing import RunRecord, load_records
from src.analysis.probes import noise_slopes, path
from src.analysis.probes_retrained import variance_parts
from src.config import CONF_DIR, Config, ConfigError, compose
from src.training.store import Store

THE_CLAIMS = [
    "between-the-extremes",
    "both-converge",
    "broad-beats-deep",
    "combined-optimum-off-path",
    "combined-overfits-less",
    "combined-wins-iid",
    "d1-fit-is-no-d2-fit",
    "early-stopping-does-not-steer",
    "equal-budget-combined-wins",
    "fewer-consistent-fits",
    "forgets-d1",
    "freezing-preserves",
    "low-lr-gets-stuck",
    "more-data-helps",
    "more-different-forgets-more",
    "prior-moves-first",
    "replay-preserves",
    "runs-vary",
    "sequential-never-wins-iid",
    "shrink-perturb-closes-it",
    "shuffled-beats-blocks",
    "small-data-noisy-surface",
    "small-shifted-d2-favours-sequential",
    "specialist-against-generalist",
    "stop-before-convergence",
    "train-last-on-what-you-serve",
    "warm-start-gap",
]

# ------------------------------------------------------------------------------------------------ files


def test_every_claim_of_the_thread_has_a_file() -> None:
    assert claim_ids() == sorted(THE_CLAIMS)


def test_every_file_opens_with_purpose_command_and_expected_result() -> None:
    for name in claim_ids():
        head = [line for line in (CONF_DIR / "claim" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
        assert f"python -m src.claims claim={name}" in head[1], name
        assert any(line.startswith("# Expected: ") for line in head), name


def test_every_study_composes_into_as_many_cells_as_its_grid() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for name in claim_ids():
            for study in load_claim(name).studies:
                cells = claims.cells_of(study, loader, name)
                assert len(cells) == len(study.places), (name, study.place)
                for statement in study.statements:
                    known = set(cells[0].config.regimes)
                    assert set(statement.regimes) <= known, (name, statement.says)


def test_where_theory_has_a_refutation_there_is_a_study_that_expects_it() -> None:
    refuted = {name for name in claim_ids() if any(s.expected == "refuted" for s in load_claim(name).studies)}
    assert refuted == {
        "more-data-helps",
        "sequential-never-wins-iid",
        "combined-optimum-off-path",
        "more-different-forgets-more",
        "replay-preserves",
    }


PLAIN: dict[str, Any] = {
    "id": "plain",
    "sentence": "a sentence",
    "source": "Q",
    "studies": [
        {
            "place": "digits",
            "overrides": ["stopping=convergence", "split.size=400"],
            "axes": {"split.ratio": [0.1, 1, 10], "split.imbalance": [1, 5]},
            "regimes": ["sequential", "combined"],
            "statements": [
                {"says": "x", "metric": "m", "of": "combined", "minus": "sequential", "predicted": "positive"},
            ],
        }
    ],
}


def changed(place: Sequence[str | int], value: object) -> dict[str, Any]:
    """PLAIN with one value put in."""
    given = copy.deepcopy(PLAIN)
    inner: Any = given
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return given


STUDY = ("studies", 0)
STATEMENT = (*STUDY, "statements", 0)


@pytest.mark.parametrize(
    ("place", "value", "key", "fix"),
    [
        (("sentense",), "x", "sentense", "did you mean sentence"),
        ((*STUDY, "seeds"), 9, "seeds", "at least 10"),
        ((*STUDY, "axes"), {"split.ratio": 1}, "axes", "list of its values"),
        ((*STUDY, "regimes"), "combined", "regimes", "must list regimes"),
        ((*STUDY, "statements"), [], "statements", "at least one"),
        ((*STATEMENT, "of"), "ewc", "statements.of", "among the regimes"),
        ((*STATEMENT, "of"), "sequentiel", "regimes", "did you mean sequential"),
        ((*STATEMENT, "predicted"), "positiv", "predicted", "did you mean positive"),
        ((*STATEMENT, "predicted"), "equivalent", "margin", "must be given"),
        ((*STATEMENT, "predicted"), "increasing", "predicted", "contrast: trend"),
        ((*STATEMENT, "contrast"), "everywhere", "predicted", "non_inferior"),
        ((*STATEMENT, "contrast"), "between_cells", "minus_at", "must be given"),
        ((*STATEMENT, "minus"), None, "minus", "must be given"),
        ((*STATEMENT, "margin"), -0.1, "margin", "> 0"),
        ((*STATEMENT, "at"), {"split.size": 1}, "at", "no axis"),
        ((*STATEMENT, "at"), {"split.ratio": 3}, "at.split.ratio", "not on the axis"),
        ((*STATEMENT, "metric"), "a / b c", "metric", "no sum of metrics"),
        ((*STATEMENT, "of"), ["sequential", "combined"], "of", "contrast: trend"),
    ],
)
def test_a_mistake_in_a_file_is_refused_by_key(place: Sequence[str | int], value: object, key: str, fix: str) -> None:
    parse_claim(PLAIN)
    with pytest.raises(ConfigError) as error:
        parse_claim(changed(place, value))
    assert key in error.value.key
    assert fix in str(error.value)


def test_values_are_written_as_hydra_reads_them() -> None:
    assert hydra_text({"kind": "rotate", "amount": 0.5}) == "{kind:rotate,amount:0.5}"
    assert hydra_text([[1, 2], [3, 4]]) == "[[1,2],[3,4]]"
    assert [hydra_text(value) for value in (None, True, False, 3, 1e-6)] == ["null", "true", "false", "3", "1e-06"]


def test_a_metric_is_a_sum_with_factors() -> None:
    assert parse_metric("train/union/accuracy - 0.5 * test/d2/loss").terms == (
        (1.0, "train/union/accuracy"),
        (-0.5, "test/d2/loss"),
    )
    assert parse_metric("- a + b").terms == ((-1.0, "a"), (1.0, "b"))
    for text in ("", "a b", "a -", "2", "a * b"):
        with pytest.raises(ConfigError):
            parse_metric(text)


# ------------------------------------------------------------------------------------------------ made-up runs

Rule = Callable[[Mapping[str, Any], str, int], float | None]


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["tracking=off"])


def evidence_of(study: Study, rule: Rule, config: Config, diverged: tuple[str, int] | None = None) -> Evidence:
    """Evidence in which metric m of every run is `rule(place, regime label, seed)`."""
    cells = []
    for number, place in enumerate(study.places):
        runs = {}
        for label in ("sequential", "combined", "replay(share=0.2)"):
            for seed in range(study.seeds):
                runs[label, seed] = RunRecord(
                    path=Path("nowhere/result.json"),
                    sweep="claims",
                    cell=f"c{number}",
                    run="r",
                    regime=label,
                    seed=seed,
                    axes={},
                    diverged=(label, seed) == diverged,
                    result={"metrics": {"m": rule(place, label, seed)}, "stages": [{"converged": None}]},
                    provenance={"device": "cpu"},
                )
        cells.append(
            CellEvidence(config=config, cell=f"c{number}", runs=runs, factory=None, store=Store(Path()))  # type: ignore[arg-type]
        )
    return Evidence(study=study, cells=tuple(cells))


def claim_of(*statements: Mapping[str, Any]) -> Claim:
    given = copy.deepcopy(PLAIN)
    base = {"says": "x", "metric": "m", "of": "combined"}
    given["studies"][0]["statements"] = [{**base, **one} for one in statements]
    given["studies"][0]["regimes"].append({"replay": {"share": 0.2}})
    return parse_claim(given)


def jitter(seed: int) -> float:
    return 0.001 * math.sin(7 * seed + 1)


def finding_of(statement: Mapping[str, Any], rule: Rule, config: Config, **how: Any) -> Any:
    claim = claim_of(statement)
    study = claim.studies[0]
    return judge_statement(study.statements[0], evidence_of(study, rule, config, **how))


def test_a_difference_is_averaged_over_the_chosen_cells(config: Config) -> None:
    def rule(place: Mapping[str, Any], regime: str, seed: int) -> float:
        return (place["split.ratio"] if regime == "combined" else 0.0) + jitter(seed)

    all_cells = finding_of({"minus": "sequential", "predicted": "positive"}, rule, config)
    assert all_cells.effect == pytest.approx((0.1 + 1 + 10) / 3)
    assert (all_cells.verdict, all_cells.n) == ("supported", 12)
    some = {"minus": "sequential", "predicted": "negative", "at": {"split.ratio": [0.1, 1]}}
    found = finding_of(some, rule, config)
    assert found.effect == pytest.approx(0.55)
    assert found.verdict == "refuted"
    assert len(found.values) == 12


def test_a_value_is_judged_against_the_number_given(config: Config) -> None:
    def rule(_place: Mapping[str, Any], _regime: str, seed: int) -> float:
        return -1.0 + jitter(seed)

    slope = {"contrast": "value", "predicted": "equivalent", "against": -1, "margin": 0.1}
    found = finding_of(slope, rule, config)
    assert found.verdict == "supported"
    assert found.effect == pytest.approx(-1, abs=0.001)
    assert found.ci_low < -1 < found.ci_high
    assert finding_of({**slope, "against": -2}, rule, config).verdict == "refuted"


def test_cells_are_subtracted_from_cells(config: Config) -> None:
    def rule(place: Mapping[str, Any], regime: str, seed: int) -> float:
        return place["split.imbalance"] + 100 * (regime == "combined") + jitter(seed)

    statement = {
        "contrast": "between_cells",
        "at": {"split.imbalance": 5},
        "minus_at": {"split.imbalance": 1},
        "predicted": "positive",
    }
    assert finding_of(statement, rule, config).effect == pytest.approx(4)
    assert finding_of({**statement, "minus": "sequential"}, rule, config).effect == pytest.approx(0)


def test_a_trend_follows_the_axis_or_the_regimes_and_a_certain_step_against_it_refutes(config: Config) -> None:
    along = {"contrast": "trend", "along": "split.ratio", "predicted": "increasing"}

    def rising(place: Mapping[str, Any], _regime: str, seed: int) -> float:
        return math.log10(place["split.ratio"]) + jitter(seed)

    def hump(place: Mapping[str, Any], _regime: str, seed: int) -> float:
        return {0.1: 0.0, 1: 2.0, 10: 1.0}[place["split.ratio"]] + jitter(seed)

    found = finding_of(along, rising, config)
    assert (found.verdict, list(found.means)) == ("supported", ["0.1", "1", "10"])
    assert found.effect == pytest.approx(2)
    assert finding_of({**along, "predicted": "decreasing"}, rising, config).verdict == "refuted"
    assert finding_of(along, hump, config).verdict == "refuted"
    assert finding_of({**along, "margin": 1.5}, hump, config).verdict == "supported"  # the step back is within it

    def by_regime(_place: Mapping[str, Any], regime: str, seed: int) -> float:
        return {"sequential": 3.0, "replay(share=0.2)": 2.0, "combined": 1.0}[regime] + jitter(seed)

    over = {
        "contrast": "trend",
        "of": ["sequential", {"replay": {"share": 0.2}}, "combined"],
        "predicted": "decreasing",
    }
    found = finding_of(over, by_regime, config)
    assert (found.verdict, found.effect) == ("supported", pytest.approx(-2))


def test_everywhere_needs_every_cell_and_one_certain_cell_refutes(config: Config) -> None:
    everywhere = {"contrast": "everywhere", "minus": "sequential", "predicted": "non_inferior", "margin": 0.02}

    def rule_with(worst: float) -> Rule:
        def rule(place: Mapping[str, Any], regime: str, seed: int) -> float:
            is_worst = place == {"split.ratio": 10, "split.imbalance": 5}
            return (worst if is_worst else 0.0) * (regime == "combined") + 2 * jitter(seed) * (regime == "combined")

        return rule

    assert finding_of(everywhere, rule_with(0.0), config).verdict == "supported"
    refuted = finding_of(everywhere, rule_with(-0.1), config)
    assert refuted.verdict == "refuted"
    assert "split.ratio=10 split.imbalance=5" in refuted.reason
    assert refuted.effect == pytest.approx(-0.1, abs=0.002)
    assert finding_of(everywhere, rule_with(-0.02), config).verdict == "inconclusive"


def test_what_is_missing_or_diverged_decides_nothing(config: Config) -> None:
    def rule(_place: Mapping[str, Any], _regime: str, _seed: int) -> float:
        return 1.0

    statement = {"contrast": "value", "predicted": "positive"}
    found = finding_of(statement, rule, config, diverged=("combined", 3))
    assert (found.verdict, found.effect, found.n) == ("inconclusive", None, 0)
    assert "combined, seed 3, diverged" in found.reason
    found = finding_of({**statement, "of": "sequential"}, rule, config, diverged=("combined", 3))
    assert found.verdict == "supported"  # another regime's run takes nothing away
    found = finding_of(statement, lambda *_: None, config)
    assert (found.verdict, found.n) == ("inconclusive", 0)


def test_a_claim_holds_if_all_its_statements_do(config: Config) -> None:
    def rule(_place: Mapping[str, Any], regime: str, seed: int) -> float:
        return {"combined": 1.0, "sequential": 0.0}.get(regime, 0.5) + jitter(seed) * (regime == "combined")

    yes = {"minus": "sequential", "predicted": "positive"}
    no = {"minus": "sequential", "predicted": "negative"}
    maybe = {"of": "sequential", "contrast": "value", "predicted": "positive"}
    same = {"of": "sequential", "contrast": "value", "predicted": "positive", "margin": 0.1}
    beside = {**no, "decides": False}
    for statements, verdict in (
        ([yes, yes], "supported"),
        ([yes, no, maybe], "refuted"),
        ([yes, maybe], "inconclusive"),
        ([yes, same], "equivalent"),
        ([yes, beside], "supported"),
    ):
        claim = claim_of(*statements)
        settled = settle(claim, evidence_of(claim.studies[0], rule, config))
        assert settled.verdict == verdict
        assert settled.decided_by.verdict == verdict
        assert settled.as_expected == (verdict == "supported")


def test_the_table_says_the_same_in_every_form(config: Config, tmp_path: Path) -> None:
    from rich.console import Console

    def rule(_place: Mapping[str, Any], regime: str, seed: int) -> float:
        return float(regime == "combined") + jitter(seed) * (regime == "combined")

    claim = claim_of({"minus": "sequential", "predicted": "negative"})
    settled = settle(claim, evidence_of(claim.studies[0], rule, config))
    one = entry(settled, "digits", "python -m src.claims claim=plain")
    assert {"id", "data", "predicted", "effect", "ci_low", "ci_high", "p", "n", "verdict"} <= set(one)
    assert (one["id"], one["verdict"], one["n"], one["predicted"]) == ("plain", "refuted", 12, "x < 0")
    assert one["ci_low"] < one["effect"] < one["ci_high"]
    console = Console(width=170, record=True, file=(tmp_path / "out").open("w"))
    console.print(terminal_table([(settled, "digits")]))
    for text in (console.export_text(), markdown([one])):
        assert "plain" in text
        assert "refuted" in text
        assert "expected: supported" in text
        assert "+1" in text
    newer = {**one, "verdict": "supported"}
    elsewhere_too = {**one, "data": "mnist"}
    assert merged([one, elsewhere_too], [newer]) == [newer, elsewhere_too]


# ------------------------------------------------------------------------------------------------ elsewhere


def test_settings_of_the_user_replace_those_of_the_claim() -> None:
    claim = claim_of(
        {"contrast": "trend", "along": "split.ratio", "predicted": "increasing"},
        {"contrast": "value", "at": {"split.ratio": 1, "split.imbalance": 5}, "predicted": "positive"},
        {"contrast": "value", "at": {"split.ratio": 10}, "predicted": "positive"},
    )
    study = claim.studies[0]
    moved, left_out = elsewhere(study, ["data=mnist", "split.size=5000"])
    assert moved.overrides == ("stopping=convergence", "data=mnist", "split.size=5000")
    assert (moved.axes, left_out) == (study.axes, [])
    fixed, left_out = elsewhere(study, ["split.ratio=1"])
    assert fixed.axes == {"split.imbalance": [1, 5]}
    assert [one.at for one in fixed.statements] == [{"split.imbalance": 5}]
    assert len(left_out) == 2
    other, left_out = elsewhere(study, ["split.ratio=1,10,100"])
    assert other.axes["split.ratio"] == [1, 10, 100]
    assert (len(other.statements), left_out) == (3, [])
    rule, _ = elsewhere(study, ["stopping=epochs"])
    assert rule.overrides == ("split.size=400", "stopping=epochs")
    inner, _ = elsewhere(study, ["stopping.tolerance=0.1"])
    assert inner.overrides == ("stopping=convergence", "split.size=400", "stopping.tolerance=0.1")


# ------------------------------------------------------------------------------------------------ probes


def test_variance_of_draws_falls_as_one_over_n() -> None:
    rng = np.random.default_rng(0)
    slopes = [noise_slopes(rng.exponential(size=300), rng.normal(size=(300, 5)), rng) for _ in range(10)]
    for name in ("loss_slope", "gradient_slope"):
        found = np.array([one[name] for one in slopes])
        assert abs(found.mean() + 1) < 4 * found.std(ddof=1) / math.sqrt(10)
        assert found.std(ddof=1) < 0.1


def test_variance_is_split_into_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    n, k = 400, 4
    draw, init = rng.normal(size=(n, 1, 1)), 2 * rng.normal(size=(n, k, 1))
    order, rest = 0.5 * rng.normal(size=(n, 1, k)), rng.normal(size=(n, k, k))
    parts = variance_parts(draw + init + order + rest)
    assert parts == pytest.approx({"data": 1, "init": 4, "order": 0.25, "the rest": 1}, rel=0.25)


def test_the_path_meets_the_combined_optimum_where_theory_says_so(tmp_path: Path) -> None:
    study = load_claim("combined-optimum-off-path").studies[1]
    overrides = [*study.arguments, "regimes=[sequential,combined]", "seeds=2", "tracking=off", "sweep=claims"]
    cell = compare.settled(compose([*overrides, "trainer=cpu", f"multirun={tmp_path}"]))
    compare.run_cell(cell)
    folder = compare.cell_dir(cell)
    runs = {(run.regime, run.seed): run for run in load_records(folder.parent.parent).runs}
    evidence = CellEvidence(
        config=cell, cell=folder.name, runs=runs, factory=compare.streams_of(cell), store=Store(tmp_path / ".stages")
    )
    read = path(evidence).values
    assert set(read) == {("sequential", 0), ("sequential", 1)}
    for values in read.values():
        assert values["distance"] < 1e-6


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_settles_prior_moves_first_and_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind of file and number that leaves the command, on a claim whose probe reads weights, paths and data."""
    words = ["claim=prior-moves-first", f"multirun={tmp_path}", "tracking=off", "n_workers=1", "trainer=cpu", "seeds=2"]
    assert claims.main([*words, "stopping.epochs=5"]) == 0
    shown = capsys.readouterr().out
    assert "prior-moves-first" in shown
    assert "1 inconclusive" in shown  # two seeds decide nothing
    entries = json.loads((tmp_path / "claims" / "claims.json").read_text())
    assert [(one["id"], one["data"], one["n"]) for one in entries] == [("prior-moves-first", "digits", 2)]
    statements = entries[0]["statements"]
    assert all(one["effect"] is not None and one["p"] is None for one in statements)
    assert "too few seeds" in entries[0]["reason"]
    command = entries[0]["command"]
    assert command.startswith("python -m src.claims claim=prior-moves-first")
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claims/cells/*/*/result.json")}
    assert len(results) == 2
    assert claims.main([*words, "stopping.epochs=5"]) == 0
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert json.loads((tmp_path / "claims" / "claims.json").read_text()) == entries


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["claim=forgets-d2"], "did you mean forgets-d1"),
        (["claim=forgets-d1", "place=moon"], "place of none"),
        (["claim=forgets-d1", "regimes=[combined]"], "the claim's own"),
        (["claim=forgets-d1", "seeds=[1,2]"], "must be a number"),
        (["forgets-d1"], "write key=value"),
        (["claim=forgets-d1", "split.size=99999"], "split.size"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words: list[str], fix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        claims.main([*words, f"multirun={tmp_path}", "tracking=off"])
    assert fix in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "claims" / "cells").exists()


def test_every_file_survives_being_read_and_written() -> None:
    """What a claim means does not depend on how its YAML is laid out."""
    for name in claim_ids():
        given = yaml.safe_load((CONF_DIR / "claim" / f"{name}.yaml").read_text())
        again = parse_claim(yaml.safe_load(yaml.safe_dump(given)))
        assert dataclasses.asdict(again) == dataclasses.asdict(load_claim(name))
