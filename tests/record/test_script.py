"""A script of the user's own is driven stage by stage; the scripts are those of docs/RECORD.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from src.comparison.pairing import load_records
from src.errors import ConfigError
from src.record.command import main

PAGE = Path(__file__).parents[2] / "docs" / "RECORD.md"
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))

FAKE = """
import json, sys
from pathlib import Path

data, weights, out, marker = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
stage = json.loads((data / "stage.json").read_text())
with marker.with_name("calls.txt").open("a") as calls:
    calls.write(f"{stage['stage']} {stage['parts']} {stage['seed']} {bool(weights)}\\n")
if stage["stage"] == 2 and not marker.exists():
    print("it starts well")
    sys.exit("CUDA is out of memory")
if weights:
    assert (Path(weights) / "model").read_text() == "stage 1"
(out / "model").write_text(f"stage {stage['stage']}")
old, new = (len(set((data / "train.txt").read_text().split()) & set(map(str, range(k, k + 50)))) for k in (0, 50))
metrics = {"d1/accuracy": old / 50, "d2/accuracy": new / 50, "union/accuracy": (old + new) / 100, "updates": 10}
(out / "metrics.json").write_text(json.dumps(metrics))
"""


def _lists(folder: Path) -> str:
    """Two data sets of digits, a line of numbers each."""
    x, y = load_digits(return_X_y=True)
    lines = [",".join(map(str, [*(row / 16).round(3), label])) for row, label in zip(x[:500], y[:500], strict=True)]
    for name, chosen in (("old.csv", lines[:250]), ("new.csv", lines[250:])):
        (folder / name).write_text("\n".join(chosen) + "\n")
    return f"data.lists=[{folder / 'old.csv'},{folder / 'new.csv'}]"


@pytest.mark.parametrize(
    ("name", "regimes"), [("partial_fit.py", ["sequential", "combined"]), ("train.py", ["sequential"])]
)
def test_a_script_of_the_page_is_driven(
    name: str, regimes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(SCRIPTS[name])
    assert len([line for line in SCRIPTS[name].splitlines() if line.strip()]) <= 40
    weights = "--resume {weights} --out" if name == "train.py" else "{weights}"
    weights = weights.replace("{weights}", '"{weights}"')
    run = f"{sys.executable} {tmp_path / name} {{stage_data}} {weights} {{out}}"
    arguments = [f"engine.run={run}", _lists(tmp_path), "seeds=1", "sweep=s", "tracking=off", f"multirun={tmp_path}"]
    arguments.append(f"regimes=[{','.join(regimes)}]")
    assert main(arguments) == 0
    assert f"{len(regimes)} runs in 1 cell, {len(regimes)} of them new" in capsys.readouterr().out
    runs = load_records(tmp_path / "s").runs
    values = [run.metric("test/union/accuracy") for run in runs]
    assert min(value or 0 for value in values) > 0.7, "it learned"
    assert all(run.metric("forgetting") is not None for run in runs if run.regime == "sequential")
    assert main(arguments) == 0
    assert f"{len(regimes)} runs in 1 cell, 0 of them new" in capsys.readouterr().out


def test_a_script_that_fails_in_stage_2_is_resumed_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, start in (("old.txt", 0), ("new.txt", 50)):
        (tmp_path / name).write_text("".join(f"{k}\n" for k in range(start, start + 50)))
    (tmp_path / "fake.py").write_text(FAKE)
    run = f"{sys.executable} {tmp_path / 'fake.py'} {{stage_data}} '{{weights}}' {{out}} {tmp_path / 'fixed'}"
    arguments = [
        f"engine.run={run}",
        f"data.lists=[{tmp_path / 'old.txt'},{tmp_path / 'new.txt'}]",
        *(
            "regimes=[sequential,{replay:{share:0.2}},warm_start,combined,d1_only]",
            "seeds=2",
            "split.val=0",
            "axis.size=50",
        ),
        *("sweep=s", "tracking=off", f"multirun={tmp_path}"),
    ]
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.err.count("stage 2 exited with 1: CUDA is out of memory; see ") == 6
    assert "4 runs in 1 cell, 4 of them new" in output.out, "combined and the first stage alone need no second one"
    first = (tmp_path / "calls.txt").read_text().splitlines()
    assert first.count("1 [1] 0 False") == 1, "one first stage serves all regimes"
    assert len(first) == 2 * (1 + 1 + 3)

    (tmp_path / "fixed").touch()
    assert main(arguments) == 0
    assert "10 runs in 1 cell, 6 of them new" in capsys.readouterr().out
    again = (tmp_path / "calls.txt").read_text().splitlines()[len(first) :]
    assert sorted(again) == sorted(f"2 {parts} {seed} True" for parts in ([2], [1, 2], [1, 2]) for seed in (0, 1))
    by_regime = {run.regime: run for run in load_records(tmp_path / "s").runs if run.seed == 0}
    shares = {name: [run.metric(f"test/{part}/accuracy") for part in ("d1", "d2")] for name, run in by_regime.items()}
    assert shares["sequential"] == [0.0, 0.8]
    assert shares["combined"] == shares["warm_start"] == [0.8, 0.8]
    assert shares["replay(share=0.2)"] == [0.2, 0.8], "a fifth of the list is old"
    assert by_regime["sequential"].metric("forgetting") == pytest.approx(0.8)
    assert by_regime["sequential"].result["cost"] == {"updates": 20.0}
    assert by_regime["sequential"].axes["size"] == 50
    assert by_regime["sequential"].provenance["seconds"] > 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"engine.run": "true {out}"}, r"engine.run=true {out}: lacks {stage_data}; e.g. "),
        (
            {"engine.run": "true {stage_data} {out} {epochs}"},
            r"unknown place {epochs}; known: out, seed, stage_data, weights",
        ),
        ({"engine.run": "no-such-program {stage_data} {out}"}, "there is no program no-such-program; give its path"),
        ({"engine.run": "true {stage_data} '{out}"}, "cannot be read"),
        ({"data.lists": "[{old},{old}.missing]"}, r"data.lists=.*missing: cannot read"),
        ({"data.lists": "[{old},{short}]"}, "has 1 lines; give one sample a line"),
        ({"split.test": "2"}, "split.test=2: must be a share"),
        ({"engine.jobs": "0"}, "engine.jobs=0: must be a whole number from 1"),
        ({"regimes": "[sequential,ewc]"}, r"regimes=ewc: stage 2 needs more than data and starting weights"),
        ({"regimes": "[sequential,{freeze:{layers:1}}]"}, r"regimes=freeze.*: stage 2 needs more"),
        ({"regimes": "[sequential,shrink_perturb]"}, r"regimes=shrink_perturb: stage 2 needs more"),
        ({"regimes": "[sequential,rebalanced]"}, r"regimes=rebalanced: stage 1 needs more"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(settings: dict[str, str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("\n".join(map(str, range(50))))
    (tmp_path / "short.txt").write_text("1\n")
    given = {
        "engine.run": "false {stage_data} {out}",
        "data.lists": "[{old},{old}]",
        "sweep": "s",
        "tracking": "off",
    } | settings
    given["data.lists"] = given["data.lists"].format(old=tmp_path / "old.txt", short=tmp_path / "short.txt")
    with pytest.raises(ConfigError, match=problem) as error:
        main([*(f"{key}={value}" for key, value in given.items()), f"multirun={tmp_path / 'multirun'}"])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "multirun").glob("s/script/*"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing or no JSON object"),
        ('{"d1/accuracy": 0.5}', "has no metric on the union"),
        ('{"union/accuracy": "good"}', "not a number"),
        ('{"union/accuracy": 87}', "not a share between 0 and 1"),
        ('{"lr": 0.1}', "which is no metric; write SET/METRIC, e.g. union/lr"),
    ],
)
def test_metrics_that_cannot_be_used_fail_the_run_with_the_fix(
    content: str | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.txt").write_text("\n".join(map(str, range(50))))
    (tmp_path / "m.json").write_text(content or "")
    copy = f"cp {tmp_path / 'm.json'} {{out}}/metrics.json" if content else "true {out}"
    run = f"sh -c '{copy}' {{stage_data}}"
    lists = f"data.lists=[{tmp_path / 'old.txt'},{tmp_path / 'old.txt'}]"
    multirun = f"multirun={tmp_path / 'multirun'}"
    assert main([f"engine.run={run}", lists, "regimes=[combined]", "seeds=1", "sweep=s", "tracking=off", multirun]) == 1
    assert problem in capsys.readouterr().err
