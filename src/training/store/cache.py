"""An LRU cache of the weights of a cell's stages; the store holds all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

from cachetools import LRUCache
from torch import Tensor

from src.training.result import StageResult
from src.training.store.store import Store

HELD_MIB = 256
"""Weights and optimizer states of one cell in memory: thousands of small networks, or the last few large ones."""

TensorGroup = Literal["weights", "optimizer"]


class StageCache:
    """Holds up to `held_mib` of stored results in memory, always including the last one used."""

    def __init__(self, store: Store, held_mib: float = HELD_MIB) -> None:
        limit = held_mib * 2**20
        # a result above the limit counts as the limit, so it evicts all others and stays
        self._held: LRUCache[str, StageResult] = LRUCache(limit, getsizeof=lambda result: min(_n_bytes(result), limit))
        self._store = store

    def put(self, key: str, result: StageResult) -> StageResult:
        """The same result, which must be in the store, with tensors that are read from there after an eviction."""
        self._held[key] = dataclasses.replace(result, resume_point=None)
        optimizer = None if result.optimizer is None else _CachedTensors(self, key, "optimizer")
        weights = _CachedTensors(self, key, "weights")
        return dataclasses.replace(result, weights=weights, optimizer=optimizer, resume_point=None)

    def tensors(self, key: str, group: TensorGroup) -> Mapping[str, Tensor]:
        """The weights or the optimizer state of a result."""
        if key not in self._held:
            result = self._store.get(key, need_optimizer=group == "optimizer")
            if result is None:
                raise RuntimeError(f"stage {key} left the store while its cell was running; run the same command again")
            self._held[key] = result
        tensors: Mapping[str, Tensor] | None = getattr(self._held[key], group)
        assert tensors is not None, (key, group)
        return tensors


class _CachedTensors(Mapping[str, Tensor]):
    """Tensors by name, loaded on access."""

    def __init__(self, cache: StageCache, key: str, group: TensorGroup) -> None:
        self._arguments, self._cache = (key, group), cache

    def __getitem__(self, name: str) -> Tensor:
        return self._cache.tensors(*self._arguments)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cache.tensors(*self._arguments))

    def __len__(self) -> int:
        return len(self._cache.tensors(*self._arguments))


def _n_bytes(result: StageResult) -> int:
    return sum(t.nbytes for t in (*result.weights.values(), *(result.optimizer or {}).values()))
