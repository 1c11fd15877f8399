"""The one LightningModule: every architecture, regime and stopping rule trains through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from src.config import Config
from src.evaluation.heads import has_only
from src.training.devices import products_in
from src.training.feed import Batch, Feed, IndexChunk, whole_epoch
from src.training.losses import SampleLosses, losses_of
from src.training.plan import Node
from src.training.replicas import ModelState, PenaltyTerm, Replicas
from src.training.result import Captured
from src.training.scoring import EVALUATION_BATCH


class GroupModule(pl.LightningModule):
    """R models trained side by side: the loss is per sample, then its mean per model, then the sum over models.

    `node`: any stage of the group. `n_done`: updates made so far. `update_losses`: the loss [R] of every update since the
    list was last emptied. With several ranks or a loss scale, backward passes and steps go through Lightning.
    """

    def __init__(
        self,
        replicas: Replicas,
        config: Config,
        node: Node,
        world: int,
        n_done: int,
        penalty: PenaltyTerm | None,
        losses: SampleLosses | None,
        optimizer_states: Sequence[Mapping[str, Tensor]] | None,
        observer: Callable[[Replicas], None] | None,
        *,
        is_capturable: bool,
    ) -> None:
        super().__init__()
        self.is_capturable = is_capturable
        self.train_graphed: Callable[[IndexChunk], None] | None = None
        """Set before the fit where updates run as a graph: makes all updates of the index chunks that `training_step` then
        receives."""
        self.eager_reason: str | None = None
        """Why all updates so far were eager on a device that has graphs."""
        self.replicas, self.optimizer_config = replicas, node.optimizer
        self.losses = losses or losses_of(config, node)
        self.lr, self.span = node.optimizer.lr * node.stage.lr_factor, node.span
        self.penalty, self.optimizer_states, self.observer = penalty, optimizer_states, observer
        self.world, self.n_done, self.classes = world, n_done, node.outputs
        self.automatic_optimization = False
        self.precision = config.trainer.precision
        self.through_lightning = world > 1 or self.precision == "16-mixed"
        self.update_losses: list[Tensor] = []
        self.hits: Tensor | None = torch.zeros(replicas.n, dtype=torch.int64) if config.online else None
        """Draws that each model classified correctly before their update."""

    @property
    def capture(self) -> tuple[Captured, str]:
        """How updates ran, and why not as a graph; empty on a device without graphs."""
        if self.eager_reason is not None:
            return "eager", self.eager_reason
        return ("", "") if self.train_graphed is None else ("graph", "")

    def training_step(self, chunk: Sequence[Batch] | IndexChunk, batch_idx: int) -> None:
        """One update for each batch of the chunk, so that Lightning's overhead comes once per chunk."""
        with products_in(self.precision):
            if isinstance(chunk, IndexChunk):
                assert self.train_graphed is not None
                self.train_graphed(chunk)
                return
            for batch in chunk:
                self.update(batch)

    def update(self, batch: Batch) -> None:
        """One update, with everything that is recorded of it."""
        x, y, n_global = batch
        if self.observer is not None:
            self.observer(self.replicas)
        self._set_rate(self.rate(self.n_done))
        losses, outputs = self.descend(x, y, n_global)
        self.update_losses.append(losses)
        if self.hits is not None:
            hits = (has_only(outputs, self.classes).argmax(-1) == y).sum(1).cpu()
            self.hits += hits * torch.tensor(self.replicas.active)
        self.n_done += 1

    def rate(self, update: int) -> float:
        """The learning rate of an update of the stage, counted from 0."""
        before, n_updates = self.span
        return self.lr * self.optimizer_config.rate(before + update, n_updates)

    def _set_rate(self, rate: float) -> None:
        if self.is_capturable:
            self.capturable_rate.fill_(rate)
        elif not self.optimizer_config.is_constant:
            for group in self._optimizer().param_groups:
                group["lr"] = rate

    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer without Lightning's wrapper."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _optimizer(self) -> torch.optim.Optimizer | LightningOptimizer:
        optimizer = self.optimizers(use_pl_optimizer=self.through_lightning)
        assert isinstance(optimizer, torch.optim.Optimizer | LightningOptimizer)
        return optimizer

    def descend(self, x: Tensor, y: Tensor, n_global: int) -> tuple[Tensor, Tensor]:
        """Descends on the sum over models of the mean loss over the global batch; then stopped models are put back.

        Nothing here reads a value from the device, so that a CUDA graph can record it.

        Returns:
            Each model's loss without penalty [R], and the outputs [R, b, K] before the update.
        """
        outputs = self.replicas(x)
        # the mean over the global batch: ranks hold parts of it, and their gradients are averaged over the world
        mean_losses = losses = self.losses(outputs, y).sum(1) * (self.world / n_global)
        if self.penalty is not None:
            # a mean over the rows of this rank
            losses = losses + self.penalty(self.replicas, x, outputs) * (x.shape[1] * self.world / n_global)
        if not all(self.replicas.active):
            losses = torch.where(self.replicas.active_mask(losses.device), losses, torch.zeros_like(losses))
        optimizer = self._optimizer()
        optimizer.zero_grad()
        if self.through_lightning:
            self.manual_backward(losses.sum())
        else:
            losses.sum().backward()  # type: ignore[no-untyped-call]
        if self.optimizer_config.clip is not None:
            self._clip(self.optimizer_config.clip)
        optimizer.step()
        self.replicas.hold()
        return mean_losses.detach(), outputs.detach()

    def _clip(self, largest: float) -> None:
        """Scales down the gradient of each model whose norm is above `largest`; no model sees another's."""

        def each(gradient: Tensor, model: int | None) -> list[tuple[int, Tensor]]:
            """(model, its own gradient); without a dummy's."""
            return [(model, gradient)] if model is not None else list(enumerate(gradient[: self.replicas.n]))

        squares: list[Tensor | float] = [0.0] * self.replicas.n
        gradients = [(p.grad, model) for _, p, model in self.replicas.named_trainable() if p.grad is not None]
        for gradient, model in gradients:
            for r, own in each(gradient, model):
                squares[r] = squares[r] + own.square().sum()
        factors = [(largest / (torch.as_tensor(square).sqrt() + 1e-6)).clamp(max=1.0) for square in squares]
        for gradient, model in gradients:
            for r, own in each(gradient, model):
                own.mul_(factors[r])

    def training_values(self, feed: Feed, quantity: str) -> list[float]:
        """Every model's mean loss over its own training data, penalty included, the norm of its gradient, or its accuracy."""
        replicas, was_training = self.replicas, self.replicas.training
        replicas.eval()
        parameters = [(p, model) for _, p, model in replicas.named_trainable()] if quantity == "gradient" else []
        gradients = [torch.zeros_like(p) for p, _ in parameters]
        total: Tensor | float = 0.0
        with torch.set_grad_enabled(bool(parameters)):
            for x, y, _ in whole_epoch(feed, EVALUATION_BATCH):
                outputs = replicas(x)
                if quantity == "accuracy":
                    total = total + (has_only(outputs, self.classes).argmax(-1) == y).double().sum(1)
                    continue
                losses = self.losses(outputs, y).sum(1)
                if self.penalty is not None:
                    losses = losses + self.penalty(replicas, x, outputs) * x.shape[1]
                parts = torch.autograd.grad(losses.sum(), [p for p, _ in parameters]) if parameters else ()
                gradients = [whole + part for whole, part in zip(gradients, parts, strict=True)]
                total = total + losses.detach().double()
        replicas.train(was_training)
        assert isinstance(total, Tensor)
        n = feed.length.n_draws
        if quantity != "gradient":
            return [float(value) / n for value in total]
        squared = torch.zeros(replicas.n, dtype=torch.float64)
        for (_, model), gradient in zip(parameters, gradients, strict=True):
            square = (gradient.double() / n).square().cpu()
            if model is None:
                squared += square[: replicas.n].flatten(1).sum(1)
            else:
                squared[model] += square.sum()
        return [float(value) for value in squared.sqrt()]

    def configure_optimizers(self) -> Any:
        """One optimizer over all models; every operation of it is elementwise, so models do not see each other."""
        config = self.optimizer_config
        named = list(self.replicas.named_trainable())
        parameters = [parameter for _, parameter, _ in named]
        on_gpu = self.device.type == "cuda"
        if self.is_capturable:
            # torch's steps on a CPU compute with double precision, a fused one on a GPU reads a float
            dtype = torch.float32 if on_gpu else torch.float64
            self.capturable_rate = torch.tensor(self.lr, dtype=dtype, device=self.device)
            optimizer = config.build_capturable(parameters, lr=self.capturable_rate)
        else:
            optimizer = config.build(parameters, lr=self.lr, foreach=on_gpu)
        if self.optimizer_states is not None:
            for name, parameter, model in named:
                optimizer.state[parameter] = self._restored(name, parameter, model)
        return optimizer

    def _restored(self, name: str, parameter: Tensor, model: int | None) -> ModelState:
        """The optimizer state of one parameter, from the states of the models that share it."""
        states = self.optimizer_states
        assert states is not None
        restored: ModelState = {}
        for key in [key.split("/", 1)[0] for key in states[0] if key.split("/", 1)[1] == name]:
            values = [state[f"{key}/{name}"] for state in states]
            if model is not None:
                value = values[model].clone()
            elif key == "step":
                value = values[0].clone()  # a step count, the same for all
            else:  # a dummy, where there is one, has the last model's state
                value = torch.stack(values + [values[-1]] * (len(parameter) - len(values)))
            if key == "step":  # torch keeps step counts on the CPU, unless a graph counts
                restored[key] = value.to(parameter.device) if self.is_capturable else value
            else:
                value = value.to(parameter.device)
                # a fused optimizer takes state in the memory format of its parameter alone
                restored[key] = torch.empty_like(parameter).copy_(value) if self.is_capturable else value
        return restored

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> list[ModelState]:
        """The optimizer's state as one mapping ``key/name`` -> tensor per model, on the CPU."""
        states: list[ModelState] = [{} for _ in range(self.replicas.n)]
        for name, parameter, model in self.replicas.named_trainable():
            for key, value in optimizer.state[parameter].items():
                value = torch.as_tensor(value).detach().cpu()
                for r, state in enumerate(states):
                    if model in (None, r):
                        own = value if model is not None or key == "step" else value[r]
                        state[f"{key}/{name}"] = own.clone()
        return states
