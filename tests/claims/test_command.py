"""The command judges claims, runs only missing cells, and writes the files that the report reads."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from src.claims.command import main
from src.errors import ConfigError
from tests.claims.made_up_claims import PLAIN


def test_the_command_judges_prior_moves_first_and_repeats_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All outputs of the command, for a claim whose probe reads weights, trajectories and data."""
    words = ["claim=prior-moves-first", f"multirun={tmp_path}", "tracking=off", "n_workers=1", "trainer=cpu", "seeds=2"]
    assert main([*words, "stopping.epochs=5"]) == 0
    shown = capsys.readouterr().out
    assert "prior-moves-first" in shown
    assert "1 inconclusive" in shown  # two seeds are too few
    entries = json.loads((tmp_path / "claims" / "claims.json").read_text())
    assert [(one["id"], one["data"], one["n"]) for one in entries] == [("prior-moves-first", "digits", 2)]
    statements = entries[0]["statements"]
    assert all(one["effect"] is not None and one["p"] is None for one in statements)
    assert "too few seeds" in entries[0]["reason"]
    command = entries[0]["command"]
    assert command.startswith("python -m src.claims claim=prior-moves-first")
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claims/cells/*/*/result.json")}
    assert len(results) == 2
    assert main([*words, "stopping.epochs=5"]) == 0
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert json.loads((tmp_path / "claims" / "claims.json").read_text()) == entries


def test_a_dry_run_names_the_claims_of_each_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["claim=combined-wins-iid,sequential-never-wins-iid", f"multirun={tmp_path}", "tracking=off"]
    assert main([*words, "trainer=cpu", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [number for number, line in enumerate(lines) if re.match("[0-9a-f]{16} ", line)]
    first, *_, last = cells
    names = ["    claim=combined-wins-iid", "    claim=sequential-never-wins-iid"]
    assert lines[first + 1 : first + 3] == names, "a cell of both"
    assert lines[last + 1] == f"{names[1]} 'where=linear lab'"
    assert all(lines[number + 1] in (*names, lines[last + 1]) for number in cells)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["claim=forgets-d2"], "did you mean forgets-d1"),
        (["claim=forgets-d1", "where=moon"], "no study of these claims"),
        (["claim=forgets-d1", "regimes=[combined]"], "defined by the claim"),
        (["claim=forgets-d1", "seeds=[1,2]"], "must be a number"),
        (["forgets-d1"], "write key=value"),
        (["claim=forgets-d1", "split.size=99999"], "split.size"),
    ],
)
def test_a_mistake_on_the_command_line_gives_a_one_line_error(words: list[str], fix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        main([*words, f"multirun={tmp_path}", "tracking=off"])
    assert fix in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "claims" / "cells").exists()


THREE_STAGES = """
from src.regimes.stage import Mixture, Stage, Start


def both_then_new(n_parts: int) -> list[Stage]:
    first = Stage(mixture=Mixture(parts=(0, 1)))
    return [first, Stage(mixture=Mixture(parts=(1,)), start=Start(kind="previous", of=(0,)))]


REGIMES = {"both_then_new": both_then_new}
"""


def test_a_claim_and_its_control_compare_a_regime_of_a_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_lab.py"
    file.write_text(THREE_STAGES)
    claim = copy.deepcopy(PLAIN) | {"id": "mine", "controls": [{"where": "large", "because": "x", "settings": []}]}
    (study,) = claim["studies"]
    study |= {"overrides": ["split.size=60", "stopping.epochs=1"], "axes": {}, "regimes": ["both_then_new", "combined"]}
    study["statements"][0] |= {"of": "both_then_new", "minus": "combined", "metric": "test/d2/accuracy"}
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "mine.yaml").write_text(yaml.safe_dump(claim))
    monkeypatch.setattr("src.typed.CONF_DIR", tmp_path)
    words = ["claim=mine", f"multirun={tmp_path / 'm'}", "tracking=off", "n_workers=1", "trainer=cpu"]
    with pytest.raises(ConfigError, match="regimes=both_then_new: unknown regime"):
        main(words)
    named = f"plugins=[{file}]"
    assert main([*words, named]) == 0
    assert main([*words, named, "controls=true", "dry_run=true"]) == 0
    (entry,) = json.loads((tmp_path / "m" / "claims" / "claims.json").read_text())
    assert (entry["id"], entry["n"]) == ("mine", 12)
    assert named in entry["command"]
    assert "runs: 24, done 24" in capsys.readouterr().out, "the control, which changes nothing here, is the same cell"
