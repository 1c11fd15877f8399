"""Where training runs: the device of this process and its part in a data-parallel run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from src.config import TrainerConfig
from src.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """The device and precision of this process, and its share of every batch: rows rank::world."""

    torch_device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1


def device_of(trainer: TrainerConfig) -> Device:
    """The device and precision of this process; ConfigError where the machine lacks what was asked for."""
    torch.set_num_threads(trainer.threads)
    same_bits_anywhere()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if trainer.devices > 1 and world != trainer.devices:
        problem = "several devices need a process each, which src.train starts; a sweep takes trainer.devices=1"
        raise ConfigError("trainer.devices", trainer.devices, problem)
    world, rank = (world, rank) if trainer.devices > 1 else (1, 0)
    has_gpu = torch.cuda.is_available()
    if trainer.name == "gpu" and not has_gpu:
        raise ConfigError("trainer", "gpu", "no CUDA device is visible here; take trainer=auto or trainer=cpu")
    on_gpu = has_gpu and trainer.name != "cpu"
    if trainer.precision == "16-mixed" and not on_gpu:
        raise ConfigError("trainer.precision", "16-mixed", "needs a GPU; on a CPU take bf16-mixed or 32")
    if on_gpu and trainer.devices > torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError("trainer.devices", trainer.devices, f"only {count} visible here; lower it")
    dtype = torch.float64 if trainer.precision == "64" else torch.float32
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else 0)
        if on_gpu
        else torch.device("cpu")
    )
    return Device(device, dtype, rank, world)


def same_bits_anywhere() -> None:
    """Asks MKL, before its first product, for results that do not depend on where in memory the factors lie.

    Otherwise a model's bits depend on its place in a group, wherever its rows do not fill whole 16 bytes (7 units, 50
    features). Costs nothing measurable; a choice of the user's own stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")


def join_world(place: Device) -> None:
    """Meets the other processes of a data-parallel run, before Lightning would: rank 0 tells them what is to be fit."""
    if place.world > 1 and not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.torch_device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend)


def trainer_arguments(trainer: TrainerConfig, place: Device) -> dict[str, Any]:
    """Arguments of a Lightning Trainer on this place."""
    on_gpu = place.torch_device.type == "cuda"
    precision = {"32": "32-true", "64": "64-true"}.get(trainer.precision, trainer.precision)
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": [place.torch_device.index or 0] if on_gpu else 1,
        "precision": precision,
        "deterministic": trainer.deterministic,
    }
    if place.world > 1:
        arguments["strategy"] = "ddp"
        arguments["devices"] = place.world
        arguments["sync_batchnorm"] = on_gpu
    return arguments


def fingerprint(place: Device) -> str:
    """What the last bits of a result depend on besides the recipe: torch, the processor's instructions, the device."""
    if place.torch_device.type == "cuda":
        device = torch.cuda.get_device_name(place.torch_device)
    else:
        rounding = f"MKL_CBWR={os.environ.get('MKL_CBWR', '')}"
        device = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {rounding}"
    return f"torch {torch.__version__}, {device}"
