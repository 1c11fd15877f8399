"""Below the table: accuracy on old and new classes, a checkpoint as it is, class names, and the commands that follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import Records, load_records
from src.comparison.verdicts import judge
from src.config import compose
from src.models.build import build_model
from src.sweep.summary import report
from src.sweep.summary_notes import next_commands


def images(path: Path, names: list[str], seed: int) -> Path:
    """Grey images 4x4, brighter from class to class."""
    rng = np.random.default_rng(seed)
    y = np.resize(names, 120)
    x = rng.integers(0, 60, (120, 1, 4, 4)) + 60 * np.unique(y, return_inverse=True)[1][:, None, None, None]
    np.savez(path, x=x.astype(np.uint8), y=y)
    return path


def test_new_classes_checkpoints_and_the_next_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = images(tmp_path / "old.npz", ["cat", "dog"], 0), images(tmp_path / "new.npz", ["cat", "dogs", "owl"], 1)
    words = ["data=arrays", f"data.path={old}", f"data.path2={new}", "arch.widths=[4]", f"multirun={tmp_path / 'runs'}"]
    words += ["stopping.epochs=20", "seeds=2", "tracking=off", "trainer=cpu"]
    weights = tmp_path / "model.pt"
    torch.save(build_model(compose(words).arch, (1, 4, 4), 2, 0, torch.float32).state_dict(), weights)
    checkpoint = f"{{path:{weights},classes:[cat,dog]}}"
    cell = resolve(compose([*words, f"regimes=[{{sequential:{{checkpoint:{checkpoint}}}}},combined]"]))
    run_cell(cell)
    report(cell.sweep_dir, [cell], "the command")
    shown = capsys.readouterr().out
    lines, text = shown.splitlines(), " ".join(shown.split())
    runs = load_records(cell.sweep_dir).runs

    label = cell.config.regimes[0].label
    rows = {cells[0]: cells[1:] for line in lines if len(cells := line.split()) == 5}
    for regime in (label, "combined"):
        own = [run.result["metrics"] for run in runs if run.regime == regime and not run.collapsed]
        metrics = ("test/old/accuracy", "test/new/accuracy", "harmonic_accuracy")
        assert rows[regime] == [*(f"{100 * np.mean([one[m] for one in own]):.1f}" for m in metrics), str(len(own))]
    assert "old classes %" in text
    before = [run.result["accuracy_matrix"][0] for run in runs if run.regime == label]
    first, second = 100 * np.mean(before, axis=0)
    assert f"before it is trained on: {first:.1f} % on Dataset 1, {second:.1f} % on Dataset 2, on test samples" in text
    assert "add split.pixels=unit" in text
    assert "if it was trained on these samples, it looks too good here" in text
    assert "Dataset 2 has a new class dogs and lacks dog; if they are one class, spell them alike" in text
    assert f"page: python -m src.report sweep={cell.config.sweep} multirun={tmp_path / 'runs'}" in shown
    assert f"network: python -m src.export sweep={cell.config.sweep} multirun={tmp_path / 'runs'} " in shown
    assert "old classes %" in (cell.sweep_dir / "table.md").read_text()


def test_one_regime_is_exported_by_the_printed_command_and_no_empty_table_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = images(tmp_path / "old.npz", ["cat", "dog"], 0), images(tmp_path / "new.npz", ["cat", "owl"], 1)
    words = ["data=arrays", f"data.path={old}", f"data.path2={new}", "arch.widths=[4]", f"multirun={tmp_path / 'runs'}"]
    words += ["stopping.epochs=1", "seeds=1", "tracking=off", "trainer=cpu"]
    cell = resolve(compose([*words, "regimes=[{sequential:{optimizer.lr:1e-9}}]"]))  # it stays as good as a constant
    run_cell(cell)
    report(cell.sweep_dir, [cell], "the command")
    shown = capsys.readouterr().out
    assert "Accuracy on old and on new classes" not in shown
    assert f"the network: python -m src.export sweep={cell.config.sweep} multirun={tmp_path / 'runs'} " in shown
    assert "'regime=sequential(optimizer.lr=1e-09)'" in shown


@pytest.mark.parametrize(
    ("a", "b", "shown"), [(0.1, 0.4, "combined"), (0.4, 0.1, "sequential"), (0.2, 0.2, "sequential")]
)
def test_without_a_winner_the_regime_that_leads_is_exported(
    a: float, b: float, shown: str, cell_of: Callable[..., Records], tmp_path: Path
) -> None:
    regimes = ("sequential", "combined")
    records = cell_of(dict(zip(regimes, ([a] * 3, [b] * 3), strict=True)))
    (verdict,) = judge(records, regimes)
    cell = resolve(compose([f"multirun={tmp_path}", "split.size=60"]))
    assert next_commands([cell], [verdict], records.runs)[1].endswith(f" regime={shown}")
