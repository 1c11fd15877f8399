"""Weights of a cell's stages: the last used in memory, all in the store."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor

from src.training.result import StageResult
from src.training.store.store import Store

HELD_MIB = 256
"""Weights and optimizer states of one cell in memory: thousands of small networks, or the last few large ones."""


class StageCache:
    """Takes the tensors of results to the store's side of memory: what was not used for long is read again when it is.

    `held_mib`: how much stays in memory; the last result used always does.
    """

    def __init__(self, store: Store, held_mib: float = HELD_MIB) -> None:
        self._store, self._limit = store, held_mib * 2**20
        self._held: OrderedDict[str, StageResult] = OrderedDict()
        self._size = 0

    def put(self, key: str, result: StageResult) -> StageResult:
        """The same result, already in the store, with tensors that come from there when they are needed."""
        self._hold(key, result)
        return dataclasses.replace(
            result,
            weights=_CachedTensors(self, key, "weights"),
            optimizer=None if result.optimizer is None else _CachedTensors(self, key, "optimizer"),
            resume_point=None,
        )

    def tensors(self, key: str, what: Literal["weights", "optimizer"]) -> Mapping[str, Tensor]:
        """A result's weights or optimizer state."""
        if key in self._held:
            self._held.move_to_end(key)
        else:
            result = self._store.get(key, need_optimizer=what == "optimizer")
            if result is None:
                gone = "has left the store while its cell was running"
                raise RuntimeError(f"stage {key} {gone}; the same command trains it again")
            self._hold(key, result)
        found: Mapping[str, Tensor] | None = getattr(self._held[key], what)
        assert found is not None, (key, what)
        return found

    def _hold(self, key: str, result: StageResult) -> None:
        self._held[key] = dataclasses.replace(result, resume_point=None)
        self._size += _size(result)
        while self._size > self._limit and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._size -= _size(oldest)


class _CachedTensors(Mapping[str, Tensor]):
    """Tensors by name, fetched when they are asked for."""

    def __init__(self, shelf: StageCache, key: str, what: Literal["weights", "optimizer"]) -> None:
        self._shelf, self._key, self._what = shelf, key, what

    def __getitem__(self, name: str) -> Tensor:
        return self._shelf.tensors(self._key, self._what)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shelf.tensors(self._key, self._what))

    def __len__(self) -> int:
        return len(self._shelf.tensors(self._key, self._what))


def _size(result: StageResult) -> int:
    return sum(t.nbytes for t in (*result.weights.values(), *(result.optimizer or {}).values()))
