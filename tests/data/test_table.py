"""Tables of the user's own: numbers scaled, texts and gaps encoded alike for both files; what cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_wine

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records
from src.config import compose
from src.data.source import Source
from src.data.sources.table import TableData
from src.errors import ConfigError

OLD = pd.DataFrame({
    "age": [20.0, 40.0, None, 60.0], "town": ["Rome", "Oslo", "Rome", None], "id": [1, 2, 3, 4],
    "paid": [True, False, True, True], "kind": [1, 2, 1, 2],
})  # fmt: skip
NEW = pd.DataFrame({
    "kind": [2, 3], "age": [40.0, 80.0], "town": ["Lima", "Rome"], "id": [5, 6], "paid": [False, True],
})  # fmt: skip


def source(
    folder: Path, path2: str | None = None, path: str = "old.csv", target: str = "kind", drop: tuple[str, ...] = ("id",)
) -> Source:
    data = TableData(name="table", root=str(folder), path=path, path2=path2, target=target, drop=drop)
    return data.load(folder)


def test_columns_become_inputs_alike_in_both_files(tmp_path: Path) -> None:
    OLD.to_csv(tmp_path / "old.csv", index=False)
    NEW.to_csv(tmp_path / "new.csv", index=False)
    first = source(tmp_path, "new.csv")
    assert first.class_names == ("1", "2", "3")
    deviation = np.std([20, 40, 60])  # age, age is missing; town: (missing), Lima, Oslo, Rome; paid: false, true
    expected = [
        [-20 / deviation, 0, 0, 0, 0, 1, 0, 1],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 1, 0, 1],
        [20 / deviation, 0, 1, 0, 0, 0, 0, 1],
    ]
    assert torch.allclose(first.bank.x, torch.tensor(expected, dtype=torch.float32))
    assert first.y.tolist() == [0, 1, 0, 1]
    second = [[0, 0, 0, 1, 0, 0, 1, 0], [40 / deviation, 0, 0, 0, 0, 1, 0, 1]]
    assert torch.allclose(first.later[0].bank.x, torch.tensor(second, dtype=torch.float32))
    assert first.later[0].y.tolist() == [1, 2]


def test_formats_give_the_same_source(tmp_path: Path) -> None:
    OLD.to_csv(tmp_path / "old.csv", index=False)
    OLD.to_csv(tmp_path / "old.tsv", index=False, sep="\t")
    OLD.to_parquet(tmp_path / "old.parquet")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "old.csv").read_bytes())
    digests = {source(tmp_path, path=name).digest for name in ("old.csv", "old.tsv", "old.parquet", "bom.csv")}
    assert len(digests) == 1


def test_a_floating_point_target_is_a_regression(tmp_path: Path) -> None:
    OLD.dropna().to_csv(tmp_path / "old.csv", index=False)
    found = source(tmp_path, target="age")
    assert found.is_regression
    assert found.y.dtype == torch.float64
    assert found.y.tolist() == [[20.0], [40.0]]


@pytest.mark.parametrize(
    ("change", "given", "problem"),
    [
        ({}, {"target": "kid"}, r"data\.target=kid: old\.csv has no such column; did you mean kind"),
        ({}, {"drop": ("ids",)}, r"data\.drop=.*no column ids; did you mean id\?"),
        ({}, {"path": "old.xlsx"}, r"data\.path=old\.xlsx: does not exist"),
        ({"when": ["2024-01-02", "2024-02-03", "2024-02-05", "2025-01-01"]}, {}, r"column when holds dates \(2024-01-02"),
        ({"kind": [1, None, 2, 1]}, {}, r"old\.csv has no kind in row 2; remove rows without one"),
        ({"age": [1.0, np.inf, 2.0, 3.0]}, {}, r"column age has infinite numbers"),
        ({"age": [None] * 4}, {"path2": "new.csv"}, r"column age is empty in Dataset 1; leave it out with data\.drop=\[age\]"),
        ({"extra": [1, 2, 3, 4]}, {"path2": "new.csv"}, r"data\.path2=new\.csv: only it or Dataset 1 has extra; add"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, change: dict[str, list[object]], given: dict[str, object], problem: str) -> None:
    OLD.assign(**change).to_csv(tmp_path / "old.csv", index=False)  # type: ignore[arg-type]
    NEW.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(ConfigError, match=problem):
        source(tmp_path, **given)  # type: ignore[arg-type]


def test_texts_of_too_many_kinds_and_other_files_are_refused(tmp_path: Path) -> None:
    names = [f"name {k}" for k in range(200)]
    pd.DataFrame({"who": names, "kind": [0, 1] * 100}).to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(ConfigError, match=r"column who has 200 different texts \(name 0, \.\.\.\); leave it out"):
        source(tmp_path, drop=())
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00broken")
    (tmp_path / "a.xls").write_bytes(b"")
    for name, problem in (("a.csv", "cannot read"), ("a.xls", r"unknown kind; save it as \.csv, \.tsv, \.parquet")):
        with pytest.raises(ConfigError, match=problem):
            source(tmp_path, path=name)


def test_real_tables_train_from_end_to_end(tmp_path: Path) -> None:
    """178 wines in two files, of which the second has the third kind too: a class without a sample in the first."""
    frame = load_wine(as_frame=True).frame
    frame["target"] = frame["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    is_new = (frame.index % 3 == 0) | (frame["target"] == "Barbera")
    frame[~is_new].to_csv(tmp_path / "old.csv", index=False)
    frame[is_new].to_csv(tmp_path / "new.csv", index=False)
    paths = [f"data.path={tmp_path / 'old.csv'}", f"data.path2={tmp_path / 'new.csv'}", "data.target=target"]
    how = ["seeds=1", "stopping.epochs=20", "trainer=cpu", "tracking=off", f"multirun={tmp_path}", "sweep=wine"]
    cell = resolve(compose(["data=table", *paths, *how]))
    assert cell.classes == "Dataset 1: Barolo, Grignolino; Dataset 2: Barolo, Grignolino, Barbera"
    run_cell(cell)
    runs = {run.regime: run for run in load_records(cell.sweep_dir).runs}
    combined = runs["combined"].metric("test/union/accuracy")
    assert combined is not None
    assert combined > 0.9
    assert runs["sequential"].metric("harmonic_accuracy") is not None
