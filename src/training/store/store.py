"""Stage results and resume points on disk, shared by all sweeps, workers and hosts of one `multirun/`.

Every file holds tensors and a checksum over its content, is written atomically, and counts as absent if damaged.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from src.io import write_atomically
from src.stopping.rule import Best
from src.training.result import Curves, Ledger, ResumePoint, StageResult
from src.training.store.locks import Eviction, StageLocks

SYNC_SECONDS = 1.0
"""Training that is worth the sync of a file, which takes some 10 ms."""

T = TypeVar("T")
TensorsOf = Callable[[str], dict[str, Tensor]]
"""Maps the name of a group of tensors to its tensors by name."""


class Store:
    """Stages below `root`, in folders named by the first two letters of their keys.

    ``KEY.safetensors``: a result. ``KEY.part.safetensors``: the resume point of an unfinished stage.
    ``PREFIX-UPDATES.end.safetensors``: the resume point at the end of a stage, for longer stages with the same prefix
    key; its weights are those of the stage's result. `limit_gib` is for processes that train: it marks this process as
    live and, above 0, limits the store's size (see `Eviction`).
    """

    def __init__(self, root: Path, limit_gib: float | None = None) -> None:
        self.root = root
        self.locks = StageLocks(root / "locks")
        self._eviction = None if limit_gib is None else Eviction(root, limit_gib)

    def path(self, key: str) -> Path:
        """File of a stage's result."""
        return self.root / key[:2] / f"{key}.safetensors"

    def resume_path(self, key: str) -> Path:
        """File of an unfinished stage's resume point."""
        return self.root / key[:2] / f"{key}.part.safetensors"

    def prefix_path(self, prefix_key: str, updates: int) -> Path:
        """File of the resume point after `updates` updates."""
        return self.root / prefix_key[:2] / f"{prefix_key}-{updates}.end.safetensors"

    def get(self, key: str, *, need_optimizer: bool = False) -> StageResult | None:
        """The stage's result; None if it is absent, damaged, or lacks an optimizer state that is needed."""
        result = self._read(self.path(key), _unpack_result)
        return None if result is None or (need_optimizer and result.optimizer is None) else result

    def put(self, key: str, result: StageResult) -> None:
        """Stores a result and deletes the stage's resume point."""
        header = {"ledger": dataclasses.asdict(result.ledger), "optimizer": result.optimizer is not None}
        content = _pack(header, result.curves, weights=result.weights, optimizer=result.optimizer)
        self._write(self.path(key), content, result.ledger.seconds)
        self.resume_path(key).unlink(missing_ok=True)

    def resume_point(self, key: str) -> ResumePoint | None:
        """The resume point of an unfinished stage."""
        return self._read(self.resume_path(key), _unpack_resume_point)

    def put_resume_point(self, key: str, point: ResumePoint) -> None:
        """Stores the resume point of an unfinished stage in place of the earlier one."""
        self._write(self.resume_path(key), _pack_resume_point(point), point.seconds)

    def prefix_lengths(self, prefix_key: str) -> list[int]:
        """The numbers of updates of the stored prefixes, in descending order."""
        try:
            names = os.listdir(self.root / prefix_key[:2])
        except FileNotFoundError:
            return []
        pattern = re.compile(rf"{prefix_key}-(\d+)\.end\.safetensors")
        return sorted((int(match[1]) for name in names if (match := pattern.fullmatch(name))), reverse=True)

    def prefix(self, prefix_key: str, updates: int) -> ResumePoint | None:
        """The resume point after `updates` updates; None also if the result with its weights is missing."""
        path = self.prefix_path(prefix_key, updates)
        found = self._read(path, lambda header, *rest: (header, _unpack_resume_point(header, *rest)))
        if found is None:
            return None
        header, point = found
        result = self.get(header["key"])
        if result is None or weights_digest(result.weights) != header["weights"]:
            return None
        return dataclasses.replace(point, weights=result.weights)

    def put_prefix(self, prefix_key: str, key: str, point: ResumePoint) -> None:
        """Stores the resume point for longer stages; the result of the stage `key` holds its weights."""
        bare = dataclasses.replace(point, weights={})
        content = _pack_resume_point(bare, key=key, weights=weights_digest(point.weights))
        self._write(self.prefix_path(prefix_key, point.updates), content, point.seconds)

    def _read(self, path: Path, made_of: Callable[[dict[str, Any], Curves, TensorsOf], T]) -> T | None:
        try:
            content = path.read_bytes()
            if self._eviction is not None:
                os.utime(path)
        except FileNotFoundError:
            return None
        try:
            return made_of(*_unpack(content))
        except (ValueError, KeyError, RuntimeError, OverflowError, SafetensorError) as error:
            warnings.warn(f"{path} is damaged ({error}); the stage is trained again", stacklevel=3)
        return None

    def _write(self, path: Path, content: bytes, seconds: float) -> None:
        """Writes a file that took `seconds` of training; what a power cut damages is found and trained again."""
        if self._eviction is not None:
            self._eviction.before_write(len(content))
        write_atomically(path, content, durable=seconds > SYNC_SECONDS)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and bits; that of a result's own tensors is computed once."""
    return weights.digest if isinstance(weights, _CachedTensors) else _checksum(weights, "")


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    h = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.as_strided((tensor.numel(),), (1,))  # one element counts as contiguous whatever its stride
        h.update(flat.view(torch.uint8).numpy().data if tensor.numel() else b"")
    return h.hexdigest()


