"""One Lightning fit of one group of stages: a fresh Trainer, module, optimizer and callback every time."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.config import Config
from src.data.seeds import derive
from src.evaluation.metrics import Loss, sample_losses
from src.models.structure import has_dropout, prefers_vmap
from src.training.devices import trainer_arguments
from src.training.feed import Batch, Chunks, Feed, Place, make_feed, whole_epoch
from src.training.module import GroupModule
from src.training.plan import Node
from src.training.replicas import LoopReplicas, Replicas, make_replicas
from src.training.result import Curves, Ledger, StageResult
from src.training.scoring import EVALUATION_BATCH, PoolScores, Scorer, monitor_values
from src.training.stopping import Rule, Verdict, make_rule

UPDATES_AT_ONCE = 32
"""Updates that Lightning sees as one batch; an epoch ends a chunk early."""

Penalty = Callable[[Replicas, Tensor, Tensor], Tensor]


@dataclass(repr=False)  # Lightning asks for it, and it would print every tensor
class StageMonitor(pl.Callback):
    """Keeps the curves, asks the stopping rule after every epoch, and holds stopped models still."""

    module: GroupModule
    nodes: Sequence[Node]
    rule: Rule
    score: Callable[[], list[PoolScores]]
    curve_every: int
    keep_optimizer: bool = False
    ends: dict[int, tuple[Verdict, int]] = field(default_factory=dict)
    """Model -> its verdict and the updates it made."""
    optimizers: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """Model -> optimizer state at its end, if it is kept: in a stack, momentum and step count go on after it."""
    epoch: int = 0
    points: list[tuple[int, bool, list[PoolScores]]] = field(default_factory=list)
    """(updates, whether it is one of every stage's regular points or a model's own end, scores)."""
    losses: list[Tensor] = field(default_factory=list)
    """Of every epoch, the training loss of every update and model [n, R]."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Dropout draws from generators of the models' own, addressed by seed, data and epoch."""
        del pl_module
        replicas = self.module.replicas
        if isinstance(replicas, LoopReplicas) and has_dropout(replicas.models[0]):
            rank = [trainer.global_rank] if self.module.world > 1 else []  # ranks see other rows, and drop others
            seeds = [derive(node.seed, "noise", node.data.digest, self.epoch, *rank) for node in self.nodes]
            replicas.seed_noise(seeds)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends what diverged or what the rule ends; a point of the curves every `curve_every` epochs and at the end."""
        del pl_module
        self.epoch += 1
        losses = self._epoch_losses()
        n_ended = len(self.ends)
        every = torch.isfinite(losses)
        for model in self._running() if not bool(every.all()) else ():
            finite = every[:, model]
            if not bool(finite.all()):
                begun = self.module.n_done - len(losses)
                self._end(model, Verdict("diverged"), begun + int(torch.nonzero(~finite)[0]) + 1)
        for model, verdict in self.rule.after_epoch(self.epoch, self._running()).items():
            self._end(model, verdict, self.module.n_done)
        if self.module.n_done >= self.nodes[0].length.updates:
            for model in self._running():
                self._end(model, self.rule.final(model), self.module.n_done)
        trainer.should_stop = not self._running()
        regular = self.epoch % self.curve_every == 0
        if regular or len(self.ends) > n_ended:
            self.points.append((self.module.n_done, regular, self.score()))

    def _epoch_losses(self) -> Tensor:
        """Losses of the epoch's updates [n, R], summed over the ranks; kept for the next point."""
        losses = torch.stack(self.module.update_losses)
        self.module.update_losses.clear()
        if self.module.world > 1:
            torch.distributed.all_reduce(losses)
            losses = losses / self.module.world
        self.losses.append(losses.cpu())
        return self.losses[-1]

    def _running(self) -> list[int]:
        return [model for model in range(len(self.nodes)) if model not in self.ends]

    def _end(self, model: int, verdict: Verdict, updates: int) -> None:
        self.ends[model] = (verdict, updates)
        if self.keep_optimizer:
            optimizer = self.module.optimizers(use_pl_optimizer=False)
            assert isinstance(optimizer, torch.optim.Optimizer)
            self.optimizers[model] = self.module.optimizer_state(optimizer)[model]
        self.module.replicas.stop(model, verdict.restore)


