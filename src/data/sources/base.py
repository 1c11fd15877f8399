"""What every data source has in common: its settings, what they say before anything is read, and how it is read."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from src.errors import ConfigError

if TYPE_CHECKING:  # configurations are parsed by commands that never load torch
    from src.data.source import Source
    from src.data.split_config import SplitConfig


@dataclass(frozen=True)
class ShiftedTarget:
    """Regression on x ~ N(0, I), new samples for every seed: only the true weights of Dataset 1 and 2 differ."""

    dim: int
    noise: float
    distance: float
    """Between the true weights."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig(ABC):
    """One source (`data=NAME`): a subclass is its settings, its checks and its reading."""

    where: ClassVar[frozenset[str]] = frozenset({"root"})
    """Settings that say where data lie. A cell's hash leaves them out: it covers the digest of the content instead."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Overrides without which `data=NAME` does not compose."""
    suffix: ClassVar[str | None] = None
    """`split.shift.source=PATH` is read by the source with the path's longest suffix. None: by name."""

    name: str
    """The source's key in the catalog."""
    root: str
    """The folder of all data sets: downloads go there, relative paths start there."""

    @property
    def label(self) -> str:
        """The value of the axis `data`."""
        return self.name

    @property
    def folder(self) -> Path:
        """`root` as a path."""
        return Path(self.root).expanduser()

    @property
    def is_regression(self) -> bool:
        """Whether the settings alone say that targets are numbers instead of classes."""
        return False

    @property
    def preparation(self) -> str:
        """Python lines that read a FILE of the user as inputs `x` of an exported network, as `load` does; "": none.

        The lines may use `ABOUT`, the content of the package's model.json.
        """
        return ""

    @property
    def shifted_target(self) -> ShiftedTarget | None:
        """The exactly solvable setting that the samples are drawn from, if they are."""
        return None

    def check(self, split: SplitConfig) -> None:
        """Raise ConfigError if the settings contradict each other or the split. Runs before anything is read."""

    @abstractmethod
    def load(self, cache: Path) -> Source:
        """Read all samples. `cache`: folder for decoded images if `root` is read-only.

        Raises ConfigError if something is missing, damaged or contradictory; the message says how to fix it.
        """

    @classmethod
    def as_shift(cls, value: str, data: SourceConfig, first: Source) -> SourceConfig | None:
        """The settings behind `split.shift.source=value`, a name or a path that ends with `suffix`.

        `data`: the settings of Dataset 1's source, whose root and keys apply. `first`: that source, whose image size
        applies. None if this source cannot be Dataset 2's.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class PathConfig(SourceConfig):
    """A source of the user's own files: `path` alone, which is split, `path` and `path2`, or `paths`."""

    where = frozenset({"root", "path", "path2", "paths"})
    needs: ClassVar[tuple[str, ...]] = ("data.path=.",)

    path: str
    """File or folder: as given, or else inside `root`."""
    path2: str | None
    """Dataset 2's file or folder; null: `path` is split. Classes are matched by name, and need not be the same."""
    paths: tuple[str, ...] | None = None
    """In place of both: the files or folders of all data sets, in the order in which they arrive."""

    @property
    def files(self) -> list[tuple[str, str]]:
        """Key and path of each data set's file or folder."""
        if self.paths is not None:
            return [("data.paths", path) for path in self.paths]
        return [("data.path", self.path), *([("data.path2", self.path2)] if self.path2 is not None else [])]

    def check(self, split: SplitConfig) -> None:
        if self.paths is None:
            return
        if self.path2 is not None:
            raise ConfigError("data.path2", self.path2, "contradicts data.paths, which lists all data sets; drop one")
        if len(self.paths) < 2:
            raise ConfigError("data.paths", list(self.paths), "must list two data sets or more; one is data.path")
        if split.parts != len(self.paths):
            n = len(self.paths)
            raise ConfigError("split.parts", split.parts, f"data.paths lists {n} data sets; set split.parts={n}")

    @abstractmethod
    def read(self, path: Path, cache: Path) -> Source:
        """Read one existing file or folder. Problems are reported under `data.path`."""

    def load(self, cache: Path) -> Source:
        from src.data.source import match, union_of_classes

        sources = []
        for key, path in self.files:
            with path_reported_as(key, path):
                own = self.only(path)
                sources.append(own.read(own.existing(), cache))
        first, *later = sources
        others = [(other, *file) for other, file in zip(later, self.files[1:], strict=True)]
        for other, key, path in others:
            first = union_of_classes(first, other, key, path)
        matched = tuple(match(other, first, key, path, same_classes=False) for other, key, path in others)
        first = dataclasses.replace(first, later=matched)
        if first.class_names is not None and len(first.class_names) < 2:
            problem = f"has one class only, {first.class_names[0]}; it needs 2 or more"
            raise ConfigError(*self.files[0], problem)
        return first

    def only(self, path: str) -> Self:
        """These settings for one file or folder alone."""
        return dataclasses.replace(self, path=path, path2=None, paths=None)

    def existing(self) -> Path:
        """The file or folder at `path`. Raises ConfigError if there is none."""
        candidates = [Path(self.path).expanduser()]
        if not candidates[0].is_absolute():
            candidates.append(self.folder / self.path)
        for candidate in candidates:
            if candidate.exists():
                return candidate
        tried = " and ".join(str(candidate) for candidate in candidates)
        raise self.error(f"does not exist (tried {tried}); give the path of your data")

    def error(self, problem: str) -> ConfigError:
        """A problem with the file or folder at `path`."""
        return ConfigError("data.path", self.path, problem)


@contextmanager
def path_reported_as(key: str, value: str) -> Iterator[None]:
    """Report problems with `data.path` under the key that the user gave."""
    try:
        yield
    except ConfigError as error:
        if error.key == "data.path":
            raise ConfigError(key, value, error.problem) from error
        raise
