"""`data=table`: a table of the user's own, one row a sample, in CSV, TSV or Parquet."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from src.data.sources.base import PathConfig, path_reported_as
from src.errors import ConfigError, did_you_mean, foreign_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from src.data.source import Source

SUFFIXES = (".csv", ".tsv", ".parquet")
MOST_LEVELS = 100
"""Different texts of a column up to which it is categorical."""
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")
MISSING = "(missing)"
"""The level of an empty cell of a categorical column."""


@dataclass(frozen=True)
class Column:
    """How a column becomes inputs: a scaled number, and whether it is missing; or one input for each of its levels."""

    name: str
    levels: tuple[str, ...] | None
    mean: float = 0.0
    deviation: float = 1.0
    has_gaps: bool = False

    def encode(self, values: pd.Series) -> NDArray[np.float64]:
        """The inputs [rows, n] of the column. An empty number becomes the mean."""
        import numpy as np

        if self.levels is not None:
            texts = _texts(values).to_numpy()
            return np.stack([texts == level for level in self.levels], axis=1).astype(np.float64)
        numbers = values.to_numpy(np.float64, na_value=np.nan)
        gaps = np.isnan(numbers)
        scaled = np.where(gaps, 0.0, (numbers - self.mean) / self.deviation)
        return np.stack([scaled, gaps], axis=1) if self.has_gaps else scaled[:, None]


READERS = {
    ".csv": 'pandas.read_csv(FILE, encoding="utf-8-sig")',
    ".tsv": 'pandas.read_csv(FILE, sep="\\t", encoding="utf-8-sig")',
    ".parquet": "pandas.read_parquet(FILE)",
}
PREPARATION = """import numpy
import pandas
from load import ABOUT

frame = {reader}
frame.columns = [str(name).strip() for name in frame.columns]
parts = []
for column in ABOUT["columns"]:
    values = frame[column["name"]]
    if column["levels"] is None:
        numbers = values.to_numpy(float, na_value=numpy.nan)
        gaps = numpy.isnan(numbers)
        parts.append(numpy.where(gaps, 0, (numbers - column["mean"]) / column["deviation"]))
        parts += [gaps] if column["has_gaps"] else []
    else:
        texts = [str(value).lower() if str(value) in ("True", "False") else str(value).strip() for value in values]
        texts = numpy.where(values.isna(), "{missing}", numpy.array(texts))
        parts += [texts == level for level in column["levels"]]
