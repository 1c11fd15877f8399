"""A cell whose data is known: resolved once from its configuration, then passed down."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.comparison.tuning import Tuned, read_tuned
from src.config import Config, cell_hash, with_knobs
from src.data.sources.base import SourceConfig
from src.data.split_config import SplitConfig
from src.io import file_name, read_json_or
from src.regimes.catalog import RegimeConfig

if TYPE_CHECKING:  # they load torch, which an engine of another trainer does without
    from src.data.source import Source
    from src.data.split import StreamFactory


@dataclass(frozen=True, eq=False)
class ResolvedCell:
    """A cell with its sources loaded and its settings checked against them.

    Attributes:
        config: The configuration, with sizes and class balance of the user's own data sets filled in.
        streams: Builds the stream of each seed.
        hash: Content hash of recipe and data. Regimes and seeds are no part of it.
    """

    config: Config
    streams: StreamFactory
    hash: str

    @property
    def classes(self) -> str | None:
        """Names of the classes that the split selects or weighs; None if it takes all with equal weight."""
        return self.streams.chosen_classes

    @property
    def sweep_dir(self) -> Path:
        """``multirun/<sweep>``."""
        return Path(self.config.multirun) / self.config.sweep

    @functools.cached_property
    def folder(self) -> Path:
        """``multirun/<sweep>/cells/<hash>``."""
        return self.sweep_dir / "cells" / self.hash

    @property
    def regimes_as_trained(self) -> tuple[RegimeConfig, ...]:
        """The regimes with the values that tuning has chosen so far."""
        found = {regime: read_tuned(self.folder, regime.label) for regime in self.config.regimes}
        return tuple(regime if tuned is None else self.with_choice(regime, tuned) for regime, tuned in found.items())

    def with_choice(self, regime: RegimeConfig, tuned: Tuned) -> RegimeConfig:
        """The regime with the values that its tuning chose, under its own label."""
        return replace(self.with_values(regime, tuned.chosen.values), named=regime.label)

    def with_values(self, regime: RegimeConfig, values: Mapping[str, Any]) -> RegimeConfig:
        """The regime with other values of its settings and of the optimizer's."""
        return with_knobs(regime, values, self.config.split.parts, self.config.optimizer)

    def run_folder(self, regime: RegimeConfig, seed: int) -> Path:
        """The folder of one run."""
        return self.folder / file_name(f"{regime.label}-{seed}")

    @property
    def runs(self) -> list[tuple[RegimeConfig, int]]:
        """Regimes x seeds."""
        return [(regime, seed) for regime in self.config.regimes for seed in self.config.seeds]

    def missing_runs(self) -> list[tuple[RegimeConfig, int]]:
        """The runs that have no result on disk now; a damaged result is none."""
        if not self.folder.exists():  # as for most cells of a new grid
            return self.runs
        return [run for run in self.runs if "provenance" not in read_json_or(self.run_folder(*run) / "result.json")]

    def unwritten_runs(self) -> list[tuple[RegimeConfig, int]]:
        """The runs without a result file, which is not read: of cells whose workers have just ended them."""
        return [run for run in self.runs if not (self.run_folder(*run) / "result.json").exists()]

    def damaged_results(self, missing: Iterable[tuple[RegimeConfig, int]]) -> list[Path]:
        """The results on disk that cannot be read, of runs that count as missing."""
        paths = [self.run_folder(*run) / "result.json" for run in missing]
        return [path for path in paths if path.exists()]


def resolve(config: Config) -> ResolvedCell:
    """Loads the data of a cell and checks everything that depends on it. Raises ConfigError."""
    from src.data.split import load
    from src.training.compatibility import check_cell

    sources, known = _shared(config.data)
    if config.split not in known:
        known[config.split] = load(config.data, config.split, Path(config.multirun) / ".cache", sources)
    streams = known[config.split]
    config = replace(config, split=streams.split)
    check_cell(config, streams)
    return ResolvedCell(config, streams, cell_hash(replace(config, split=streams.numbered_split), streams.digest))


@functools.lru_cache(maxsize=4)
def _shared(data: SourceConfig) -> tuple[dict[object, Source], dict[SplitConfig, StreamFactory]]:
    """What the cells of this process share: sources, filled by `load`, and the streams of each split."""
    del data
    return {}, {}