# ------------------------------------------------------------------------------------------------ content of a file


def _pack(header: Mapping[str, Any], curves: Curves, **groups: Mapping[str, Tensor] | None) -> bytes:
    """Tensors ``GROUP/NAME`` and ``curves/...`` with the header as metadata."""
    tensors = {
        f"{group}/{name}": tensor.contiguous()
        for group, members in groups.items()
        for name, tensor in (members or {}).items()
    }
    tensors["curves/steps"] = torch.from_numpy(curves.steps)
    tensors["curves/train_loss"] = torch.from_numpy(curves.train_loss)
    for pool, (recall, loss) in enumerate(zip(curves.recall, curves.loss, strict=True)):
        tensors[f"curves/recall/{pool}"] = torch.from_numpy(np.ascontiguousarray(recall))
        tensors[f"curves/loss/{pool}"] = torch.from_numpy(np.ascontiguousarray(loss))
    text = json.dumps(header, sort_keys=True)
    return save(tensors, {"header": text, "checksum": _checksum(tensors, text)})


def _unpack(content: bytes) -> tuple[dict[str, Any], Curves, TensorsOf]:
    """Header, curves, and the tensors of each group."""
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = load(content)
    if metadata["checksum"] != _checksum(tensors, metadata["header"]):
        raise ValueError("the checksum does not match")
    n_pools = sum(name.startswith("curves/recall/") for name in tensors)
    curves = Curves(
        steps=tensors["curves/steps"].numpy(),
        train_loss=tensors["curves/train_loss"].numpy(),
        recall=tuple(tensors[f"curves/recall/{pool}"].numpy() for pool in range(n_pools)),
        loss=tuple(tensors[f"curves/loss/{pool}"].numpy() for pool in range(n_pools)),
    )

    def group(name: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{name}/"): t for n, t in tensors.items() if n.startswith(f"{name}/")}

    return json.loads(metadata["header"]), curves, group


def _unpack_result(header: dict[str, Any], curves: Curves, group: TensorsOf) -> StageResult:
    optimizer = group("optimizer") if header["optimizer"] else None
    ledger = Ledger(**{**header["ledger"], "machines": tuple(header["ledger"].get("machines", ()))})
    return StageResult(group("weights"), optimizer, curves, ledger)


COUNTERS = ("updates", "reused", "seconds", "device")
"""Fields of a resume point that its header holds as they are."""


def _pack_resume_point(point: ResumePoint, **more: Any) -> bytes:
    best, noise = point.best, point.noise
    header = {
        **{name: getattr(point, name) for name in COUNTERS},
        "best": None if best is None else [best.value.hex(), best.epoch],
        "noise": noise is not None,
        "machines": list(point.machines),
        **({"capture": [point.capture, point.capture_reason]} if point.capture else {}),
        **more,
    }
    return _pack(
        header,
        point.curves,
        weights=point.weights,
        optimizer=point.optimizer,
        best=None if best is None else best.weights,
        state={"losses": point.losses, **({} if noise is None else {"noise": noise})},
    )


def _unpack_resume_point(header: dict[str, Any], curves: Curves, group: TensorsOf) -> ResumePoint:
    best, state = header["best"], group("state")
    capture, capture_reason = header.get("capture", ("", ""))
    return ResumePoint(
        **{name: header[name] for name in COUNTERS},
        weights=group("weights"),
        optimizer=group("optimizer"),
        losses=state["losses"],
        curves=curves,
        noise=state["noise"] if header["noise"] else None,
        best=None if best is None else Best(float.fromhex(best[0]), best[1], group("best")),
        machines=tuple(header.get("machines", ())),
        capture=capture,
        capture_reason=capture_reason,
    )


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

    @functools.cached_property
    def digest(self) -> str:
        """See `weights_digest`."""
        return _checksum(self, "")

    def __getitem__(self, name: str) -> Tensor:
        return self._cache.tensors(*self._arguments)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cache.tensors(*self._arguments))

    def __len__(self) -> int:
        return len(self._cache.tensors(*self._arguments))


def _n_bytes(result: StageResult) -> int:
    return sum(t.nbytes for t in (*result.weights.values(), *(result.optimizer or {}).values()))
