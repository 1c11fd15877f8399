"""Why a group trains without a graph: one plain reason each, which the log and `provenance` show."""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from src.config import Config
from src.models.structure import has_dropout
from src.training.devices import Device
from src.training.feed import Feed, ResidentFeed
from src.training.plan import Node
from src.training.replicas import Replicas
from src.training.result import Ledger

log = logging.getLogger(__name__)

OFF = "trainer.graph=off"
_logged: set[str] = set()


def uncapturable(config: Config, model: nn.Module, device: Device) -> str | None:
    """Why no group of this cell and network can be recorded; None: it can be.

    It depends on neither the group nor its data, and it chooses the form of the optimizer and the engine of the group, so
    that a stage has the same bits in every group.
    """
    trainer = config.trainer
    if trainer.graph == "off":
        return OFF
    if device.world > 1:
        return f"trainer.devices={device.world}: gradients are averaged between processes in every update"
    if trainer.precision in ("16-mixed", "64"):
        return f"trainer.precision={trainer.precision}: recorded updates are for 32 and bf16-mixed"
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


def is_trained_by(ledger: Ledger, device: str, graph: Literal["auto", "off"]) -> bool:
    """Whether a stage was trained on the kind of device and, on a GPU, as `trainer.graph` requests: its last bits depend on
    both."""
    is_off = ledger.capture_reason == OFF or not ledger.capture  # before there were graphs
    return ledger.device == device and (device != "cuda" or is_off == (graph == "off"))


def kind_of_update(config: Config, node: Node, replicas: Replicas) -> str:
    """Names what decides which kernels an update launches, besides the batch size."""
    stage, data = node.stage, (node.stream.input_shape, node.stream.n_outputs, node.data.labels.dtype)
    settings = (config.arch.content(), config.optimizer.content(), config.loss, config.label_smoothing, config.augment)
    parts = (type(replicas).__name__, replicas.n, config.trainer.precision, data, *settings, stage, node.heads)
    return repr(parts)


def log_once(reason: str) -> None:
    """Logs a reason the first time that this process meets it; what the user asked for is no news."""
    if reason not in _logged and reason != OFF:
        _logged.add(reason)
        log.warning("updates run eagerly, kernel by kernel: %s", reason)
