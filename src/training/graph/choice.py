"""How updates run on a device: the engine, the memory format, and whether as a graph; if not, one plain reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from src.config import Config
from src.models.structure import has_dropout, memory_layout, prefers_stacking
from src.training.compiling import CompiledPass
from src.training.devices import Device
from src.training.feed import Feed, ResidentFeed
from src.training.graph.capture import CudaCapture, capture_on
from src.training.plan import Node
from src.training.replicas import LoopReplicas, Replicas, StackedReplicas
from src.training.result import Captured, Ledger, ResumePoint

log = logging.getLogger(__name__)

OFF = "trainer.graph=off"
TOO_SHORT = "the stage has no more updates than run before a recording"
_logged: set[str] = set()


@dataclass(frozen=True, eq=False)
class UpdateForm:
    """How the updates of a cell's network run on a device; the same for every group, so that a stage has the same bits in
    each."""

    capture: CudaCapture | None
    """Records updates; the optimizer then has its capturable form. None: kernel by kernel."""
    reason: str | None
    """Why a device that has graphs does not record."""
    is_stacked: bool
    is_compiled: bool
    """Models are then not stacked."""
    layout: Callable[[nn.Module], torch.memory_format]
    """Memory format of inputs and weights."""

    def replicas(self, models: Sequence[nn.Module], trainable: set[str], batch_size: int = 0) -> Replicas:
        """The models as one module that trains the parameters `trainable` on whole batches of `batch_size` samples."""
        if self.is_stacked:
            return StackedReplicas(models, trainable)
        compiled = CompiledPass(batch_size) if self.is_compiled else None
        return LoopReplicas(models, trainable, self.layout(models[0]), compiled)


def form_of(config: Config, model: nn.Module, input_shape: Sequence[int], device: Device) -> UpdateForm:
    """The one choice of capture, engine and memory format, by the cell, a network of it and the device."""
    capture = capture_on(device.torch_device)
    reason = None if capture is None else uncapturable(config, model, device)
    if reason is not None:
        capture = None
    is_compiled, is_bf16 = config.trainer.compile, capture is not None and config.trainer.precision == "bf16-mixed"
    is_stacked = not is_compiled and prefers_stacking(model, device.torch_device.type, capture is not None)
    layout = partial(memory_layout, input_shape=input_shape, device=device.torch_device, is_bf16=is_bf16)
    return UpdateForm(capture, reason, is_stacked, is_compiled, layout)


def uncapturable(config: Config, model: nn.Module, device: Device) -> str | None:
    """Why no group of this cell and network can be recorded, whatever its data; None: it can be."""
    trainer = config.trainer
    if trainer.graph == "off":
        return OFF
    if device.world > 1:
        return f"trainer.devices={device.world}: gradients are averaged between processes in every update"
    if trainer.precision in ("16-mixed", "64"):
        return f"trainer.precision={trainer.precision}: recorded updates are for 32, tf32 and bf16-mixed"
    if not config.optimizer.is_capturable:
        return f"optimizer={config.optimizer.name}: it has no form with its state on the device"
    if config.online:
        return "online=true: hits are counted on the CPU in every update"
    if has_dropout(model):
        return "dropout: a model's noise is seeded from the CPU in every update"
    return None


def eager_reason(config: Config, feed: Feed, observer: object | None) -> str | None:
    """Why this fit cannot be recorded though its cell can; the form of the optimizer stays the capturable one."""
    if observer is not None:
        return "an observer reads the weights before every update"
    if not isinstance(feed, ResidentFeed):
        return f"trainer.resident_mib={config.trainer.resident_mib}: the training data are larger and streamed"
    return None


def is_trained_by(trained: Ledger | ResumePoint, device: str, graph: Literal["auto", "off"]) -> bool:
    """Whether a stage was trained on the kind of device and, on a GPU, as `trainer.graph` requests: its last bits depend on
    both."""
    is_off = trained.capture_reason == OFF or not trained.capture  # before there were graphs
    return trained.device == device and (device != "cuda" or is_off == (graph == "off"))


def continuable(
    points: Mapping[str, ResumePoint | None], device: str, graph: Literal["auto", "off"]
) -> dict[str, ResumePoint]:
    """The resume points that training goes on from; the log says how many are of another `trainer.graph`."""
    here = {key: point for key, point in points.items() if point is not None and point.device == device}
    found = {key: point for key, point in here.items() if is_trained_by(point, device, graph)}
    if len(found) < len(here):
        n = len(here) - len(found)
        log.warning("%d stages start over: their checkpoints are not of trainer.graph=%s; bits would mix", n, graph)
    return found


def capture_in_all(before: Ledger | ResumePoint | None, now: tuple[Captured, str]) -> tuple[Captured, str]:
    """How the updates of a stage ran, and why not as a graph: before it was resumed, and since."""
    if before is None or before.capture in ("", now[0]) or before.capture_reason == TOO_SHORT:
        return now
    when, reason = ("after", now[1]) if now[0] == "eager" else ("before", before.capture_reason)
    return "eager", f"{when} it was resumed: {reason}"


def kind_of_update(config: Config, node: Node, replicas: Replicas) -> str:
    """Names what decides which kernels an update launches, besides the batch size."""
    stage, data = node.stage, (node.stream.input_shape, node.stream.n_outputs, node.data.labels.dtype)
    settings = (config.arch.content(), config.optimizer.content(), config.loss, config.label_smoothing, config.augment)
    how = (config.trainer.precision, config.trainer.compile)
    parts = (type(replicas).__name__, replicas.n, *how, data, *settings, stage, node.heads)
    return repr(parts)


def log_once(reason: str) -> None:
    """Logs a reason the first time that this process meets it; what the user asked for is no news."""
    if reason not in _logged and reason != OFF:
        _logged.add(reason)
        log.warning("updates run eagerly, kernel by kernel: %s", reason)
