"""The stage store: what was trained once is loaded ever after, and what was begun is gone on with.

Every file holds tensors and a checksum over all of it, is written atomically, and counts as absent if it is damaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from src.io import write_atomically
from src.stopping.group import Best
from src.training.result import Curves, Ledger, ResumePoint, StageResult
from src.training.store.eviction import Eviction
from src.training.store.locks import StageLocks

T = TypeVar("T")


class Store:
    """Stages in the folder `root`, below the first two letters of their names.

    ``KEY.safetensors``: a stage's result. ``KEY.part.safetensors``: where a stage was left. ``LINE-UPDATES.end.safetensors``:
    what longer stages of a line go on from,
    but for the weights, which the result has. With `limit_gib` above 0 the store is kept to that size (see `Eviction`); it is for
    who trains, and says to others that this process is there. Readers take none.
    """

    def __init__(self, root: Path, limit_gib: float | None = None) -> None:
        self.root = root
        self.locks = StageLocks(root / "locks")
        self._room = None if limit_gib is None else Eviction(root, limit_gib)

    def path(self, key: str) -> Path:
        """Where the stage `key` is kept."""
        return self.root / key[:2] / f"{key}.safetensors"

    def resume_path(self, key: str) -> Path:
        """Where it is kept how far the stage `key` has come."""
        return self.root / key[:2] / f"{key}.part.safetensors"

    def prefix_path(self, line: str, updates: int) -> Path:
        """Where it is kept what stages of the line go on from after so many updates."""
        return self.root / line[:2] / f"{line}-{updates}.end.safetensors"

    def get(self, key: str, *, need_optimizer: bool = False) -> StageResult | None:
        """The stage's result, or None if it is absent, damaged, or lacks the optimizer state that is needed."""
        result = self._read(self.path(key), _unpack_result)
        return None if result is None or (need_optimizer and result.optimizer is None) else result

    def put(self, key: str, result: StageResult) -> None:
        """Keeps a result; readers see the whole file or none. How far the stage had come is forgotten."""
        self._write(self.path(key), _pack_result(result))
        self.resume_path(key).unlink(missing_ok=True)

    def resume_point(self, key: str) -> ResumePoint | None:
        """Where the stage was left, if it was."""
        return self._read(self.resume_path(key), _unpack_progress)

    def put_resume_point(self, key: str, progress: ResumePoint) -> None:
        """Keeps how far the stage has come, in place of how far it had."""
        self._write(self.resume_path(key), _pack_progress(progress))

    def prefix_lengths(self, line: str) -> list[int]:
        """The numbers of updates after which stages of the line may go on, most first."""
        try:
            names = os.listdir(self.root / line[:2])
        except FileNotFoundError:
            return []
        found = (re.fullmatch(rf"{line}-(\d+)\.end\.safetensors", name) for name in names if name.startswith(line))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def prefix(self, line: str, updates: int) -> ResumePoint | None:
        """What the line's stages go on from after so many updates; None also if the weights it belongs to are gone."""
        found = self._read(self.prefix_path(line, updates), _unpack_end)
        if found is None:
            return None
        progress, key, digest = found
        result = self.get(key)
        if result is None or weights_digest(result.weights) != digest:
            return None
        return dataclasses.replace(progress, weights=result.weights)

    def put_prefix(self, line: str, key: str, progress: ResumePoint) -> None:
        """Keeps what longer stages of the line go on from, beside the result of the stage `key`, which has the weights."""
        self._write(self.prefix_path(line, progress.updates), _pack_end(key, progress))

    def locked(self, keys: Iterable[str]) -> AbstractContextManager[list[str]]:
        """See `StageLocks.taken`."""
        return self.locks.locked(keys)

    def any_free(self, keys: Iterable[str]) -> bool:
        """See `StageLocks.any_free`."""
        return self.locks.any_free(keys)

    def _read(self, path: Path, unpack: Callable[[bytes], T]) -> T | None:
        try:
            content = path.read_bytes()
            if self._room is not None:
                os.utime(path)
        except FileNotFoundError:
            return None
        try:
            return unpack(content)
        except (ValueError, KeyError, RuntimeError, OverflowError) as error:
            warnings.warn(f"{path} is damaged ({error}); the stage is trained again", stacklevel=3)
        except Exception as error:  # safetensors raises an exception class of its own that it does not export
            if type(error).__name__ != "SafetensorError":
                raise
            warnings.warn(f"{path} is damaged ({error}); the stage is trained again", stacklevel=3)
        return None

    def _write(self, path: Path, content: bytes) -> None:
        if self._room is not None:
            self._room.make(len(content))
        write_atomically(path, content, durable=False)  # what a power cut damages is found and trained again


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Names weights by their bits."""
    return _checksum(weights, "")


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    h = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.as_strided((tensor.numel(),), (1,))  # one element counts as contiguous whatever its stride
        h.update(flat.view(torch.uint8).numpy().data if tensor.numel() else b"")
    return h.hexdigest()


# ------------------------------------------------------------------------------------------------ what a file holds


def _pack(header: Mapping[str, Any], curves: Curves, **groups: Mapping[str, Tensor] | None) -> bytes:
    """Tensors ``GROUP/NAME`` and ``curves/...``, and the header; a group that is None is left out, one of no tensors not."""
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


def _unpack(content: bytes) -> tuple[dict[str, Any], Curves, Callable[[str], dict[str, Tensor]]]:
    """Header, curves, and the tensors of a group by its name."""
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = load(content)
    if metadata["checksum"] != _checksum(tensors, metadata["header"]):
        raise ValueError("its checksum does not match")
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


def _pack_result(result: StageResult) -> bytes:
    header = {"ledger": result.ledger.to_json(), "optimizer": result.optimizer is not None}
    return _pack(header, result.curves, weights=result.weights, optimizer=result.optimizer)


def _unpack_result(content: bytes) -> StageResult:
    header, curves, group = _unpack(content)
    optimizer = group("optimizer") if header["optimizer"] else None
    return StageResult(group("weights"), optimizer, curves, Ledger(**header["ledger"]))


def _pack_progress(progress: ResumePoint, **more: Any) -> bytes:
    best, noise = progress.best, progress.noise
    header = {
        **{name: getattr(progress, name) for name in ("updates", "reused", "seconds", "device")},
        "best": None if best is None else [best.value.hex(), best.epoch],
        "noise": noise is not None,
        **more,
    }
    state = {"losses": progress.losses, **({} if noise is None else {"noise": noise})}
    return _pack(
        header,
        progress.curves,
        weights=progress.weights,
        optimizer=progress.optimizer,
        best=None if best is None else best.weights,
        state=state,
    )


def _unpack_progress(content: bytes) -> ResumePoint:
    return _progress(*_unpack(content))


def _progress(header: dict[str, Any], curves: Curves, group: Callable[[str], dict[str, Tensor]]) -> ResumePoint:
    best, noise, state = header["best"], header["noise"], group("state")
    return ResumePoint(
        **{name: header[name] for name in ("updates", "reused", "seconds", "device")},
        weights=group("weights"),
        optimizer=group("optimizer"),
        losses=state["losses"],
        curves=curves,
        noise=state["noise"] if noise else None,
        best=None if best is None else Best(float.fromhex(best[0]), best[1], group("best")),
    )


def _pack_end(key: str, progress: ResumePoint) -> bytes:
    bare = dataclasses.replace(progress, weights={})
    return _pack_progress(bare, key=key, weights=weights_digest(progress.weights))


def _unpack_end(content: bytes) -> tuple[ResumePoint, str, str]:
    """All but the weights, the stage that has them, and their digest."""
    header, curves, group = _unpack(content)
    return _progress(header, curves, group), header["key"], header["weights"]
