"""Equal tuning: every regime gets equally many trials of equal budgets, on seeds of its own; the comparison trains with what
they chose. The choice is a function of the cell and the regime: not of interruptions, order, or the compared seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.cells.outcome import CellOutcome
from src.cells.resolve import ResolvedCell, resolve
from src.cells.run import help_cell, run_cell
from src.cells.tuning import edges_of, sample
from src.comparison.tuning import Tuned, path_of, read_tuned
from src.config import compose
from src.config.command import command
from src.config.space import distribution_of
from src.config.tune import FIRST_SEED, OFF, EqualTuning
from src.errors import Interrupted
from src.report.plots import Canvas, line_styles
from src.report.tuning import tuning_section
from src.sweep.summary import read_records, report
from src.tracking.runs import record_of
from tests.cells.running import cell as config_of
from tests.cells.running import results
from tests.training.cells import OnStage

TUNE = ["tune=equal", "tune.trials=4", "tune.seeds=2", "seeds=2"]
LABELS = ("sequential", "combined", "d1_only")


def tuned_cell(folder: Path, *words: str) -> ResolvedCell:
    return resolve(config_of(folder, *TUNE, f"regimes=[{','.join(LABELS)}]", "split.ratio=1", *words))


def tuning(cell: ResolvedCell) -> dict[str, Tuned]:
    found = {label: read_tuned(cell.folder, label) for label in LABELS}
    return {label: tuned for label, tuned in found.items() if tuned is not None}


def without_seconds(tuned: Tuned) -> dict[str, Any]:
    body = dataclasses.asdict(tuned)
    for trial in body["trials"]:
        del trial["seconds"]
        for run in trial["runs"]:
            del run["seconds"]
    return body


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> ResolvedCell:
    """A tuned cell of three regimes after its run."""
    cell = tuned_cell(tmp_path_factory.mktemp("tuned"))
    outcome = run_cell(cell)
    assert not outcome.failures
    assert len(outcome.folders) == 6
    return cell


def test_budgets_are_equal_and_seeds_disjoint(cell: ResolvedCell) -> None:
    found = tuning(cell)
    assert {label: len(tuned.trials) for label, tuned in found.items()} == dict.fromkeys(LABELS, 4)
    for label in ("sequential", "combined"):
        costs = {(trial.samples, trial.flops) for trial in found[label].trials}
        assert len(costs) == 1
        assert costs == {(found["combined"].trials[0].samples, found["combined"].trials[0].flops)}
        assert costs == {(2 * 2 * 60, found["combined"].trials[0].flops)}, "seeds x epochs x samples"
    seeds = {run["seed"] for tuned in found.values() for trial in tuned.trials for run in trial.runs}
    assert seeds == {FIRST_SEED, FIRST_SEED + 1}
    assert not seeds & set(cell.config.seeds)


def test_the_best_trial_by_validation_is_what_the_comparison_trains_with(cell: ResolvedCell) -> None:
    for label, tuned in tuning(cell).items():
        assert set(tuned.chosen.values) == {"optimizer.lr"} | ({"lr_factor"} if label == "sequential" else set())
        for trial in tuned.trials:
            values = [run["metrics"]["val/union/accuracy"] for run in trial.runs]
            assert trial.score == pytest.approx(math.fsum(values) / len(values))
        assert tuned.chosen.score == max(trial.score or 0 for trial in tuned.trials)
        body = json.loads((cell.folder / f"{label}-0/result.json").read_text())
        assert body["regime"] == label
        assert body["knobs"] == tuned.chosen.values
        assert body["axes"]["tune"] == "equal"
        own = yaml.safe_load((cell.folder / f"{label}-0/config.yaml").read_text())["regime"]
        assert own == {"name": label, **tuned.chosen.values}


def test_the_chosen_values_without_tuning_are_the_same_stages(cell: ResolvedCell, fits: list[int]) -> None:
    config = dataclasses.replace(cell.config, tune=OFF, regimes=cell.regimes_as_trained)
    words = command(config)
    assert "tune" not in words
    assert "optimizer.lr:" in words
    named = tuple(dataclasses.replace(regime, named="") for regime in config.regimes)
    plain = resolve(dataclasses.replace(config, regimes=named))
    run_cell(plain)
    assert not fits, "every stage is in the store"
    for regime, label in zip(named, LABELS, strict=True):
        files = (plain.run_folder(regime, 1), cell.folder / f"{label}-1")
        same, tuned = (json.loads((folder / "result.json").read_text())["result"] for folder in files)
        assert same == tuned


def test_a_helper_tunes_into_the_store_and_leaves_choice_and_results_to_the_worker_of_the_cell(
    cell: ResolvedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tuned_cell(tmp_path)
    helper = OnStage(lambda: None)
    helper.helps = True
    outcomes: list[CellOutcome] = []

    def sleep(_: float) -> None:  # the helper waits for the choice
        assert len(outcomes) == len(tuning(again)) == 0
        assert not list(again.folder.glob("*/*.json"))
        outcomes.append(run_cell(again))

    monkeypatch.setattr("src.cells.tuning.time.sleep", sleep)
    help_cell(again, helper)
    assert [outcome.failures for outcome in outcomes] == [()]
    tuned = tuning(again)
    assert {label: without_seconds(one) for label, one in tuned.items()} == {
        label: without_seconds(one) for label, one in tuning(cell).items()
    }
    assert results(again.config) == results(cell.config)


def test_interruption_and_order_change_no_choice(cell: ResolvedCell, tmp_path: Path) -> None:
    again = tuned_cell(tmp_path, "regimes=[d1_only,combined,sequential]", "seeds=[5]")
    assert again.hash == cell.hash
    n_calls = 0

    def stop() -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls in (3, 12, 30):
            raise Interrupted

    for _ in range(3):
        with pytest.raises(Interrupted):
            run_cell(again, OnStage(stop))
    assert len(tuning(again)) < 3, "the last interruption fell into the tuning"
    run_cell(again, OnStage(stop))
    assert {k: without_seconds(t) for k, t in tuning(again).items()} == {
        k: without_seconds(t) for k, t in tuning(cell).items()
    }


def test_further_seeds_keep_the_choice_and_a_damaged_file_is_made_again(cell: ResolvedCell, fits: list[int]) -> None:
    before, path = tuning(cell), path_of(cell.folder, "sequential")
    path.write_text(path.read_text().replace('"best"', '"bets"'))
    with pytest.warns(UserWarning, match="is damaged"):
        assert read_tuned(cell.folder, "sequential") is None
    run_cell(resolve(dataclasses.replace(cell.config, seeds=(0, 1, 2))))
    assert {k: without_seconds(t) for k, t in tuning(cell).items()} == {
        k: without_seconds(t) for k, t in before.items()
    }
    assert set(fits) == {1}, "only the stages of the new seed are trained"


def test_a_diverging_trial_is_the_worst(tmp_path: Path) -> None:
    space = "tune.space='{optimizer.lr: [0.05,1e18]}'"
    cell = tuned_cell(tmp_path, space, "regimes=[combined]", "seeds=[0]", "tune.trials=8")
    assert not run_cell(cell).failures
    (tuned,) = tuning(cell).values()
    problems = {trial.values["optimizer.lr"]: trial.problem for trial in tuned.trials}
    assert problems == {0.05: "", 1e18: "its loss is not finite"}
    assert tuned.chosen.values == {"optimizer.lr": 0.05}
    assert tuned.edges == {"optimizer.lr": "lower"}
    assert min(tuned.scores()) == tuned.chosen.score

    cell = tuned_cell(tmp_path, "tune.space='{optimizer.lr: [1e17,1e18]}'", "regimes=[combined]", "seeds=[0]")
    assert "diverged" in run_cell(cell).failures[0]
    assert "no trial of its tuning has a score: its loss is not finite" in tuning(cell)["combined"].remarks[-1]


def test_points_are_spread_evenly_and_depend_on_seed_cell_and_regime() -> None:
    config = compose(["tune=equal", "tune.trials=8"])
    assert isinstance(config.tune, EqualTuning)
    space = config.tune.space_of(config.regimes[0])
    points = sample(config.tune, space, "cell", "sequential")
    for key, low, decades in (("optimizer.lr", -3, 3), ("lr_factor", -3, 3)):
        eighths = sorted(math.floor(8 * (math.log10(point[key]) - low) / decades) for point in points)
        assert eighths == list(range(8)), f"one point of {key} in every eighth"
    assert points == sample(config.tune, space, "cell", "sequential")
    other = dataclasses.replace(config.tune, seed=1)
    assert points not in (sample(other, space, "cell", "sequential"), sample(config.tune, space, "cell", "replay"))


@pytest.mark.parametrize(
    ("axis", "value", "edge"),
    [
        ("tag(log,interval(1e-3,1))", 0.0023, "lower"),
        ("tag(log,interval(1e-3,1))", 0.0025, None),
        ("tag(log,interval(1e-3,1))", 0.4, None),
        ("tag(log,interval(1e-3,1))", 0.43, "upper"),
        ("interval(0,1)", 0.2, None),
        ("range(1,9)", 1, "lower"),
        ("0.1,0.3,1", 1, "upper"),
        ("0.1,0.3,1", 0.3, None),
        ("constant,cosine", "cosine", None),
    ],
)
def test_edges(axis: str, value: Any, edge: str | None) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    space = {"key": distribution_of("key", OverridesParser.create().parse_override(f"key={axis}"))}
    assert edges_of({"key": value}, space, 4) == ({} if edge is None else {"key": edge})


def test_what_a_reader_sees(cell: ResolvedCell, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, its remarks, tuning.csv, MLflow's record of the cell, and the section of the report."""
    found = tuning(cell)
    report(cell.sweep_dir, [cell], "the command")
    out = capsys.readouterr().out
    for label, tuned in found.items():
        assert label in out
        for key, value in tuned.chosen.values.items():
            assert f"{key.rpartition('.')[2]} {value:g}" in " ".join(out.split())
    assert "trials each by accuracy on union (validation), %" in " ".join(out.split())
    assert "have different budgets in samples" in " ".join(out.split()), "d1_only sees Dataset 1 alone"
    assert len((cell.sweep_dir / "tuning.csv").read_text().splitlines()) == 1 + 3 * 4
    record = record_of(cell.folder)
    assert {f"tuning-{label}.json" for label in LABELS} <= record.artifacts.keys()
    rate = found["combined"].chosen.values["optimizer.lr"]
    assert ("tuned/combined/optimizer.lr", rate) in {(point.name, point.value) for point in record.points}
    assert f"{{combined:{{optimizer.lr:{rate}}}}}" in record.tags["mlflow.note.content"]

    from src.comparison.verdicts import judge

    verdicts = judge(read_records(cell.sweep_dir, [cell]), LABELS)
    chosen = {(cell.hash, label): tuned for label, tuned in found.items()}
    canvas = Canvas(folder=cell.sweep_dir, styles=line_styles(LABELS))
    section = tuning_section(verdicts, chosen, canvas)
    assert section is not None
    assert section["text"].startswith("Expected best after 1, 2, 4 trials, mean over 1 cells: sequential ")
    assert "sequential from" in section["plot"].alt
    assert section["side_by_side"] is None
    both = [dataclasses.replace(one, cell="default", winner="combined") for one in verdicts] + verdicts
    section = tuning_section(both, chosen, canvas)
    assert section is not None
    (row,) = section["side_by_side"].rows
    assert [field.text for field in row][1::2] == ["combined", verdicts[0].winner], "default, then tuned"
    assert tuning_section(verdicts, {}, canvas) is None


def test_a_best_value_at_the_edge_is_remarked(cell: ResolvedCell) -> None:
    from src.comparison.tuning import with_remarks
    from src.comparison.verdicts import judge

    tuned = dataclasses.replace(tuning(cell)["combined"], edges={"optimizer.lr": "upper"})
    verdicts = with_remarks(judge(read_records(cell.sweep_dir, [cell]), LABELS), {(cell.hash, "combined"): tuned})
    noted = [verdict for verdict in verdicts if any("widen it (upper end of optimizer.lr)" in n for n in verdict.notes)]
    assert {(verdict.a, verdict.b) for verdict in noted} == {("sequential", "combined"), ("combined", "d1_only")}
