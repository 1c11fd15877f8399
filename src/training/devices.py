"""Where training runs: the device of this process and its part in a data-parallel run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from src.config import TrainerConfig
from src.environment import rank_of_process
from src.errors import ConfigError

T = TypeVar("T")

CUDNN: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]
"""What rounds to TF32 by torch's default."""

STEP_SECONDS = {"cuda": 40.0, "cpu": 600.0}
"""Longest that a rank waits for another in an operation of training. One that hangs has no other sign: processes that die are
noticed by torchrun and by their peers. On a CPU nothing but an overloaded machine makes a rank wait."""
DECISION_SECONDS = 6 * 3600.0
"""Longest that ranks wait for a decision of rank 0, which may wait for another worker, and scores and writes alone, and for
each other's start."""


@dataclass(frozen=True)
class Device:
    """The device and precision of this process, and its share of every batch: rows rank::world."""

    torch_device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1


def device_of(trainer: TrainerConfig) -> Device:
    """The device and precision of this process. Raises ConfigError if the machine lacks what `trainer` requests."""
    torch.set_num_threads(trainer.threads)
    same_bits_anywhere()
    rank, local_rank, world = rank_of_process(trainer.devices)
    if world != trainer.devices:
        problem = f"needs as many processes, and this is one of {world}; start src.train or src.sweep without torchrun"
        raise ConfigError("trainer.devices", trainer.devices, problem)
    has_gpu = torch.cuda.is_available()
    if trainer.name == "gpu" and not has_gpu:
        raise ConfigError("trainer", "gpu", "no CUDA device is visible; set trainer=auto or trainer=cpu")
    on_gpu = has_gpu and trainer.name != "cpu"
    if trainer.precision in ("16-mixed", "tf32") and not on_gpu:
        raise ConfigError("trainer.precision", trainer.precision, "needs a GPU; on a CPU use bf16-mixed or 32")
    if on_gpu and trainer.devices > torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError("trainer.devices", trainer.devices, f"only {count} visible; lower it")
    if on_gpu:
        for part in CUDNN:
            part.fp32_precision = "ieee"
        # with deterministic algorithms torch would fill each new tensor with NaN, by a kernel of its own
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    dtype = torch.float64 if trainer.precision == "64" else torch.float32
    return Device(torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"), dtype, rank, world)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Lets products and convolutions on a GPU round to TF32 inside if that is the `precision`."""
    if precision != "tf32":
        yield
        return
    before, others = torch.get_float32_matmul_precision(), [part.fp32_precision for part in CUDNN]
    # not by `torch.backends.cuda.matmul`, after which the getter, which Lightning calls, raises
    torch.set_float32_matmul_precision("high")
    for part in CUDNN:
        part.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for part, other in zip(CUDNN, others, strict=True):
            part.fp32_precision = other


def same_bits_anywhere() -> None:
    """Requests results from MKL, before its first product, that do not depend on memory alignment.

    Otherwise a model's bits depend on its position in a group if its rows do not fill whole 16 bytes (7 units, 50
    features). The cost is not measurable. A value set by the user stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")


_decisions: Any = None
"""The group of `broadcast_decision`, which waits longer than training does."""


def join_world(device: Device) -> None:
    """Joins the process group of a data-parallel run before Lightning does: rank 0 broadcasts what to train."""
    global _decisions
    if device.world == 1 or torch.distributed.is_initialized():
        return
    kind, patience = device.torch_device.type, timedelta(seconds=DECISION_SECONDS)
    store, rank, world = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    store.set(f"started/{rank}", "")
    store.wait([f"started/{other}" for other in range(world)], patience)  # the group itself waits as long as a step may
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=STEP_SECONDS[kind]),
    )
    _decisions = torch.distributed.new_group(backend="gloo", timeout=patience)


def broadcast_decision(decision: T | None) -> T:
    """The value that rank 0 passes, on all ranks."""
    box = [decision]
    torch.distributed.broadcast_object_list(box, src=0, group=_decisions)
    return box[0]  # type: ignore[return-value]


def trainer_arguments(trainer: TrainerConfig, device: Device) -> dict[str, Any]:
    """Arguments of a Lightning Trainer on the device."""
    from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]  # takes seconds
        LightningEnvironment,
        TorchElasticEnvironment,
    )

    on_gpu = device.torch_device.type == "cuda"
    precision = {"32": "32-true", "tf32": "32-true", "64": "64-true"}.get(trainer.precision, trainer.precision)
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": [device.torch_device.index or 0] if on_gpu else 1,
        "precision": precision,
        "deterministic": trainer.deterministic,
        # otherwise Lightning guesses it from the variables of whatever cluster it finds
        "plugins": [TorchElasticEnvironment() if device.world > 1 else LightningEnvironment()],
    }
    if device.world > 1:
        arguments["strategy"] = "ddp"
        arguments["devices"] = device.world
        arguments["sync_batchnorm"] = on_gpu
    return arguments


def fingerprint(device: Device) -> str:
    """What the last bits of a result depend on besides the recipe: torch, CPU capability, device."""
    if device.torch_device.type == "cuda":
        hardware = torch.cuda.get_device_name(device.torch_device)
    else:
        rounding = f"MKL_CBWR={os.environ.get('MKL_CBWR', '')}"
        hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {rounding}"
    return f"torch {torch.__version__}, {hardware}"
