"""How many models train side by side: as the user said; on a CPU by memory; on a GPU measured once and kept with the sweep.

On a CPU the size matters little once a group has a few models, and nothing has to be measured: the size follows from the
model alone. On a GPU the best size depends on the model and on the card, by factors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from src.config import Config
from src.errors import ConfigError
from src.evaluation.metrics import sample_losses
from src.io import digest, write_atomically
from src.models.build import build_meta_model, build_model
from src.models.structure import has_batchnorm, prefers_vmap
from src.regimes.stage import Trainable
from src.training.devices import Device
from src.training.plan import Node
from src.training.replicas import make_replicas

CPU_MEBIBYTES = 512
"""On a CPU weights, gradients and optimizer state of a group take at most this much."""
CPU_STACKED, CPU_LOOPED, GPU_MOST = 128, 4, 512
"""Models one after the other gain little by being many, and what a step keeps for its gradient is there for all of them."""
GPU_SHARE = 0.5
"""Of the GPU's free memory for the same; the rest is for data and activations."""
WORTH = 1.05
"""A larger group must train so many times as many models a second as the best smaller one."""
STEPS = 10

COPIES = 4
"""Weights, gradients, momentum, and the copy that is handed back."""


def group_limit(config: Config, node: Node, place: Device) -> int:
    """The most models that train in one group with the stage `node`. Raises ConfigError where a GPU is needed."""
    model = build_meta_model(config.arch, node.stream.input_shape, node.stream.n_outputs)
    if place.world > 1:
        if has_batchnorm(model) and place.torch_device.type != "cuda":
            problem = "batch normalisation needs synchronised statistics, which only GPUs have; take one device"
            raise ConfigError("trainer.devices", place.world, problem)
        return 1  # the loss scale, and the updates it skips, would be common to the group
    if config.trainer.replicas != "auto":
        return config.trainer.replicas
    if place.torch_device.type != "cuda":
        most = CPU_STACKED if prefers_vmap(model, place.torch_device.type) else CPU_LOOPED
        return by_memory(model, place, CPU_MEBIBYTES * 2**20, most)
    free = torch.cuda.mem_get_info(place.torch_device)[0]
    most = by_memory(model, place, int(GPU_SHARE * free), GPU_MOST)
    what = {
        "arch": config.recipe()["arch"],
        "input_shape": list(node.stream.input_shape),
        "n_outputs": node.stream.n_outputs,
        "batch_size": node.length.batch_size,
        "precision": config.trainer.precision,
        "device": torch.cuda.get_device_name(place.torch_device),
    }
    return decided(
        Path(config.multirun) / config.sweep, what, lambda: measured(most, lambda n: rate(config, node, place, n))
    )


def by_memory(model: nn.Module, place: Device, n_bytes: int, most: int) -> int:
    """As many models as fit, at least one."""
    size = sum(p.numel() for p in model.parameters()) * place.dtype.itemsize * COPIES
    return max(1, min(most, n_bytes // size))


def decided(sweep_dir: Path, what: dict[str, Any], decide: Callable[[], dict[str, Any]]) -> int:
    """The size noted in ``replicas.json`` of the sweep for `what`; the first who asks decides, for all and for good."""
    path, key = sweep_dir / "replicas.json", digest(what)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep_dir / ".replicas.lock"):
        known = json.loads(path.read_text()) if path.exists() else {}
        if key not in known:
            known[key] = {**what, **decide()}
            write_atomically(path, json.dumps(known, indent=1) + "\n")
    return int(known[key]["replicas"])


def measured(most: int, rate: Callable[[int], float]) -> dict[str, Any]:
    """The smallest group, of 1, 2, 4, ... up to `most`, that no larger one beats by much.

    `rate`: updates a second of all models of a group together. What does not fit the memory ends the search.
    """
    rates: dict[int, float] = {}
    best = n = 1
    while n <= most:
        try:
            rates[n] = rate(n)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rates[n] >= WORTH * rates[best]:
            best = n
        elif n >= 4 * best:  # two sizes in a row were not worth it
            break
        n *= 2
    return {"replicas": best, "updates_per_second": {str(n): round(value, 1) for n, value in rates.items()}}


def rate(config: Config, node: Node, place: Device, n: int) -> float:
    """Updates a second of all `n` models of a group together, at the stage's batch size, without Lightning's part."""
    shape, n_outputs, batch = node.stream.input_shape, node.stream.n_outputs, node.length.batch_size
    models = [build_model(config.arch, shape, n_outputs, 0, place.dtype) for _ in range(n)]
    replicas = make_replicas(models, Trainable(), vmapped=prefers_vmap(models[0], place.torch_device.type)).to(
        place.torch_device
    )
    optimizer = torch.optim.SGD(replicas.parameters(), lr=1e-6, momentum=0.9, foreach=place.torch_device.type == "cuda")
    x = torch.zeros(n, batch, *shape, dtype=place.dtype, device=place.torch_device)
    if node.data.labels.is_floating_point():
        y = torch.zeros(n, batch, n_outputs, dtype=place.dtype, device=place.torch_device)
    else:
        y = torch.zeros(n, batch, dtype=torch.int64, device=place.torch_device)
    mixed = config.trainer.precision.endswith("-mixed")
    low = torch.float16 if config.trainer.precision.startswith("16") else torch.bfloat16
    start = 0.0
    for step in range(2 + STEPS):
        if step == 2:  # the first ones choose algorithms and take memory
            _wait(place)
            start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(place.torch_device.type, dtype=low, enabled=mixed):
            losses = sample_losses(replicas(x), y, config.loss).mean(1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _wait(place)
    return n * STEPS / (time.perf_counter() - start)


def _wait(place: Device) -> None:
    if place.torch_device.type == "cuda":
        torch.cuda.synchronize(place.torch_device)
