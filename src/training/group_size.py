"""Group size: `trainer.replicas`, or by memory on a CPU, or measured once per sweep on a GPU.

On a CPU the size matters little above a few models. On a GPU the best size depends on the model and the card, by factors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.config import Config
from src.errors import ConfigError
from src.evaluation.metrics import sample_losses
from src.io import digest, write_atomically
from src.locks import LONG_SECONDS, locked
from src.models.build import build_meta_model, build_model
from src.models.structure import has_batchnorm, prefers_stacking
from src.regimes.stage import Trainable
from src.training.devices import Device
from src.training.plan import Node
from src.training.replicas import make_replicas

CPU_MEBIBYTES = 512
"""Limit for weights, gradients and optimizer state of a group on a CPU."""
CPU_STACKED, CPU_LOOPED, GPU_MOST = 128, 4, 512
"""Largest groups. A loop gains little from many models, and holds the activations of all of them."""
GPU_SHARE = 0.5
"""Share of the GPU's free memory for the same; the rest is for data and activations."""
WORTH = 1.05
"""Factor by which a larger group must be faster than the best smaller one."""
STEPS = 10

COPIES = 4
"""Weights, gradients, momentum, and the returned copy."""


def group_limit(config: Config, node: Node, device: Device) -> int:
    """The most models that train in one group with the stage `node`. Raises ConfigError if it needs GPUs."""
    model = build_meta_model(config.arch, node.stream.input_shape, node.stream.n_outputs)
    if device.world > 1:
        if has_batchnorm(model) and device.torch_device.type != "cuda":
            problem = "batch normalisation needs synchronised statistics, which only GPUs have; set trainer.devices=1"
            raise ConfigError("trainer.devices", device.world, problem)
        return 1  # the loss scale, and the updates it skips, would be common to the group
    if config.trainer.replicas != "auto":
        return config.trainer.replicas
    if device.torch_device.type != "cuda":
        most = CPU_STACKED if prefers_stacking(model, device.torch_device.type) else CPU_LOOPED
        return by_memory(model, device, CPU_MEBIBYTES * 2**20, most)
    free = torch.cuda.mem_get_info(device.torch_device)[0]
    most = by_memory(model, device, int(GPU_SHARE * free), GPU_MOST)
    what = {
        "arch": config.recipe()["arch"],
        "input_shape": list(node.stream.input_shape),
        "n_outputs": node.stream.n_outputs,
        "batch_size": node.length.batch_size,
        "precision": config.trainer.precision,
        "device": torch.cuda.get_device_name(device.torch_device),
    }
    folder = Path(config.multirun) / config.sweep
    return decided(folder, what, lambda: measured(most, lambda n: rate(config, node, device, n)))


def by_memory(model: nn.Module, device: Device, n_bytes: int, most: int) -> int:
    """As many models as fit, at least one."""
    size = sum(p.numel() for p in model.parameters()) * device.dtype.itemsize * COPIES
    return max(1, min(most, n_bytes // size))


def decided(sweep_dir: Path, what: dict[str, Any], decide: Callable[[], dict[str, Any]]) -> int:
    """The size in the sweep's ``replicas.json`` for `what`; the first process measures it for all others."""
    path, key = sweep_dir / "replicas.json", digest(what)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with locked(sweep_dir / ".replicas.lock", seconds=LONG_SECONDS):
        known = json.loads(path.read_text()) if path.exists() else {}
        if key not in known:
            known[key] = {**what, **decide()}
            write_atomically(path, json.dumps(known, indent=1) + "\n")
    return int(known[key]["replicas"])


def measured(most: int, rate: Callable[[int], float]) -> dict[str, Any]:
    """The smallest group of 1, 2, 4, ... up to `most` models that no larger one beats by the factor `WORTH`.

    `rate`: updates per second of all models of a group together. The search ends when a group does not fit the memory.
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
        elif n >= 4 * best:  # two sizes in a row without a gain
            break
        n *= 2
    return {"replicas": best, "updates_per_second": {str(n): round(value, 1) for n, value in rates.items()}}


def rate(config: Config, node: Node, device: Device, n: int) -> float:
    """Updates per second of all `n` models of a group together, at the stage's batch size, without Lightning's overhead."""
    shape, n_outputs, batch = node.stream.input_shape, node.stream.n_outputs, node.length.batch_size
    models = [build_model(config.arch, shape, n_outputs, 0, device.dtype) for _ in range(n)]
    on_gpu = device.torch_device.type == "cuda"
    replicas = make_replicas(models, Trainable(), stacked=prefers_stacking(models[0], device.torch_device.type))
    replicas = replicas.to(device.torch_device)
    optimizer = torch.optim.SGD(replicas.parameters(), lr=1e-6, momentum=0.9, foreach=on_gpu)
    x = torch.zeros(n, batch, *shape, dtype=device.dtype, device=device.torch_device)
    y = torch.zeros(n, batch, dtype=torch.int64, device=device.torch_device)
    if node.data.labels.is_floating_point():
        y = y.to(device.dtype).unsqueeze(-1).expand(-1, -1, n_outputs)
    mixed = config.trainer.precision.endswith("-mixed")
    low = torch.float16 if config.trainer.precision.startswith("16") else torch.bfloat16
    start = 0.0
    for step in range(2 + STEPS):
        if step == 2:  # the first steps choose algorithms and allocate memory
            _wait(device)
            start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.torch_device.type, dtype=low, enabled=mixed):
            losses = sample_losses(replicas(x), y, config.loss).mean(1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _wait(device)
    return n * STEPS / (time.perf_counter() - start)


def _wait(device: Device) -> None:
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize(device.torch_device)
