"""One Lightning fit of one group of stages, each with a fresh Trainer, module, optimizer and callback."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.config import Config
from src.evaluation.metrics import Loss, sample_losses
from src.models.structure import prefers_stacking
from src.stopping.rule import GroupStopping, StoppingVerdict
from src.training.devices import Device, trainer_arguments
from src.training.feed import Batch, Chunks, Feed, make_feed, whole_epoch
from src.training.module import GroupModule
from src.training.monitor import GroupControl, StageMonitor
from src.training.plan import Node
from src.training.replicas import Penalty, Replicas, make_replicas
from src.training.result import ResumePoint, StageResult
from src.training.scoring import EVALUATION_BATCH, Scorer, monitor_values

UPDATES_AT_ONCE = 32
"""Number of updates per Lightning batch. A chunk never spans two epochs."""


def fit(
    config: Config,
    nodes: Sequence[Node],
    models: Sequence[nn.Module],
    device: Device,
    *,
    starts: Sequence[ResumePoint] | None = None,
    optimizer_states: Sequence[Mapping[str, Tensor]] | None = None,
    penalty: Penalty | None = None,
    observer: Callable[[Replicas], None] | None = None,
    control: GroupControl | None = None,
    keep_optimizer: bool = False,
    keep_resume_point: bool = False,
) -> list[StageResult]:
    """Trains stages of equal shape side by side, starting from the weights in `models`.

    Args:
        starts: resume points after equally many updates; they replace the weights in `models`.
        optimizer_states: inherited states, for stages with `reset_optimizer=False`.
        observer: called before every update.
        control: interrupts the fit; None: it cannot be interrupted.
        keep_optimizer: put the final optimizer states into the results.
        keep_resume_point: put resume points for longer stages into the results.

    Returns:
        One result per node.
    """
    started = time.perf_counter()
    first = nodes[0]
    if starts:
        optimizer_states = [start.optimizer for start in starts]
        for model, start in zip(models, starts, strict=True):
            model.load_state_dict(dict(start.weights))
    n_done = starts[0].updates if starts else 0
    stacked = prefers_stacking(models[0], device.torch_device.type)
    replicas = make_replicas([model.to(device.dtype) for model in models], first.stage.trainable, stacked=stacked)
    scorer = Scorer([node.stream.val.pools for node in nodes], first.stream.n_outputs, config.loss, device)
    data = [node.data for node in nodes]
    feed = make_feed(data, first.length, device, config.trainer.resident_mib, n_done, config.augment)
    module = GroupModule(
        replicas, config, first, device.world, n_done, penalty, optimizer_states=optimizer_states, observer=observer
    )

    def measured() -> list[float]:
        """The stopping rule's value of every model, smaller is better."""
        measurement = config.stopping.measurement
        assert measurement is not None
        if measurement.data == "training":
            return training_values(replicas, feed, config.loss, measurement.quantity, penalty)
        monitors = [(node.monitor, node.stream) for node in nodes if node.monitor is not None]
        values = monitor_values(scorer.score(replicas), monitors, measurement.quantity)
        return values if measurement.quantity == "loss" else [-value for value in values]

    n_epochs = first.length.n_epochs
    monitor = StageMonitor(
        module=module,
        nodes=nodes,
        device=device,
        stopping=GroupStopping(config.stopping, n_epochs, measured, replicas.states),
        score=lambda: scorer.score(replicas),
        curve_points=config.trainer.curve_points,
        started=started,
        starts=starts,
        control=control,
        keep_optimizer=keep_optimizer,
        keep_resume_point=keep_resume_point,
    )
    if starts:
        monitor.resume(starts)
    if first.length.updates:
        _train(config, module, feed, monitor, n_epochs - n_done // first.length.updates_per_epoch, device)
    else:  # no training at all: the weights are scored as they are
        monitor.ends = {model: (StoppingVerdict("length"), 0) for model in range(len(nodes))}
        replicas.to(device.torch_device)
        monitor.points.append((0, True, scorer.score(replicas)))
    return [monitor.result(r, state) for r, state in enumerate(replicas.states())]


def _train(
    config: Config, module: GroupModule, feed: Feed, monitor: StageMonitor, n_epochs: int, device: Device
) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # the feed is an iterable of whole batches, so advice on loaders and their workers does not apply
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
        trainer = pl.Trainer(
            max_epochs=n_epochs,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **trainer_arguments(config.trainer, device),
        )
        trainer.fit(module, train_dataloaders=Chunks(feed, 1 if device.world > 1 else UPDATES_AT_ONCE))
    if trainer.interrupted:
        raise KeyboardInterrupt
    assert module.n_done == monitor.nodes[0].length.updates or trainer.should_stop


def training_values(
    replicas: Replicas, feed: Feed, loss: Loss, quantity: str, penalty: Penalty | None = None
) -> list[float]:
    """Every model's mean loss over its own training data, penalty included, or the norm of its gradient."""
    was_training = replicas.training
    replicas.eval()
    parameters = [(p, model) for _, p, model in replicas.named_trainable()] if quantity == "gradient" else []
    total: Tensor | float = 0.0
    gradients = [torch.zeros_like(p) for p, _ in parameters]
    for batch in whole_epoch(feed, EVALUATION_BATCH):
        losses, parts = _batch_values(replicas, batch, loss, penalty, [p for p, _ in parameters])
        total = total + losses
        gradients = [whole + part for whole, part in zip(gradients, parts, strict=True)]
    replicas.train(was_training)
    assert isinstance(total, Tensor)
    n = feed.length.n_draws
    if quantity == "loss":
        return [float(value) / n for value in total]
    squared = torch.zeros(replicas.n, dtype=torch.float64)
    for (_, model), gradient in zip(parameters, gradients, strict=True):
        square = (gradient.double() / n).square().cpu()
        if model is None:
            squared += square[: replicas.n].flatten(1).sum(1)
        else:
            squared[model] += square.sum()
    return [float(value) for value in squared.sqrt()]


def _batch_values(
    replicas: Replicas, batch: Batch, loss: Loss, penalty: Penalty | None, parameters: list[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Summed losses [R] of one batch, and the gradients of their sum with respect to `parameters`."""
    x, y, _ = batch
    with torch.set_grad_enabled(bool(parameters)):
        outputs = replicas(x)
        losses = sample_losses(outputs, y, loss).sum(1)
        if penalty is not None:
            losses = losses + penalty(replicas, x, outputs) * x.shape[1]
        gradients = torch.autograd.grad(losses.sum(), parameters) if parameters else ()
    return losses.detach().double(), gradients
