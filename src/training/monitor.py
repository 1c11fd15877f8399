"""Watches one fit: curves, the stopping rule after every epoch, stopped models held still, and where each model stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from src.models.structure import has_dropout
from src.seeds import derive
from src.stopping.group import GroupStopping
from src.stopping.rule import StoppingVerdict
from src.training.devices import Device
from src.training.module import GroupModule
from src.training.plan import Node
from src.training.replicas import LoopReplicas, ModelState
from src.training.result import Curves, ResumePoint, StageResult
from src.training.scoring import PoolScores

Standing = ResumePoint | StageResult
"""Where a model is: part-way, or at its end."""

Point = tuple[int, bool, list[PoolScores]]
"""(updates, whether it is one of every stage's regular points or a model's own end, scores of every pool)."""


class Checkpoints(Protocol):
    """Where a fit may be left: `leave` is called often, and what it raises ends the fit, its models having been saved;
    `save` is called then, and every `seconds`.

    `passed` is called at every regular point of the curves, where it may be left too, and when a group goes on that has
    passed some, with what gives the regular points so far, by model; those that have ended are not among them.
    """

    seconds: float

    def leave(self) -> None: ...

    def passed(self, curves: Callable[[], Mapping[int, Curves]]) -> None: ...

    def save(self, standings: Sequence[Standing]) -> None: ...


@dataclass(repr=False)  # Lightning asks for it, and it would print every tensor
class StageMonitor(pl.Callback):
    """Keeps the curves, asks the stopping rule after every epoch, and holds stopped models still.

    `checkpoints`: where the group may be left; None: nowhere. `standings`: where every model stands.
    """

    module: GroupModule
    nodes: Sequence[Node]
    place: Device
    stopping: GroupStopping
    score: Callable[[], list[PoolScores]]
    curve_points: int
    keep_optimizer: bool = False
    checkpoints: Checkpoints | None = None
    standings: Callable[[], Sequence[Standing]] | None = None
    ends: dict[int, tuple[StoppingVerdict, int]] = field(default_factory=dict)
    """Model -> its verdict and the updates it made."""
    optimizers: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """Model -> optimizer state at its end, if it is kept: in a stack, momentum and step count go on after it."""
    epoch: int = 0
    points: list[Point] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    """Of every epoch, the training loss of every update and model [n, R]."""
    saved_at: float = field(default_factory=time.monotonic)

    def go_on(self, starts: Sequence[ResumePoint]) -> None:
        """Takes up the group where its models, all after equally many updates, were left."""
        per_epoch = self.nodes[0].length.updates_per_epoch
        self.epoch, n_begun = divmod(starts[0].updates, per_epoch)
        losses = torch.stack([start.losses for start in starts], 1)
        n_whole = len(losses) - n_begun
        self.losses = [losses[:n_whole]] if n_whole else []
        self.module.update_losses = list(losses[n_whole:].to(self.place.torch_device))
        for step in self.nodes[0].length.regular_points(self.curve_points, starts[0].updates):
            places = [int(np.flatnonzero(start.curves.steps == step)[0]) for start in starts]
            self.points.append((step, True, _together([start.curves for start in starts], places)))
        for model, start in enumerate(starts):
            if start.best is not None:
                self.stopping.best[model] = start.best
        noises = [start.noise for start in starts if start.noise is not None]
        if noises:
            assert isinstance(self.module.replicas, LoopReplicas)
            self.module.replicas.noise = noises
        if self.checkpoints is not None and self.points:
            self.checkpoints.passed(self._curves_so_far)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Dropout draws from generators of the models' own, addressed by seed, data and epoch."""
        del pl_module
        replicas = self.module.replicas
        begun = self.module.n_done % self.nodes[0].length.updates_per_epoch
        if isinstance(replicas, LoopReplicas) and has_dropout(replicas.models[0]) and not begun:
            rank = [trainer.global_rank] if self.module.world > 1 else []  # ranks see other rows, and drop others
            seeds = [derive(node.seed, "noise", node.data.digest, self.epoch, *rank) for node in self.nodes]
            replicas.seed_noise(seeds)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Inside an epoch the group may be left too, unless ranks share it."""
        del trainer, pl_module, rest
        length, n_done = self.nodes[0].length, self.module.n_done
        if self.module.world == 1 and n_done % length.updates_per_epoch and n_done < length.updates:
            self._may_leave()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends what diverged or what the rule ends; a regular point of the curves, and one at an end."""
        del pl_module
        self.epoch += 1
        losses = self._epoch_losses()
        ending: dict[int, tuple[StoppingVerdict, int]] = {}
        every = torch.isfinite(losses)
        for model in self._running() if not bool(every.all()) else ():
            finite = every[:, model]
            if not bool(finite.all()):
                begun = self.module.n_done - len(losses)
                ending[model] = StoppingVerdict("diverged"), begun + int(torch.nonzero(~finite)[0]) + 1
        running = [model for model in self._running() if model not in ending]
        for model, verdict in self.stopping.after_epoch(self.epoch, running).items():
            ending[model] = verdict, self.module.n_done
        if self.module.n_done >= self.nodes[0].length.updates:
            for model in running:
                ending.setdefault(model, (self.stopping.at_end(model), self.module.n_done))
        self._end(ending)
        trainer.should_stop = not self._running()
        regular = self.epoch % self.nodes[0].length.curve_every(self.curve_points) == 0
        if regular or ending:
            self.points.append((self.module.n_done, regular, self.score()))
        if self._running():
            self._may_leave(regular)

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

    def _end(self, ending: Mapping[int, tuple[StoppingVerdict, int]]) -> None:
        states = self._optimizer_states() if ending and self.keep_optimizer else None
        for model, (verdict, updates) in ending.items():
            self.ends[model] = (verdict, updates)
            if states is not None:
                self.optimizers[model] = states[model]
            self.module.replicas.stop(model, self.stopping.restored(model, verdict))

    def _optimizer_states(self) -> list[ModelState]:
        optimizer = self.module.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return self.module.optimizer_state(optimizer)

    # -------------------------------------------------------------------------------------------- where it stands

    def _may_leave(self, at_point: bool = False) -> None:
        """Saves the group if it is time, or if somebody wants it left. `at_point`: at a regular point of the curves."""
        if self.checkpoints is None:
            return
        try:
            self.checkpoints.leave()
            if at_point:
                self.checkpoints.passed(self._curves_so_far)
        except BaseException:
            self._save()
            raise
        if time.monotonic() - self.saved_at >= self.checkpoints.seconds:
            self._save()

    def _save(self) -> None:
        assert self.checkpoints is not None
        assert self.standings is not None
        self.checkpoints.save(self.standings())
        self.saved_at = time.monotonic()

    def progress(
        self, states: Sequence[ModelState], starts: Sequence[ResumePoint] | None, seconds: float
    ) -> dict[int, ResumePoint]:
        """Where the running models stand: all that the rest of their stage depends on. `seconds`: each one's share here."""
        optimizers, losses, curves = self._optimizer_states(), self.all_losses(), self._curves_so_far()
        replicas = self.module.replicas
        inside = bool(self.module.n_done % self.nodes[0].length.updates_per_epoch)
        noise = replicas.noise if isinstance(replicas, LoopReplicas) and inside else None
        return {
            r: ResumePoint(
                updates=self.module.n_done,
                reused=starts[r].reused if starts else 0,
                seconds=seconds + (starts[r].seconds if starts else 0.0),
                device=self.place.torch_device.type,
                weights=states[r],
                optimizer=optimizers[r],
                losses=losses[:, r].clone(),
                curves=curves[r],
                noise=None if noise is None else noise[r],
                best=self.stopping.best.get(r),
            )
            for r in self._running()
        }

    def at_end(self, model: int, result: StageResult) -> ResumePoint:
        """What a longer stage goes on from, where this one has ended."""
        return ResumePoint(
            updates=result.ledger.updates,
            reused=0,
            seconds=result.ledger.seconds,
            device=self.place.torch_device.type,
            weights=result.weights,
            optimizer=self.optimizers[model],
            losses=self.all_losses()[:, model].clone(),
            curves=result.curves,
        )

    def all_losses(self) -> Tensor:
        """The training loss of every update so far and model [n, R]."""
        begun = [torch.stack(self.module.update_losses).cpu()] if self.module.update_losses else []
        return torch.cat([*self.losses, *begun]) if self.losses or begun else torch.empty(0, len(self.nodes))

    def curves(self, model: int) -> Curves:
        """The points of one model that has ended: the regular ones up to its end, and its end; other models' ends are not
        its own."""
        _, updates = self.ends[model]
        points = [p for p in self.points if p[1] and p[0] < updates]
        points.append(next(p for p in self.points if p[0] >= updates))
        points = [(min(step, updates), regular, scores) for step, regular, scores in points]
        return self._curves(points, self.all_losses()[:, model], model)

    def _curves_so_far(self) -> dict[int, Curves]:
        """The regular points of the running models."""
        points, losses = [p for p in self.points if p[1]], self.all_losses()
        return {r: self._curves(points, losses[:, r], r) for r in self._running()}

    def _curves(self, points: Sequence[Point], losses: Tensor, model: int) -> Curves:
        steps = [step for step, _, _ in points]
        values = losses.double().numpy().copy()
        means = [values[a:b].mean() if b > a else np.nan for a, b in zip([0, *steps], steps, strict=False)]
        n_pools, n_classes = len(self.nodes[0].stream.val.pools), points[0][2][0].recall.shape[-1] if points else 1

        def stacked(figures: Callable[[PoolScores], Any], pool: int) -> Any:
            each = [figures(scores[pool])[model] for _, _, scores in points]
            return np.stack(each) if each else np.empty((0, n_classes))

        return Curves(
            steps=np.array(steps, np.int64),
            train_loss=np.array(means),
            recall=tuple(stacked(lambda scores: scores.recall, pool) for pool in range(n_pools)),
            loss=tuple(stacked(lambda scores: scores.loss, pool) for pool in range(n_pools)),
        )


def _together(curves: Sequence[Curves], places: Sequence[int]) -> list[PoolScores]:
    """Scores of every pool at one point of several models."""
    return [
        PoolScores(
            np.stack([own.recall[pool][k] for own, k in zip(curves, places, strict=True)]),
            np.stack([own.loss[pool][k] for own, k in zip(curves, places, strict=True)]),
        )
        for pool in range(len(curves[0].recall))
    ]
