"""One Lightning fit of one group of stages: a fresh Trainer, module, optimizer and callback every time."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.config import Config
from src.evaluation.metrics import Loss, sample_losses
from src.models.structure import prefers_vmap
from src.stopping.group import GroupStopping
from src.stopping.rule import StoppingVerdict
from src.training.devices import Device, trainer_arguments
from src.training.feed import Batch, Chunks, Feed, make_feed, whole_epoch
from src.training.module import GroupModule
from src.training.monitor import Checkpoints, StageMonitor
from src.training.plan import Node
from src.training.replicas import ModelState, Replicas, make_replicas
from src.training.result import Ledger, ResumePoint, StageResult
from src.training.scoring import EVALUATION_BATCH, Scorer, monitor_values

UPDATES_AT_ONCE = 32
"""Updates that Lightning sees as one batch; an epoch ends a chunk early."""

Penalty = Callable[[Replicas, Tensor, Tensor], Tensor]


def fit(
    config: Config,
    nodes: Sequence[Node],
    models: Sequence[nn.Module],
    place: Device,
    *,
    optimizer_states: Sequence[Mapping[str, Tensor]] | None = None,
    penalty: Penalty | None = None,
    keep_optimizer: bool = False,
    starts: Sequence[ResumePoint] | None = None,
    checkpoints: Checkpoints | None = None,
    keep_resume_point: bool = False,
) -> list[StageResult]:
    """Trains the stages `nodes` of one shape, starting from the weights in `models`, side by side.

    `optimizer_states`: what stages with `reset_optimizer=False` go on with. `starts`: where the models were left, after
    equally many updates; the weights in `models` then do not count. `checkpoints`: where the fit may be left.
    `keep_resume_point`: what a longer stage goes on from is kept with the results. Returns one result per node.
    """
    started = time.perf_counter()
    first = nodes[0]
    if starts:
        optimizer_states = [start.optimizer for start in starts]
        for model, start in zip(models, starts, strict=True):
            model.load_state_dict(dict(start.weights))
    n_done = starts[0].updates if starts else 0
    vmapped = prefers_vmap(models[0], place.torch_device.type)
    replicas = make_replicas([model.to(place.dtype) for model in models], first.stage.trainable, vmapped=vmapped)
    scorer = Scorer([node.stream.val.pools for node in nodes], first.stream.n_outputs, config.loss, place)
    data, resident_mib = [node.data for node in nodes], config.trainer.resident_mib
    feed = make_feed(data, first.length, place, resident_mib, n_done, config.augment)
    module = GroupModule(
        replicas,
        loss=config.loss,
        optimizer=config.optimizer,
        lr=config.optimizer.lr * first.stage.lr_factor,
        n_updates=first.length.updates,
        penalty=penalty,
        optimizer_states=optimizer_states,
        world=place.world,
        scaled=config.trainer.precision == "16-mixed",
        n_done=n_done,
    )

    measurement = config.stopping.measurement

    def measured() -> list[float]:
        """The stopping rule's value of every model, smaller is better."""
        assert measurement is not None
        if measurement.data == "training":
            held = penalty if first.stage.penalty.kind != "none" else None
            return training_values(replicas, feed, config.loss, measurement.quantity, held)
        monitors = [(node.monitor, node.stream) for node in nodes if node.monitor is not None]
        values = monitor_values(scorer.score(replicas), monitors, measurement.quantity)
        return values if measurement.quantity == "loss" else [-value for value in values]

    n_epochs = first.length.n_epochs
    stopping = GroupStopping(config.stopping, n_epochs, measured, replicas.states)
    monitor = StageMonitor(
        module,
        nodes,
        place,
        stopping,
        partial(scorer.score, replicas),
        config.trainer.curve_points,
        keep_optimizer or keep_resume_point,
        checkpoints,
    )

    def seconds() -> float:
        return (time.perf_counter() - started) / len(nodes)

    def ended(r: int, state: ModelState) -> StageResult:
        verdict, updates = monitor.ends[r]
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):  # the last update was one too many
            verdict = StoppingVerdict("diverged")
        taken = seconds() + (starts[r].seconds if starts else 0.0)
        result = StageResult(
            weights=state,
            optimizer=monitor.optimizers[r] if keep_optimizer and updates else None,
            curves=monitor.curves(r),
            ledger=_ledger(nodes[r], verdict, updates, taken, len(nodes), vmapped, place),
        )
        if keep_resume_point and verdict.stopped_by == "length":
            result = replace(result, resume_point=monitor.at_end(r, result))
        return result

    def standings() -> list[ResumePoint | StageResult]:
        states = replicas.states()
        running = monitor.progress(states, starts, seconds())
        return [running[r] if r in running else ended(r, state) for r, state in enumerate(states)]

    monitor.standings = standings
    if starts:
        monitor.go_on(starts)
    if first.length.updates:
        _train(config, module, feed, monitor, n_epochs - n_done // first.length.updates_per_epoch, place)
    else:  # no training at all: the weights are scored as they are
        monitor.ends = {model: (StoppingVerdict("length"), 0) for model in range(len(nodes))}
        module.replicas.to(place.torch_device)
        monitor.points.append((0, True, scorer.score(replicas)))
    return [ended(r, state) for r, state in enumerate(replicas.states())]


def _train(
    config: Config, module: GroupModule, feed: Feed, monitor: StageMonitor, n_epochs: int, place: Device
) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # our feed is an iterable of whole batches, so advice on loaders and their workers does not apply
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
            **trainer_arguments(config.trainer, place),
        )
        trainer.fit(module, train_dataloaders=Chunks(feed, 1 if place.world > 1 else UPDATES_AT_ONCE))
    if trainer.interrupted:
        raise KeyboardInterrupt
    assert monitor.module.n_done == monitor.nodes[0].length.updates or trainer.should_stop


def training_values(
    replicas: Replicas, feed: Feed, loss: Loss, quantity: str, penalty: Penalty | None = None
) -> list[float]:
    """Mean loss of every model over its own training data, penalty included, or the norm of its gradient."""
    was_training = replicas.training
    replicas.eval()
    parameters = [(p, model) for _, p, model in replicas.named_trainable()]
    total: Tensor | None = None
    gradients: list[Tensor] = [torch.zeros_like(p) for p, _ in parameters] if quantity == "gradient" else []
    for batch in whole_epoch(feed, EVALUATION_BATCH):
        losses, parts = _batch_values(replicas, batch, loss, penalty, [p for p, _ in parameters] if gradients else [])
        total = losses if total is None else total + losses
        gradients = [whole + part for whole, part in zip(gradients, parts, strict=True)]
    replicas.train(was_training)
    assert total is not None
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


def _ledger(
    node: Node, verdict: StoppingVerdict, updates: int, seconds: float, group: int, vmapped: bool, place: Device
) -> Ledger:
    length = node.length
    epochs = -(-updates // length.updates_per_epoch)
    samples = length.samples if updates == length.updates else _samples_of(node, updates)
    return Ledger(
        updates=updates,
        samples=samples,
        epochs=epochs,
        stopped_by=verdict.stopped_by,
        converged=verdict.converged,
        best_epoch=verdict.best_epoch,
        seconds=seconds,
        group=group,
        engine="vmap" if vmapped else "loop",
        device=place.torch_device.type,
    )


def _samples_of(node: Node, updates: int) -> int:
    """Samples that the first `updates` updates see."""
    whole, rest = divmod(updates, node.length.updates_per_epoch)
    return whole * node.length.n_draws + rest * node.length.batch_size
