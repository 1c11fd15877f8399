"""Every claim has a file that starts with its purpose, composes, and refers only to runs of its study.

A mistake in a file raises an error that names the key; the user's settings replace those of the claim.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import claim_pages
from src.claims.claims import Control, control_studies, load_claim, override_study, parse_claim, strong_studies
from src.claims.command import cells_of, tasks_of
from src.comparison.metrics import metric_terms
from src.config.composing import GroupComposer
from src.errors import ConfigError
from src.io import CONF_DIR
from src.typed import conf_names
from tests.claims.made_up_claims import PLAIN, claim_of

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
    "general-then-special",
    "lost-in-the-mixture",
    "low-lr-gets-stuck",
    "minimum-not-midway",
    "more-data-helps",
    "more-different-forgets-more",
    "prior-moves-first",
    "replay-preserves",
    "runs-vary",
    "sequential-never-wins-iid",
    "serve-last-against-combined",
    "shortcut-guessing",
    "shrink-perturb-closes-it",
    "shuffled-beats-blocks",
    "small-data-noisy-surface",
    "small-data-overfits",
    "small-shifted-d2-favours-sequential",
    "smoother-surface",
    "specialist-against-generalist",
    "stop-before-convergence",
    "stopping-narrows-the-gap",
    "straight-path",
    "train-last-on-what-you-serve",
    "used-weights-are-overwritten",
    "warm-start-gap",
]


def test_every_claim_of_the_discussion_has_a_file() -> None:
    assert conf_names("claim") == sorted(THE_CLAIMS)


def test_every_file_starts_with_purpose_command_and_expected_result() -> None:
    for name in conf_names("claim"):
        head = [line for line in (CONF_DIR / "claim" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
        assert f"python -m src.claims claim={name}" in head[1], name
        assert any(line.startswith("# Expected: ") for line in head), name


def test_every_study_composes_into_as_many_cells_as_its_grid() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        compose = GroupComposer(loader)
        for name in conf_names("claim"):
            claim = load_claim(name)
            first_of_controls = [
                dataclasses.replace(study, axes={key: values[:1] for key, values in study.axes.items()})
                for study in control_studies(claim)
            ]
            for study in (*claim.studies, *first_of_controls):
                cells = cells_of(study, compose, loader, name)
                assert len(cells) == len(study.coordinates), (name, study.where)
                for statement in study.statements:
                    known = set(cells[0].config.regimes)
                    assert set(statement.regimes(study.catalog)) <= known, (name, statement.says)


def test_every_expected_refutation_has_a_study() -> None:
    refuted = {name for name in conf_names("claim") if any(s.expected == "refuted" for s in load_claim(name).studies)}
    assert refuted == {
        "more-data-helps",
        "sequential-never-wins-iid",
        "combined-optimum-off-path",
        "low-lr-gets-stuck",
        "minimum-not-midway",
        "more-different-forgets-more",
        "replay-preserves",
        "small-data-overfits",
    }


def changed(path: Sequence[str | int], value: object) -> dict[str, Any]:
    """PLAIN with one value replaced."""
    given = copy.deepcopy(PLAIN)
    inner: Any = given
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return given


STUDY = ("studies", 0)
STATEMENT = (*STUDY, "statements", 0)


@pytest.mark.parametrize(
    ("path", "value", "key", "fix"),
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
def test_a_mistake_in_a_file_raises_an_error_that_names_the_key(
    path: Sequence[str | int], value: object, key: str, fix: str
) -> None:
    parse_claim(PLAIN)
    with pytest.raises(ConfigError) as error:
        parse_claim(changed(path, value))
    assert key in error.value.key
    assert fix in str(error.value)


def test_a_metric_is_a_sum_with_factors() -> None:
    assert metric_terms("train/union/accuracy - 0.5 * test/d2/loss") == (
        (1.0, "train/union/accuracy"),
        (-0.5, "test/d2/loss"),
    )
    assert metric_terms("- a + b") == ((-1.0, "a"), (1.0, "b"))
    for text in ("", "a b", "a -", "2", "a * b"):
        with pytest.raises(ConfigError):
            metric_terms(text)


def test_every_file_survives_a_yaml_round_trip() -> None:
    """A claim does not depend on the layout of its YAML."""
    for name in conf_names("claim"):
        given = yaml.safe_load((CONF_DIR / "claim" / f"{name}.yaml").read_text())
        again = parse_claim(yaml.safe_load(yaml.safe_dump(given)))
        assert dataclasses.asdict(again) == dataclasses.asdict(load_claim(name))


def test_the_users_settings_replace_those_of_the_claim() -> None:
    claim = claim_of(
        {"contrast": "trend", "along": "split.ratio", "predicted": "increasing"},
        {"contrast": "value", "at": {"split.ratio": 1, "split.imbalance": 5}, "predicted": "positive"},
        {"contrast": "value", "at": {"split.ratio": 10}, "predicted": "positive"},
    )
    study = claim.studies[0]
    moved, dropped = override_study(study, ["data=mnist", "split.size=5000"])
    assert moved.overrides == ("stopping=convergence", "data=mnist", "split.size=5000")
    assert (moved.axes, dropped) == (study.axes, [])
    fixed, dropped = override_study(study, ["split.ratio=1"])
    assert fixed.axes == {"split.imbalance": [1, 5]}
    assert [one.at for one in fixed.statements] == [{"split.imbalance": 5}]
    assert len(dropped) == 2
    other, dropped = override_study(study, ["split.ratio=1,10,100"])
    assert other.axes["split.ratio"] == [1, 10, 100]
    assert (len(other.statements), dropped) == (3, [])
    rule, _ = override_study(study, ["stopping=epochs"])
    assert rule.overrides == ("split.size=400", "stopping=epochs")
    inner, _ = override_study(study, ["stopping.tolerance=0.1"])
    assert inner.overrides == ("stopping=convergence", "split.size=400", "stopping.tolerance=0.1")


def test_controls_run_alone_and_only_when_requested() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        usual = tasks_of({"claim": "runs-vary"}, [], loader)
        controls = tasks_of({"claim": "runs-vary", "controls": "true"}, [], loader)
        one = tasks_of({"claim": "forgets-d1", "where": "i.i.d. pair"}, [], loader)
        photos = tasks_of({"claim": "shortcut-guessing", "controls": "true"}, ["data.root=/nowhere"], loader)
        both = tasks_of({"claim": "shortcut-guessing,runs-vary", "controls": "true"}, [], loader)
    assert ([bool(task.study.control) for task in usual], [task.study.where for task in controls]) == (
        [False],
        ["large effect"],
    )
    assert "split.shift.amount=90" in controls[0].study.overrides
    assert [task.study.where for task in one] == ["i.i.d. pair"]
    assert [task.study.where for task in photos] == ["equal shares"], "named, so demanded"
    assert len(both) == 2
    with pytest.raises(ConfigError, match="controls=maybe: is true"):
        tasks_of({"controls": "maybe"}, [], loader)


def test_every_claim_has_a_control_that_differs_from_its_study() -> None:
    for claim in map(load_claim, conf_names("claim")):
        controls = control_studies(claim)
        assert controls, claim.id
        for study in controls:
            first = claim.studies[0]
            parts = [(one.overrides, one.axes, one.regimes, one.statements) for one in (first, study)]
            assert parts[0] != parts[1], (claim.id, study.where)
            assert study.control, claim.id
            assert any(one.decides for one in study.statements), (claim.id, study.where)


def test_strong_studies_are_on_photographs_with_tuned_regimes() -> None:
    """Everything of the claim's own recipe is replaced, and its deciding statements stay."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        tasks = tasks_of({"strong": "true"}, [], GlobalHydra.instance().config_loader())
    assert len(tasks) >= 12
    for task in tasks:
        assert sum(one.decides for one in task.study.statements), task.claim.id
        for cell in task.cells:
            config = cell.config
            assert (config.data.name, config.arch.name, config.stopping.name) == ("fashion_mnist", "cnn", "epochs")
            assert (config.tune.name, len(config.seeds)) == ("equal", 10), task.claim.id


