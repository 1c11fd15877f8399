"""Group size: `trainer.replicas`, or by memory on a CPU, or measured once per sweep on a GPU.

On a CPU the size matters little above a few models. On a GPU the best size depends on the model and the card, by factors.
"""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
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
from src.models.structure import has_batchnorm, n_parameters
from src.regimes.stage import Trainable
from src.training.devices import Device, products_in
from src.training.graph.capture import CudaCapture, RecordingError, recorded
from src.training.graph.choice import form_of
from src.training.plan import Node
from src.training.replicas import LoopReplicas, trainable_names

CPU_MEBIBYTES = 512
"""Limit for weights, gradients and optimizer state of a group on a CPU."""
CPU_STACKED, CPU_LOOPED, GPU_MOST = 128, 4, 512
"""Largest groups. A loop gains little from many models, and holds the activations of all of them."""
GPU_SHARE = 0.5
"""Share of the GPU's free memory for the same; the rest is for data and activations."""
WORTH = 1.05
"""Factor by which a larger group must be faster than the best smaller one."""
POINT_SECONDS, WINDOWS = 0.5, 3
"""Time in which one size is measured after its warm-up, and the windows of which the median counts."""
BUDGET_SECONDS = 5.0
"""Time in which all sizes are measured, warm-up included; the first use of the device's libraries is not."""
WARM_UP = 3

Window = Callable[[float], float]
"""Trains a group for at least so many seconds; returns updates per second of all its models together."""

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
        is_stacked = form_of(config, model, node.stream.input_shape, device).is_stacked
        most = CPU_STACKED if is_stacked else CPU_LOOPED
        return by_memory(model, device, CPU_MEBIBYTES * 2**20, most)
    free = torch.cuda.mem_get_info(device.torch_device)[0]
    most = by_memory(model, device, int(GPU_SHARE * free), GPU_MOST)
    what = {
        "arch": config.recipe()["arch"],
        "input_shape": list(node.stream.input_shape),
        "n_outputs": node.stream.n_outputs,
        "batch_size": node.length.batch_size,
        "precision": config.trainer.precision,
        "graph": config.trainer.graph,
        **({"compile": True} if config.trainer.compile else {}),
        "device": torch.cuda.get_device_name(device.torch_device),
    }
    folder = Path(config.multirun) / config.sweep
    return decided(folder, what, lambda: measured(most, lambda n: group_in_training(config, node, device, n)))


def by_memory(model: nn.Module, device: Device, n_bytes: int, most: int) -> int:
    """As many models as fit, at least one."""
    size = n_parameters(model) * device.dtype.itemsize * COPIES
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


def measured(
    most: int, prepare: Callable[[int], Window], clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """The smallest group of 1, 2, 4, ... up to `most` models that no larger one beats by the factor `WORTH`.

    `prepare`: a group of n models, warmed up. The search ends when a group does not fit the memory, after two sizes in a row
    without a gain, or where the next size would exceed `BUDGET_SECONDS`.
    """
    with suppress(torch.cuda.OutOfMemoryError):
        prepare(1)  # loads libraries, which training would do as well
    rates: dict[int, float] = {}
    best = n = 1
    started, expected = clock(), POINT_SECONDS
    while n <= most and clock() - started + expected <= BUDGET_SECONDS:
        begun = clock()
        try:
            window = prepare(n)
            rates[n] = statistics.median(window(POINT_SECONDS / WINDOWS) for _ in range(WINDOWS))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rates[n] >= WORTH * rates[best]:
            best = n
        elif n >= 4 * best:  # two sizes in a row without a gain
            break
        expected = 2 * (clock() - begun)  # twice the models take at most twice the time
        n *= 2
    return {
        "replicas": best,
        "seconds": round(clock() - started, 2),
        "updates_per_second": {str(n): round(value, 1) for n, value in rates.items()},
    }


def group_in_training(config: Config, node: Node, device: Device, n: int) -> Window:
    """A group of `n` models at the stage's batch size, warmed up, without Lightning's overhead: as a graph where stages train
    as one."""
    shape, n_outputs, batch = node.stream.input_shape, node.stream.n_outputs, node.length.batch_size
    model, kind = build_model(config.arch, shape, n_outputs, 0, device.dtype), device.torch_device.type
    form = form_of(config, model, shape, device)
    capture = form.capture
    if config.trainer.deterministic:  # as Lightning does later; slower algorithms may favour another size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.trainer.deterministic)
    models = [copy.deepcopy(model) for _ in range(n)]
    replicas = form.replicas(models, trainable_names(model, Trainable()), batch).to(device.torch_device)
    optimizer = torch.optim.SGD(replicas.parameters(), lr=1e-6, momentum=0.9, foreach=kind == "cuda")
    x = torch.zeros(n, batch, *shape, dtype=device.dtype, device=device.torch_device)
    y = torch.zeros(n, batch, dtype=torch.int64, device=device.torch_device)
    if node.data.labels.is_floating_point():
        y = y.to(device.dtype).unsqueeze(-1).expand(-1, -1, n_outputs)
    mixed = config.trainer.precision.endswith("-mixed")
    low = torch.float16 if config.trainer.precision.startswith("16") else torch.bfloat16

    def step() -> None:
        optimizer.zero_grad()
        with products_in(config.trainer.precision):
            with torch.autocast(kind, dtype=low, enabled=mixed, cache_enabled=False):
                losses = sample_losses(replicas(x), y, config.loss).mean(1)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    if capture is not None and isinstance(replicas, LoopReplicas):
        replicas.branches = capture.branches
    update = step
    for warm_up in range(1, WARM_UP + 1):  # chooses algorithms and allocates memory
        if capture is None:
            step()
        elif capture.warm_up(step) is None and warm_up == WARM_UP:
            update = _recorded(capture, step)

    def train(steps: int) -> None:
        for _ in range(steps):
            update()
        if kind == "cuda":
            torch.cuda.synchronize(device.torch_device)

    train(1)
    return lambda seconds: n * steps_per_second(train, seconds)


def _recorded(capture: CudaCapture, step: Callable[[], None]) -> Callable[[], None]:
    """The step as a graph; as it is where it cannot be recorded, since stages then train eagerly, too, and log why."""
    try:
        return recorded(capture, step)
    except RecordingError:
        return step


def steps_per_second(
    train: Callable[[int], None], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The rate over at least `seconds`. `train` makes so many steps and waits for the device."""
    start, steps, elapsed, batch = clock(), 0, 0.0, 1
    while elapsed < seconds:
        train(batch)
        steps += batch
        elapsed = clock() - start
        missing = math.ceil(steps * (seconds / elapsed - 1)) if elapsed else steps
        batch = max(1, min(steps, missing))  # few waits, and no long step too many
    return steps / elapsed
