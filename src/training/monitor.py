"""The callback of a fit: curves, stopping, freezing of stopped models, results and resume points."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from src.evaluation.metrics import is_bounded
from src.models.structure import has_dropout
from src.seeds import derive
from src.stopping.rule import GroupStopping, StoppingVerdict
from src.training.devices import Device, fingerprint
from src.training.graph.choice import capture_in_all
from src.training.module import GroupModule
from src.training.plan import Node
from src.training.replicas import LoopReplicas, ModelState
from src.training.result import Curves, Ledger, ResumePoint, StageResult
from src.training.scoring import PoolScores

CurvePoint = tuple[int, bool, PoolScores]
"""(updates, whether it is a regular point of every stage rather than the end of one model, scores)."""


@dataclass(frozen=True)
class GroupControl:
    """Interrupts the training of a group. An exception of `on_stage` or `on_curves` ends the fit after a `save`."""

    seconds: float
    """Time between two saves."""
    on_stage: Callable[[], None]
    """Called often."""
    on_curves: Callable[[Callable[[], Mapping[int, Curves]]], None]
    """Called at every regular point of the curves, and on resuming, with the curves of the models in training."""
    save: Callable[[Sequence[ResumePoint | StageResult]], None]
    """Saves every model: a resume point, or the result of a model that has stopped."""


@dataclass(repr=False, kw_only=True)  # Lightning prints callbacks, and the default would print every tensor
class StageMonitor(pl.Callback):
    """Records the curves, applies the stopping rule after every epoch, and makes results and resume points."""

    module: GroupModule
    nodes: Sequence[Node]
    device: Device
    stopping: GroupStopping
    score: Callable[[], PoolScores]
    curve_points: int
    started: float
    """Start of the fit by `time.perf_counter`."""
    starts: Sequence[ResumePoint] | None
    control: GroupControl | None
    keep_optimizer: bool
    keep_resume_point: bool
    ends: dict[int, tuple[StoppingVerdict, int]] = field(default_factory=dict)
    """Model -> its verdict and its number of updates."""
    optimizers: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """Model -> optimizer state at its end: in a stack, momentum and step count change after it."""
    epoch: int = 0
    points: list[CurvePoint] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    """The training losses of every epoch: of every update and model [n, R]."""
    saved_at: float = field(default_factory=time.monotonic)

    def resume(self, starts: Sequence[ResumePoint]) -> None:
        """Restores curves, losses, generators and best weights from resume points after equally many updates."""
        length = self.nodes[0].length
        self.epoch, n_begun = divmod(starts[0].updates, length.updates_per_epoch)
        losses = torch.stack([start.losses for start in starts], 1)
        n_whole = len(losses) - n_begun
        self.losses = [losses[:n_whole]] if n_whole else []
        self.module.update_losses = list(losses[n_whole:].to(self.device.torch_device))
        for step in length.regular_points(self.curve_points, starts[0].updates):
            curves = [(start.curves, int(np.flatnonzero(start.curves.steps == step)[0])) for start in starts]
            scores = np.stack([np.array([own.recall, own.loss])[:, :, k] for own, k in curves], axis=2)
            self.points.append((step, True, scores))
        self.stopping.best |= {model: start.best for model, start in enumerate(starts) if start.best is not None}
        noises = [start.noise for start in starts if start.noise is not None]
        if noises:
            assert isinstance(self.module.replicas, LoopReplicas)
            self.module.replicas.noise = noises
        if self.control is not None and self.points:
            self.control.on_curves(self._curves_so_far)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seeds every model's own dropout generator by seed, data and epoch."""
        replicas = self.module.replicas
        if isinstance(replicas, LoopReplicas) and has_dropout(replicas.models[0]) and not self._is_inside_epoch:
            rank = [trainer.global_rank] if self.module.world > 1 else []  # ranks see different rows
            seeds = [derive(node.seed, "noise", node.data.digest, self.epoch, *rank) for node in self.nodes]
            replicas.seed_noise(seeds)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Allows an interruption inside an epoch, unless ranks share the group."""
        if self.module.world == 1 and self._is_inside_epoch and self.module.n_done < self.nodes[0].length.updates:
            self._allow_interruption()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends models that diverged or that the rule stops; adds a point to the curves."""
        self.epoch += 1
        losses = self._epoch_losses()
        begun, infinite = self.module.n_done - len(losses), torch.nonzero(~torch.isfinite(losses)).tolist()
        first = {model: begun + update + 1 for update, model in reversed(infinite)}
        ending = {model: (StoppingVerdict("diverged"), first[model]) for model in self._running() if model in first}
        running = [model for model in self._running() if model not in ending]
        for model, verdict in self.stopping.after_epoch(self.epoch, running).items():
            ending[model] = verdict, self.module.n_done
        if self.module.n_done >= self.nodes[0].length.updates:
            for model in running:
                ending.setdefault(model, (self.stopping.at_full_length(model), self.module.n_done))
        self._end(ending)
        trainer.should_stop = not self._running()
        regular = self.epoch % self.nodes[0].length.curve_every(self.curve_points) == 0
        if regular or ending:
            self.points.append((self.module.n_done, regular, self.score()))
        if self._running():
            self._allow_interruption(regular)

    @property
    def _is_inside_epoch(self) -> bool:
        return bool(self.module.n_done % self.nodes[0].length.updates_per_epoch)

    def _epoch_losses(self) -> Tensor:
        """Takes the losses of the epoch's updates [n, R], summed over the ranks."""
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
        keep = ending and (self.keep_optimizer or self.keep_resume_point)
        states = self._optimizer_states() if keep else None
        self.ends |= ending
        for model, (verdict, _) in ending.items():
            if states is not None:
                self.optimizers[model] = states[model]
            self.module.replicas.stop(model, self.stopping.restored(model, verdict))

    def _optimizer_states(self) -> list[ModelState]:
        return self.module.optimizer_state(self.module.plain_optimizer())

    # ------------------------------------------------------------------------------------------------ interruption

    def _allow_interruption(self, at_regular_point: bool = False) -> None:
        """Saves the group when that is due or when the control interrupts it."""
        if self.control is None:
            return
        try:
            self.control.on_stage()
            if at_regular_point:
                self.control.on_curves(self._curves_so_far)
        except BaseException:
            self._save(self.control)
            raise
        if time.monotonic() - self.saved_at >= self.control.seconds:
            self._save(self.control)

    def _save(self, control: GroupControl) -> None:
        optimizers, states = self._optimizer_states(), self.module.replicas.states()
        control.save(
            [
                self.result(r, state)
                if r in self.ends
                else self._resume_point(r, self.module.n_done, state, optimizers[r])
                for r, state in enumerate(states)
            ]
        )
        self.saved_at = time.monotonic()

    def _provenance(self, model: int) -> dict[str, Any]:
        """What a ledger and a resume point record of how the model was trained so far, before a resume included.

        The time is its share of the fit's.
        """
        before = self.starts[model] if self.starts else None
        here = (time.perf_counter() - self.started) / len(self.nodes)
        capture, capture_reason = capture_in_all(before, self.module.capture)
        return {
            "seconds": here + (before.seconds if before else 0.0),
            "device": self.device.torch_device.type,
            "machines": tuple(dict.fromkeys([*(before.machines if before else ()), fingerprint(self.device)])),
            "capture": capture,
            "capture_reason": capture_reason,
        }

    def _resume_point(self, r: int, updates: int, state: ModelState, optimizer: Mapping[str, Tensor]) -> ResumePoint:
        """The resume point of model `r` after `updates` updates."""
        replicas = self.module.replicas
        noise = replicas.noise if isinstance(replicas, LoopReplicas) and self._is_inside_epoch else None
        return ResumePoint(
            updates=updates,
            reused=self.starts[r].reused if self.starts else 0,
            weights=state,
            optimizer=optimizer,
            losses=self._all_losses()[:, r].clone(),
            curves=self._curves(r),
            noise=None if noise is None else noise[r],
            best=self.stopping.best.get(r),
            **self._provenance(r),
        )

    # ------------------------------------------------------------------------------------------------ results

    def result(self, r: int, state: ModelState) -> StageResult:
        """The result of model `r`, which has stopped with the weights `state`."""
        verdict, updates = self.ends[r]
        provenance, curves, length = self._provenance(r), self._curves(r), self.nodes[r].length
        bounded = all(bool(is_bounded(tensor).all()) for tensor in state.values())
        if not bounded or any(np.isinf(loss[-1]).any() for loss in curves.loss):  # caused by the last update
            verdict = StoppingVerdict("diverged")
        whole, rest = divmod(updates, length.updates_per_epoch)
        samples = length.samples if updates == length.updates else whole * length.n_draws + rest * length.batch_size
        hits = self.module.hits
        ledger = Ledger(
            updates=updates,
            samples=samples,
            online=float(hits[r]) / samples if hits is not None and samples else None,
            epochs=-(-updates // length.updates_per_epoch),
            stopped_by=verdict.stopped_by,
            converged=verdict.converged,
            best_epoch=verdict.best_epoch,
            group=len(self.nodes),
            engine="loop" if isinstance(self.module.replicas, LoopReplicas) else "vmap",
            **provenance,
        )
        has_point = self.keep_resume_point and verdict.stopped_by == "length"
        point = self._resume_point(r, updates, state, self.optimizers[r]) if has_point else None
        optimizer = self.optimizers[r] if self.keep_optimizer and updates else None
        return StageResult(state, optimizer, curves, ledger, point)

    def _all_losses(self) -> Tensor:
        """The training loss of every update so far and model [n, R]."""
        begun = [torch.stack(self.module.update_losses).cpu()] if self.module.update_losses else []
        if len(self.losses) > 1:
            self.losses = [torch.cat(self.losses)]
        return torch.cat([*self.losses, *begun]) if self.losses or begun else torch.empty(0, len(self.nodes))

    def _curves_so_far(self) -> dict[int, Curves]:
        """The curves of the running models."""
        return {model: self._curves(model) for model in self._running()}

    def _curves(self, model: int) -> Curves:
        """The regular points of a model; of a stopped one those before its end, and its end."""
        points = [(step, scores) for step, regular, scores in self.points if regular]
        if model in self.ends:
            updates = self.ends[model][1]
            end = next(scores for step, _, scores in self.points if step >= updates)
            points = [*(point for point in points if point[0] < updates), (updates, end)]
        steps, losses = [step for step, _ in points], self._all_losses()[:, model].double().numpy().copy()
        means = [losses[a:b].mean() if b > a else np.nan for a, b in itertools.pairwise([0, *steps])]
        n_pools = len(self.nodes[0].stream.val.pools)
        scores = np.array([scores[:, :, model] for _, scores in points]) if points else np.empty((0, 2, n_pools, 1))
        recall, loss = ([np.ascontiguousarray(scores[:, k, pool]) for pool in range(n_pools)] for k in (0, 1))
        return Curves(np.array(steps, np.int64), np.array(means), tuple(recall), tuple(loss))
