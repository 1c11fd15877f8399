"""The stage store: what was trained once is loaded ever after. One checksummed file per stage, written atomically."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from src.files import write_atomically
from src.training.result import Curves, Ledger, StageResult


class Store:
    """Stage results by key in the folder `root`.

    A file holds tensors ``weights/NAME``, ``optimizer/KEY/NAME``, ``curves/...`` and, in its header, the ledger and a
    checksum over all of it. A damaged file counts as absent, with a warning, and is written again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Where the stage `key` is kept."""
        return self.root / key[:2] / f"{key}.safetensors"

    def get(self, key: str, *, need_optimizer: bool = False) -> StageResult | None:
        """The stage's result, or None if it is absent, damaged, or lacks the optimizer state that is needed."""
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        try:
            result = _unpack(content)
        except (ValueError, KeyError, RuntimeError, OverflowError) as error:
            warnings.warn(f"{self.path(key)} is damaged ({error}); the stage is trained again", stacklevel=2)
            return None
        except Exception as error:  # safetensors raises an exception class of its own that it does not export
            if type(error).__name__ != "SafetensorError":
                raise
            warnings.warn(f"{self.path(key)} is damaged ({error}); the stage is trained again", stacklevel=2)
            return None
        return None if need_optimizer and result.optimizer is None else result

    def put(self, key: str, result: StageResult) -> None:
        """Keeps a result; readers see the whole file or none."""
        write_atomically(
            self.path(key), _pack(result), durable=False
        )  # what a power cut damages is found and trained again


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Names weights by their bits."""
    return _checksum(weights, "")


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    h = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        h.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return h.hexdigest()


def _pack(result: StageResult) -> bytes:
    tensors = {f"weights/{name}": tensor.contiguous() for name, tensor in result.weights.items()}
    if result.optimizer is not None:
        tensors |= {f"optimizer/{name}": tensor.contiguous() for name, tensor in result.optimizer.items()}
    curves = result.curves
    tensors["curves/steps"] = torch.from_numpy(curves.steps)
    tensors["curves/train_loss"] = torch.from_numpy(curves.train_loss)
    for pool, (recall, loss) in enumerate(zip(curves.recall, curves.loss, strict=True)):
        tensors[f"curves/recall/{pool}"] = torch.from_numpy(np.ascontiguousarray(recall))
        tensors[f"curves/loss/{pool}"] = torch.from_numpy(np.ascontiguousarray(loss))
    header: dict[str, Any] = {"ledger": result.ledger.to_json(), "optimizer": result.optimizer is not None}
    text = json.dumps(header, sort_keys=True)
    return save(tensors, {"header": text, "checksum": _checksum(tensors, text)})


def _unpack(content: bytes) -> StageResult:
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = load(content)
    if metadata["checksum"] != _checksum(tensors, metadata["header"]):
        raise ValueError("its checksum does not match")
    header = json.loads(metadata["header"])
    weights = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
    optimizer = {n.removeprefix("optimizer/"): t for n, t in tensors.items() if n.startswith("optimizer/")}
    n_pools = sum(name.startswith("curves/recall/") for name in tensors)
    curves = Curves(
        steps=tensors["curves/steps"].numpy(),
        train_loss=tensors["curves/train_loss"].numpy(),
        recall=tuple(tensors[f"curves/recall/{pool}"].numpy() for pool in range(n_pools)),
        loss=tuple(tensors[f"curves/loss/{pool}"].numpy() for pool in range(n_pools)),
    )
    return StageResult(weights, optimizer if header["optimizer"] else None, curves, Ledger(**header["ledger"]))
