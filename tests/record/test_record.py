"""Runs of another trainer become the cells, verdicts, MLflow runs and report of a sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from src.comparison.units import unit_of
from src.errors import ConfigError
from src.record.command import main
from src.record.rows import read_runs
from src.report.command import read_sweep
from src.report.page import write_report
from src.sweep.folder import SweepFolder

HEAD = "regime,seed,hours,model,union/wer,d1/wer,seconds"


def _rows(seeds: int = 7) -> list[str]:
    """Two cells; sequential makes 3 points more errors than combined, of which one seed at 100 hours diverged."""
    rows = []
    for hours in (100, 1000):
        for regime, errors in (("sequential", 0.21), ("combined", 0.18)):
            rows += [
                f"{regime},{k},{hours},conformer,{errors + k / 500:.3f},{errors:.3f},{60 + k}" for k in range(seeds)
            ]
    return rows


def _file(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_recorded_runs_are_judged_tracked_and_reported(
    tmp_path: Path, empty_multirun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    multirun = shutil.copytree(empty_multirun, tmp_path / "multirun")
    file = _file(tmp_path, *_rows())
    arguments = [str(file), "sweep=speech", f"multirun={multirun}"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "28 runs in 2 cells, 28 of them new" in out
    assert "Lower wer on union is better" in out
    assert "combined wins 2 of 2 cells" in out.lower(), "its errors are fewer, so the positive difference favours it"
    table = (multirun / "speech" / "table.csv").read_text().splitlines()
    assert table[0].startswith("cell,hours,model,metric,a,b")
    assert ",100,conformer,test/union/wer,sequential,combined," in table[1]
    assert ",3.000,3.000,3.000,points,0.015625,0.031250," in table[1], "2/2**7, twice by Holm's correction"

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{multirun / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("speech")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.sweep = 'speech'")
    by_level = {level: [run for run in runs if run.data.tags["level"] == level] for level in ("sweep", "cell", "run")}
    assert {level: len(found) for level, found in by_level.items()} == {"sweep": 1, "cell": 2, "run": 28}
    one = next(run for run in by_level["run"] if run.data.params["seed"] == "3" and run.data.params["hours"] == "100")
    assert one.data.metrics["cost/seconds"] == 63
    assert one.data.tags["engine"] == "recorded"

    assert main(arguments) == 0
    assert "28 runs in 2 cells, 0 of them new" in capsys.readouterr().out
    file.write_text(file.read_text() + "sequential,7,100,conformer,0.21,0.2,60\nsequential,8,100,conformer,nan,,\n")
    assert main([*arguments, "tracking=off"]) == 0
    out = capsys.readouterr().out
    assert "30 runs in 2 cells, 2 of them new" in out
    assert "diverged" in out
    assert json.loads((multirun / "speech" / "recorded.json").read_text())["regimes"] == ["sequential", "combined"]
    sweep = read_sweep(multirun, "speech")
    html, cells, ledger = write_report(sweep, paper=True)
    paper = {path.name for path in (html.parent / "paper").iterdir()}
    assert {path.with_suffix(kind).name for path in html.parent.glob("*.png") for kind in (".pdf", ".svg")} < paper
    assert r"\toprule" in (html.parent / "paper" / "cells.tex").read_text()
    assert "wer on union" in html.read_text()
    assert "sequential,combined" in cells.read_text(), "differences have the sign of the table"
    assert ",,,,61.0000,0" in ledger.read_text().replace("conformer,recorded,sequential,1", ""), (
        "unknown costs are empty"
    )

    with pytest.raises(ConfigError, match="sweep=speech: has runs that another trainer made, so there is no queue"):
        SweepFolder(multirun, "speech").read_queue()

    changed = _file(tmp_path, *(row.replace("0.210", "0.310") for row in _rows()))
    with pytest.raises(
        ConfigError, match=r"line 2: sequential with seed 0 is recorded with other values; delete .*sequential-0"
    ):
        main([str(changed), "sweep=speech", f"multirun={multirun}", "tracking=off"])


@pytest.mark.parametrize(
    ("head", "row", "problem"),
    [
        ("seed,union/wer", "0,0.1", "has no column regime; its columns are seed, union/wer"),
        ("regime,union/wer", "a,0.1", "has no column seed"),
        ("regime,seed,hours", "a,0,10", "has no metric on the union .* add a column such as union/accuracy"),
        (
            "regime,seed,union/wer,d1/bleu",
            "a,0,0.1,30",
            "column 'd1/bleu': unknown metric; known: accuracy, .* NAME_score",
        ),
        ("regime,seed,union/wer,foo/wer", "a,0,0.1,0.1", "column 'foo/wer': is no SET/METRIC"),
        ("regime,seed,union/wer,union/wer", "a,0,0.1,0.1", "has 2 columns 'union/wer'"),
        ("regime,seed,wer,union/wer", "a,0,0.1,0.1", "column 'union/wer': is the metric test/union/wer a second time"),
        (
            "regime,seed,accuracy",
            "a,0,87.3",
            "line 2: accuracy is 87.3, not a share between 0 and 1; divide percent by 100",
        ),
        ("regime,seed,accuracy", "a,0,good", "line 2: accuracy is 'good', not a number"),
        ("regime,seed,accuracy", "a,0", "line 2: has 2 values, the headings are 3"),
        ("regime,seed,accuracy", "a,first,0.5", "line 2: seed 'first' is no whole number"),
        ("regime,seed,accuracy", ",0,0.5", "line 2: has no regime"),
        ("regime,seed,accuracy", "a,0,", "line 2: has no metric; write nan for a run that diverged"),
        ("regime,seed,accuracy,lr", "a,0,0.5,", "line 2: lr has no value, or a very long one; write - "),
        ("regime,seed,accuracy,ratio", "a,0,0.5,1:2", "line 2: ratio is '1:2', not a number"),
        ("regime,seed,accuracy,seconds", "a,0,0.5,-3", "line 2: a cost of -3 cannot be"),
        ("regime,seed,accuracy", "a,0,0.5\nb,0,0.5\na,0,0.6", "line 4: a has seed 0 on line 2 already"),
        ("regime,seed,accuracy", "a,0,0.5\nb,1,0.5", "no two of a, b share a seed in a cell"),
        (
            "regime,seed,accuracy,bleu",
            "a,0,0.5,0.1\nb,0,0.5,0.2\na,1,0.5,0.3",
            "column 'bleu' differs in every row; a metric is written SET/METRIC, e.g. union/bleu",
        ),
        ("regime,seed,accuracy", "", "has no rows"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, head: str, row: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        read_runs(_file(tmp_path, *row.splitlines(), head=head))
    assert "\n" not in str(refused.value)


def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, multirun = str(_file(tmp_path, *_rows())), f"multirun={tmp_path / 'multirun'}"
    (tmp_path / "multirun" / "trained").mkdir(parents=True)
    (tmp_path / "multirun" / "trained" / "queue.json").write_text("{}")
    with pytest.raises(ConfigError, match="trained: is a sweep that is trained here"):
        main([file, "sweep=trained", multirun])
    with pytest.raises(ConfigError, match="baseline=comb: is no recorded regime; did you mean combined"):
        main([file, "sweep=speech", multirun, "baseline=comb"])
    with pytest.raises(ConfigError, match=r"cannot read .*nothing.csv \(No such file or directory\)"):
        main([str(tmp_path / "nothing.csv"), "sweep=speech", multirun])
    for arguments, line in (
        ([file, multirun], "sweep=: is missing"),
        (["sweep=a", multirun], "csv=: give one file"),
        ([file, "sweep=a", "seeds=3"], "seeds: unknown"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert line in capsys.readouterr().err
    assert not (tmp_path / "multirun" / "speech").exists()


def test_a_table_of_a_spreadsheet_is_read_with_any_separator(tmp_path: Path) -> None:
    path = _file(tmp_path, "a;0;0.5;60", "", "b;0;0.6;", head="regime;seed;accuracy;seconds")
    first, second = read_runs(path)
    assert (first.metrics, first.costs, first.axes) == ({"test/union/accuracy": 0.5}, {"seconds": 60.0}, {})
    assert (second.line, second.costs) == (4, {})


def test_names_of_recorded_metrics_say_what_is_better() -> None:
    assert not unit_of("test/union/wer").higher_is_better
    assert unit_of("test/union/mAP").value(0.374) == "37.4"
    assert unit_of("test/union/bleu_score").value(30.0) == "30.0000"
    assert not unit_of("test/union/ctc_loss").higher_is_better