x = numpy.stack(parts, axis=1).astype("float32")"""
"""`Column.encode` for an exported network, without this project."""


@dataclass(frozen=True, kw_only=True)
class TableData(PathConfig):
    """One row a sample: the column `target` is the label, or a number to predict; the other columns are its inputs.

    Numbers are scaled to mean 0 and deviation 1 over Dataset 1's file (of the whole file if there is one); texts and
    truth values become one input for each value that either file has; an empty cell is a value of its own, or the mean
    and a mark. A target of texts, whole numbers or truth values is a class, one of floating point a regression.
    """

    needs = ("data.path=.", "data.target=y")

    target: str
    """Name of the column to predict."""
    drop: tuple[str, ...]
    """Names of columns that are no inputs, such as an identifier."""

    @property
    def preparation(self) -> str:
        """See `SourceConfig`; a subclass with its own `read` has none."""
        reader = READERS.get(Path(self.path).suffix.lower())
        if reader is None or type(self).read is not TableData.read:
            return ""
        return PREPARATION.format(reader=reader, missing=MISSING)

    def read(self, path: Path, cache: Path) -> Source:
        import numpy as np
        import torch

        from src.data.source import make_source

        del cache
        frame, columns = self._frame(path), self.columns
        inputs = np.concatenate([column.encode(frame[column.name]) for column in columns], axis=1)
        y, x = frame[self.target], torch.from_numpy(inputs.astype(np.float32))
        if y.isna().any():
            row = int(y.isna().to_numpy().argmax()) + 1
            raise self.error(f"{path.name} has no {self.target} in row {row}; remove rows without one")
        if y.dtype.kind == "f":
            return make_source(x, torch.from_numpy(np.array(y, np.float64)[:, None]), None)
        classes, labels = np.unique(_texts(y).to_numpy().astype(str), return_inverse=True)
        return make_source(x, torch.from_numpy(labels.astype(np.int64)), tuple(str(name) for name in classes))

    def only(self, path: str) -> Self:
        own = super().only(path)
        own.__dict__["columns"] = self.columns  # one network sees all files
        return own

    @functools.cached_property
    def columns(self) -> list[Column]:
        """The inputs that all files give."""
        frames = []
        for key, path in self.files:
            with path_reported_as(key, path):
                one = super().only(path)
                frames.append(one._frame(one.existing()))
        names = [name for name in frames[0].columns if name != self.target and name not in self.drop]
        for name in self.drop:
            if name not in frames[0].columns:
                raise ConfigError("data.drop", list(self.drop), f"no column {name}; {_known(name, frames[0])}")
        if not names:
            raise self.error(f"has no column besides {self.target}; inputs are needed")
        for frame, (key, path) in zip(frames[1:], self.files[1:], strict=True):
            own = {name for name in frame.columns if name != self.target and name not in self.drop}
            if differ := sorted(own ^ set(names)):
                problem = f"only it or Dataset 1 has {', '.join(differ)}; add it, or leave it out with data.drop"
                raise ConfigError(key, path, problem)
        return [self._column(name, [frame[name] for frame in frames]) for name in names]

    def _column(self, name: str, parts: list[pd.Series]) -> Column:
        import numpy as np

        has_gaps = any(bool(part.isna().any()) for part in parts)
        if all(part.dtype.kind in "iuf" for part in parts):
            numbers = parts[0].to_numpy(np.float64, na_value=np.nan)
            if np.isinf(np.concatenate([part.to_numpy(np.float64, na_value=np.nan) for part in parts])).any():
                raise self.error(f"column {name} has infinite numbers; remove or replace them")
            known = numbers[~np.isnan(numbers)]
            if not len(known):
                raise self.error(f"column {name} is empty in Dataset 1; leave it out with data.drop=[{name}]")
            return Column(name, None, float(known.mean()), float(known.std()) or 1.0, has_gaps)
        levels = sorted({text for part in parts for text in _texts(part).unique()})
        texts = [level for level in levels if level != MISSING]
        if any(part.dtype.kind == "M" for part in parts) or (texts and all(DATE.fullmatch(text) for text in texts)):
            fix = f"turn it into numbers, or leave it out with data.drop=[{name}]"
            raise self.error(f"column {name} holds dates ({texts[0]}, ...); {fix}")
        if len(levels) > MOST_LEVELS:
            fix = f"leave it out with data.drop=[{name}], or turn it into numbers or at most {MOST_LEVELS} groups"
            raise self.error(f"column {name} has {len(levels)} different texts ({texts[0]}, ...); {fix}")
        return Column(name, tuple(levels))

    def _frame(self, path: Path) -> pd.DataFrame:
        """The rows of one file, with its target."""
        import pandas as pd

        if path.suffix.lower() not in SUFFIXES:
            raise self.error(f"{path.name} is of an unknown kind; save it as {', '.join(SUFFIXES)}")
        with foreign_file("data.path", self.path, path, "save it as a plain table with one header line"):
            if path.suffix.lower() == ".parquet":
                frame = pd.read_parquet(path)
            else:
                separator = "\t" if path.suffix.lower() == ".tsv" else ","
                frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
                header = pd.read_csv(path, sep=separator, encoding="utf-8-sig", header=None, nrows=1, dtype=str)
                frame.columns = header.iloc[0].fillna("").tolist()  # read_csv numbers columns of one name
        frame.columns = [str(name).strip() for name in frame.columns]
        if self.target not in frame.columns:
            raise ConfigError(
                "data.target", self.target, f"{path.name} has no such column; {_known(self.target, frame)}"
            )
        if frame.empty:
            raise self.error(f"{path.name} has no rows; give a row for each sample")
        if frame.columns.has_duplicates:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise self.error(f"{path.name} has two columns {twice}; rename or remove one")
        return frame


def _texts(values: pd.Series) -> pd.Series:
    """The values of a column as texts, empty cells as a level of their own."""
    texts: Mapping[bool, str] = {True: "true", False: "false"}
    shown = values.map(lambda value: texts[bool(value)] if str(value) in ("True", "False") else str(value).strip())
    return shown.where(values.notna(), MISSING)


def _known(name: str, frame: pd.DataFrame) -> str:
    return did_you_mean(name, [str(column) for column in frame.columns][:50])