def fit(
    config: Config,
    nodes: Sequence[Node],
    models: Sequence[nn.Module],
    place: Place,
    *,
    optimizer_states: Sequence[Mapping[str, Tensor]] | None = None,
    penalty: Penalty | None = None,
    keep_optimizer: bool = False,
) -> list[StageResult]:
    """Trains the stages `nodes` of one shape, starting from the weights in `models`, side by side.

    `optimizer_states`: what stages with `reset_optimizer=False` go on with. Returns one result per node.
    """
    started = time.perf_counter()
    first = nodes[0]
    vmapped = prefers_vmap(models[0], place.device.type)
    replicas = make_replicas([model.to(place.dtype) for model in models], first.stage.trainable, vmapped=vmapped)
    scorer = Scorer([node.stream.val.pools for node in nodes], first.stream.n_outputs, config.loss, place)
    feed = make_feed([node.data for node in nodes], first.length, place, config.trainer.resident_mib)
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
    )

    def monitored() -> list[float]:
        watched = [(node.monitor, node.stream) for node in nodes if node.monitor is not None]
        quantity = getattr(config.stopping, "monitor", "loss")
        figures = monitor_values(scorer.score(replicas), watched, quantity)
        return figures if quantity == "loss" else [-figure for figure in figures]

    def figure() -> list[float]:
        held = penalty if first.stage.penalty.kind != "none" else None
        return training_figure(replicas, feed, config.loss, getattr(config.stopping, "quantity", "loss"), held)

    n_epochs = first.length.n_epochs
    rule = make_rule(config.stopping, len(nodes), n_epochs, monitor=monitored, states=replicas.states, figure=figure)
    every = max(1, -(-n_epochs // config.trainer.curve_points))
    monitor = StageMonitor(module, nodes, rule, partial(scorer.score, replicas), every, keep_optimizer)
    if first.length.updates:
        _train(config, module, feed, monitor, n_epochs, place)
    else:  # no training at all: the weights are scored as they are
        monitor.ends = {model: (Verdict("length"), 0) for model in range(len(nodes))}
        module.replicas.to(place.device)
        monitor.points.append((0, True, scorer.score(replicas)))
    states = replicas.states()
    for model, state in enumerate(states):
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):  # the last update was one too many
            monitor.ends[model] = (Verdict("diverged"), monitor.ends[model][1])
    seconds = time.perf_counter() - started
    return [
        StageResult(
            weights=states[r],
            optimizer=monitor.optimizers.get(r),
            curves=_curves(monitor, r),
            ledger=_ledger(node, *monitor.ends[r], seconds / len(nodes), len(nodes), vmapped, place),
        )
        for r, node in enumerate(nodes)
    ]


def _train(config: Config, module: GroupModule, feed: Feed, monitor: StageMonitor, n_epochs: int, place: Place) -> None:
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


def training_figure(
    replicas: Replicas, feed: Feed, loss: Loss, quantity: str, penalty: Penalty | None = None
) -> list[float]:
    """Mean loss of every model over its own training data, penalty included, or the norm of its gradient."""
    was_training = replicas.training
    replicas.eval()
    parameters = [(p, model) for _, p, model in replicas.named_trainable()]
    total: Tensor | None = None
    gradients: list[Tensor] = [torch.zeros_like(p) for p, _ in parameters] if quantity == "gradient" else []
    for batch in whole_epoch(feed, EVALUATION_BATCH):
        losses, parts = _figure_batch(replicas, batch, loss, penalty, [p for p, _ in parameters] if gradients else [])
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


def _figure_batch(
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


def _curves(monitor: StageMonitor, model: int) -> Curves:
    """The points of one model: the regular ones up to its end, and its end; other models' ends are not its own."""
    _, updates = monitor.ends[model]
    points = [p for p in monitor.points if (p[1] and p[0] < updates)]
    points.append(next(p for p in monitor.points if p[0] >= updates))
    steps = [min(step, updates) for step, _, _ in points]
    losses = torch.cat(monitor.losses)[:, model].double().numpy().copy() if monitor.losses else np.empty(0)
    means = [losses[a:b].mean() if b > a else np.nan for a, b in zip([0, *steps], steps, strict=False)]
    n_pools = len(points[0][2])
    return Curves(
        steps=np.array(steps, np.int64),
        train_loss=np.array(means),
        recall=tuple(np.stack([scores[p].recall[model] for _, _, scores in points]) for p in range(n_pools)),
        loss=tuple(np.stack([scores[p].loss[model] for _, _, scores in points]) for p in range(n_pools)),
    )


def _ledger(
    node: Node, verdict: Verdict, updates: int, seconds: float, group: int, vmapped: bool, place: Place
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
        device=place.device.type,
    )


def _samples_of(node: Node, updates: int) -> int:
    """Samples that the first `updates` updates see."""
    whole, rest = divmod(updates, node.length.updates_per_epoch)
    return whole * node.length.n_draws + rest * node.length.batch_size
