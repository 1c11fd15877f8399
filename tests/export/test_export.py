"""A trained network leaves its sweep: as a folder that needs PyTorch alone, and as the champion of a registered model."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from src.cells.resolve import ResolvedCell, resolve
from src.cells.run import run_cell
from src.config import compose
from src.errors import ConfigError
from src.export.command import main
from src.export.package import loaded
from src.sweep.folder import SweepFolder
from src.tracking.outbox import Deliverer
from src.training import compiling
from tests.golden.files import write_images

SETTINGS = ("split.size=60", "split.val=0.2", "stopping.epochs=2", "seeds=3", "sweep=s", "trainer=cpu")


@pytest.fixture(scope="module")
def trained(empty_multirun: Path, tmp_path_factory: pytest.TempPathFactory) -> ResolvedCell:
    """A cell with three seeds of both regimes, in MLflow too."""
    multirun = shutil.copytree(empty_multirun, tmp_path_factory.mktemp("export") / "multirun")
    return _train(multirun, "arch.widths=[16]")


def _train(multirun: Path, *overrides: str) -> ResolvedCell:
    config = compose([*SETTINGS, f"multirun={multirun}", *overrides])
    cell = resolve(config)
    folder = SweepFolder(multirun, config.sweep)
    folder.write_queue(None)
    folder.write_cell(cell.hash, config)
    run_cell(cell)
    Deliverer(cell.sweep_dir, config.tracking).start().stop()
    return cell


def _export(cell: ResolvedCell, *arguments: str) -> None:
    main([f"sweep={cell.config.sweep}", f"multirun={cell.config.multirun}", *arguments])


def _raw(cell: ResolvedCell, seed: int = 0) -> torch.Tensor:
    samples = cell.streams.build(seed).test.pools[0]
    return samples.bank.x[samples.rows[:70]]


def test_the_best_seed_by_validation_is_written_with_a_loader_of_ten_lines(
    trained: ResolvedCell, capsys: pytest.CaptureFixture[str]
) -> None:
    _export(trained, "regime=combined")
    folder = Path(capsys.readouterr().out.strip())
    files = {path.name for path in folder.iterdir()}
    assert files == {"model.pt2", "weights.safetensors", "load.py", "model.json", "README.md"}
    about = json.loads((folder / "model.json").read_text())
    assert about["classes"] == [str(k) for k in range(10)]
    validation = {seed: _last_validation(trained, seed) for seed in range(3)}
    assert about["seed"] == max(validation, key=lambda seed: validation[seed])

    tree = ast.parse((folder / "load.py").read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"json", "pathlib", "torch"}
    code = [line for line in (folder / "load.py").read_text().splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 10
    weights = load_file(folder / "weights.safetensors")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    names = {"1": "hidden_1", "3": "head"}
    network.load_state_dict(
        {f"{k}.{what}": weights[f"{name}.{what}"] for k, name in names.items() for what in ("weight", "bias")}
    )
    bank = trained.streams.source.bank
    for n in (1, 2, 70):
        raw = _raw(trained)[:n]
        assert torch.equal(loaded(folder)(raw.numpy()), network(bank.scale(raw))), "bit for bit"
    card = (folder / "README.md").read_text()
    assert "chosen" not in card
    assert "the best of 3 by accuracy on union (validation), without a look at test data" in card
    assert "| accuracy on d2 |" in card
    assert "python -m src.sweep" in card


def _last_validation(cell: ResolvedCell, seed: int) -> float:
    from src.comparison.metrics import run_metric
    from src.comparison.pairing import load_records

    (run,) = (r for r in load_records(cell.sweep_dir).runs if (r.regime, r.seed) == ("combined", seed))
    value = run_metric(run, "last/val/union/accuracy")
    assert value is not None
    return value


def test_a_registered_model_is_the_champion_and_gives_the_same_bits(
    trained: ResolvedCell, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    for seed in (0, 1):
        _export(trained, "regime=sequential", f"seed={seed}", "register=digits")
    *_, folder, line = capsys.readouterr().out.splitlines()
    assert line == "models:/digits@champion is version 2"
    multirun = Path(trained.config.multirun)
    client = mlflow.MlflowClient(f"sqlite:///{multirun / 'mlflow.db'}")
    version = client.get_model_version_by_alias("digits", "champion")
    (run,) = (r for r in [client.get_run(str(version.run_id))])
    assert (run.data.params["seed"], run.data.params["regime"]) == ("1", "sequential")
    model = client.get_logged_model(version.tags["model_id"])
    assert (str(model.status), model.source_run_id) == ("READY", version.run_id)
    stored = multirun / "mlartifacts" / str(version.source).removeprefix("mlflow-artifacts:/")
    reloaded = mlflow.pytorch.load_model(str(stored))
    with torch.no_grad():
        assert torch.equal(reloaded(_raw(trained)), loaded(Path(folder))(_raw(trained)))


def test_convolutions_of_photos_and_all_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A colour image is a byte for each channel; the scale of the pixels is inside the program."""
    write_images(tmp_path / "photos", per_class=16, side=12)
    cell = _train(
        tmp_path / "multirun",
        *("data=image_folder", f"data.path={tmp_path / 'photos'}", "arch=cnn"),
        *("tracking=off", "seeds=2", "regimes=[combined]", "split.size=24", "split.val=0.2"),
    )
    _export(cell, "regime=combined", "seed=all", f"to={tmp_path / 'out'}", f"cell={cell.hash[:4]}")
    folders = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.parent for path in folders] == [tmp_path / "out"] * 2
    about = json.loads((folders[0] / "model.json").read_text())
    assert about["input"]["dtype"] == "uint8"
    assert len(about["inside_the_program"]["mean"]) == 3
    first, second = (loaded(folder)(_raw(cell)) for folder in folders)
    assert not torch.equal(first, second)
    inputs = []
    lines = re.findall(r"```\n(import numpy.*?)```", (folders[0] / "README.md").read_text(), re.DOTALL)
    for path in sorted((tmp_path / "photos").glob("*/*")):
        names: dict[str, Any] = {"FILE": path}
        exec(lines[0], names)
        inputs.append(torch.from_numpy(names["x"]))
    assert torch.equal(torch.cat(inputs), cell.streams.source.bank.x), (
        "the lines of the card read a file as training did"
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_the_card_of_a_table_has_the_lines_that_scale_and_code_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """The program of a table takes scaled columns, so whoever passes the file's own numbers gets wrong answers."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(80) < 0.1, np.nan, rng.normal(50, 9, 80)),
            " colour": np.resize(np.array(["red", "green ", None], dtype=object), 80),
            "used": rng.random(80) < 0.5,
            "price": rng.normal(size=80),
        }
    )
    file = tmp_path / f"old{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    words = ("data=table", f"data.path={file}", "data.target=price", "loss=mse", "tracking=off", "regimes=[combined]")
    cell = _train(tmp_path / "multirun", *words, "split.size=40", "seeds=1")
    _export(cell, "regime=combined")
    folder = Path(capsys.readouterr().out.strip())
    card, loader = (folder / "README.md").read_text(), (folder / "load.py").read_text()
    assert "on Dataset 1 (20 samples) and Dataset 2 (20 samples)" in card
    assert "columns of the table, scaled and coded as in training" in card
    assert "columns of the table, scaled and coded as in training" in loader
    assert "scales them itself" not in card
    (lines,) = re.findall(r"```\n(import numpy.*?)```", card, re.DOTALL)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "load", raising=False)
    names: dict[str, Any] = {"FILE": file}
    exec(lines, names)
    monkeypatch.delitem(sys.modules, "load")
    assert torch.equal(torch.from_numpy(names["x"]), cell.streams.source.bank.x)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch needs a C++ compiler")
def test_a_network_that_was_trained_compiled_is_written_as_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "COMPILE_SECONDS", (0.0, 0.0))
    cell = _train(tmp_path / "multirun", "tracking=off", "seeds=1", "regimes=[combined]", "trainer.compile=true")
    _export(cell, "regime=combined", "seed=0", f"to={tmp_path / 'out'}")
    (folder,) = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert loaded(folder)(_raw(cell)).shape == (70, 10)


def test_what_cannot_be_exported_is_refused_in_one_line(trained: ResolvedCell, tmp_path: Path) -> None:
    def refused(*arguments: str, cell: ResolvedCell = trained) -> str:
        with pytest.raises(ConfigError) as error:
            _export(cell, *arguments)
        return str(error.value)

    assert "regime=combine: has no finished run in cell" in refused("regime=combine")
    assert "did you mean combined?" in refused("regime=combine")
    assert "seed=9: combined has no such finished run; take best, all or one of 0, 1, 2" in refused(
        "regime=combined", "seed=9"
    )
    assert f"cell=zz: is no cell of this sweep; take one of {trained.hash[:8]} (ratio 1" in refused(
        "regime=combined", "cell=zz"
    )
    assert "register=NAME takes one network" in refused("regime=combined", "seed=all", "register=x")
    assert "there is no such sweep" in refused("regime=combined", "sweep=nothing")
    moved = shutil.copytree(trained.config.multirun, tmp_path / "multirun")
    shutil.rmtree(moved / ".stages")
    problem = refused("regime=combined", "seed=0", f"multirun={moved}")
    assert "seed=0: the weights of combined are not in the stage store" in problem
    assert "trainer.store_gib=0, which keeps all weights" in problem


BRANCH = """
from torch import nn

class Branch(nn.Module):
    def __init__(self, in_features: int, n_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, n_outputs)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x) if len(x) > 3 else self.head(x) + 0
"""


def test_a_network_with_a_branch_on_the_batch_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "branch.py").write_text(BRANCH)
    plugin = (f"plugins=[{tmp_path / 'branch.py'}]", "arch=Branch")
    cell = _train(tmp_path / "multirun", *plugin, "tracking=off", "seeds=1", "regimes=[combined]")
    with pytest.raises(ConfigError, match=r"register=x: the sweep has tracking=off"):
        _export(cell, "regime=combined", "seed=0", "register=x")
    problem = r"arch=Branch: the network cannot be written as a program \(.*avoid branches in its forward"
    monkeypatch.delenv("SWEEP_PLUGINS")  # in another command nobody has named the file yet
    with pytest.raises(ConfigError, match=r"if you trust it, add plugins=\[.*branch.py\]"):
        _export(cell, "regime=combined", "seed=0")
    with pytest.raises(ConfigError, match=problem) as error:
        _export(cell, "regime=combined", "seed=0", plugin[0])
    assert "\n" not in str(error.value)