def test_a_control_without_a_statement_is_refused() -> None:
    claim = claim_of({"contrast": "value", "at": {"split.ratio": 10}, "predicted": "positive"})
    control = Control(where="none", because="x", settings=("split.ratio=1",))
    with pytest.raises(ConfigError, match=r"claim.plain\(none\).statements=\[\]"):
        control_studies(dataclasses.replace(claim, controls=(control,)))


def test_the_pages_say_what_the_recorded_results_say() -> None:
    """docs/RESULTS.md, docs/CLAIMS.md and the comments of conf/claim agree with docs/claims.json, which covers all studies.

    Those on demand and the strong ones may be recorded, too.
    """
    entries = json.loads((claim_pages.DOCS / "claims.json").read_text())
    for path, text in claim_pages.pages(entries).items():
        assert path.read_text() == text, (
            f"{path.name}: run python -m benchmarks.claim_pages multirun/claims/claims.json"
        )
    studies = {
        (claim.id, study.where): study.on_demand
        for claim in map(load_claim, conf_names("claim"))
        for study in (*claim.studies, *control_studies(claim))
    }
    strong = {
        (claim.id, study.where) for claim in map(load_claim, conf_names("claim")) for study in strong_studies(claim)
    }
    found = {(entry["id"], entry["place"]) for entry in entries}
    assert {place for place, on_demand in studies.items() if not on_demand} <= found <= {*studies, *strong}
    supported = [(e["id"], e["place"]) for e in entries if e["expected"].startswith("not") and not e["as_expected"]]
    assert supported == []
