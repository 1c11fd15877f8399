"""Small sources and splits for the tests of src.data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.config import Config
from src.data.shifts import ShiftConfig
from src.data.source import Source, make_source
from src.data.sources.base import SourceConfig
from src.data.split import StreamFactory, load
from src.data.split_config import SplitConfig
from src.data.stream import EvaluationSet, Samples, Stream


def split_of(*, shift: tuple[str, float] = ("none", 0), **given: Any) -> SplitConfig:
    """A split with the defaults of conf/split/iid.yaml."""
    defaults: dict[str, Any] = dict.fromkeys(("size", "ratio", "sizes", "test", "priors", "classes"))
    defaults |= {"parts": 2, "val": 0.1, "imbalance": 1.0, "opposed": True, "label_noise": 0.0}
    kind, amount = shift
    return SplitConfig(**{**defaults, **given}, shift=ShiftConfig(kind=kind, amount=amount, source=None))  # type: ignore[arg-type]


def source_of(
    per_class: Sequence[int], *, n_official: int = 0, seed: int = 0, dtype: torch.dtype = torch.uint8, side: int = 4
) -> Source:
    """Random images with `per_class` samples of each class in mixed order; the last `n_official` of each class are
    the source's own test set."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    official = np.concatenate([np.arange(n) >= n - n_official for n in per_class])
    order = rng.permutation(len(labels))
    x = torch.from_numpy(rng.integers(0, 256, (len(labels), 1, side, side), dtype=np.uint8))
    names = tuple("abcdefghij"[: len(per_class)])
    y = torch.from_numpy(labels[order])
    pixels = x if dtype == torch.uint8 else x.to(dtype) / 255
    return make_source(pixels, y, names, torch.from_numpy(official[order]) if n_official else None)


def ids(samples: Samples) -> set[int]:
    return set(samples.ids.tolist())


def union_ids(stream: Stream) -> set[int]:
    return set().union(*(ids(part) for part in stream.train))


def class_weights(stream: Stream, evaluation: EvaluationSet, pools: Sequence[Samples]) -> list[float]:
    """Total weight of each class in an evaluation set."""
    total = torch.zeros(stream.n_outputs, dtype=torch.float64)
    for pool, weights in evaluation.weights.items():
        total.index_add_(0, pools[pool].y, weights)
    return total.tolist()  # type: ignore[no-any-return]


def build_stream(split: SplitConfig, source: Source, seed: int) -> Stream:
    """One seed's stream of a split that nothing has checked."""
    return StreamFactory(split, source).build(seed)


def check_split(split: SplitConfig, source: Source, shift_source: Source | None = None) -> None:
    """Raise ConfigError if the sources cannot give the split."""
    StreamFactory(split, source, shift_source).check()


def load_streams(config: Config, loaded: dict[object, Source] | None = None) -> StreamFactory:
    """The streams of a composed configuration."""
    return load(config.data, config.split, Path(config.multirun) / ".cache", loaded)


def read_source(data: SourceConfig, cache: Path = Path("unused")) -> Source:
    """All samples of a source."""
    return data.load(cache)
