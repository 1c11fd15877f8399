"""The one LightningModule: every architecture, regime and stopping rule trains through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from src.evaluation.metrics import Loss, sample_losses
from src.optimizers import OptimizerConfig
from src.training.feed import Batch
from src.training.replicas import Replicas, VmapReplicas


class GroupModule(pl.LightningModule):
    """R models trained side by side: the loss is per sample, then its mean per model, then the sum over models.

    `penalty` maps (replicas, inputs [R, b, ...], outputs [R, b, K]) to an addition to each model's loss [R].
    `optimizer_states`: state to go on with, one mapping ``key/name`` -> tensor per model. `scaled`: the precision scales
    the loss. Then, and with several ranks, backward passes and steps go through Lightning; else it has nothing to add.
    `n_done`: updates made, by an earlier fit or here; `update_losses`: of each since somebody last took them, the loss of every model [R].
    """

    def __init__(
        self,
        replicas: Replicas,
        *,
        loss: Loss,
        optimizer: OptimizerConfig,
        lr: float,
        n_updates: int,
        penalty: Callable[[Replicas, Tensor, Tensor], Tensor] | None = None,
        optimizer_states: Sequence[Mapping[str, Tensor]] | None = None,
        world: int = 1,
        scaled: bool = False,
        n_done: int = 0,
    ) -> None:
        super().__init__()
        self.replicas = replicas
        self.loss, self.config, self.lr, self.n_updates = loss, optimizer, lr, n_updates
        self.penalty, self.optimizer_states, self.world = penalty, optimizer_states, world
        self.automatic_optimization = False
        self.through_lightning = world > 1 or scaled
        self.update_losses: list[Tensor] = []
        self.n_done = n_done

    def training_step(self, chunk: Sequence[Batch], batch_idx: int) -> None:
        """One update for each batch of the chunk: Lightning's own work is done once a chunk instead of once an update."""
        del batch_idx
        for batch in chunk:
            self._update(batch)

    def _update(self, batch: Batch) -> None:
        """Descends on the sum over models of the mean loss over the global batch; then stopped models are put back."""
        x, y, n_global = batch
        outputs = self.replicas(x)
        # the mean over the global batch: ranks hold parts of it, and their gradients are averaged over the world
        losses = sample_losses(outputs, y, self.loss).sum(1) * (self.world / n_global)
        self.update_losses.append(losses.detach())
        if self.penalty is not None:
            # a mean over the rows at hand, which are all of the batch unless ranks share it
            losses = losses + self.penalty(self.replicas, x, outputs) * (x.shape[1] * self.world / n_global)
        if not all(self.replicas.active):
            losses = torch.where(torch.tensor(self.replicas.active, device=losses.device), losses, 0.0)
        optimizer = self.optimizers(use_pl_optimizer=self.through_lightning)
        assert isinstance(optimizer, torch.optim.Optimizer | LightningOptimizer)
        optimizer.zero_grad()
        if self.through_lightning:
            self.manual_backward(losses.sum())
        else:
            losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule = self.lr_schedulers()
        if schedule is not None:
            schedule.step()  # type: ignore[union-attr]
        self.n_done += 1
        self.replicas.hold()

    def configure_optimizers(self) -> Any:
        """One optimizer over all models; every operation of it is elementwise, so models do not see each other."""
        config = self.config
        named = list(self.replicas.named_trainable())
        parameters = [parameter for _, parameter, _ in named]
        optimizer = config.build(parameters, lr=self.lr, foreach=self.device.type == "cuda")
        if self.optimizer_states is not None:
            for name, parameter, model in named:
                optimizer.state[parameter] = self._restored(name, parameter, model)
        if config.schedule == "constant":
            return optimizer
        for group in optimizer.param_groups:
            group["initial_lr"] = self.lr  # asked for by a schedule that does not begin at its beginning
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: 0.5 * (1 + math.cos(math.pi * min(step / max(self.n_updates, 1), 1.0))),
            last_epoch=self.n_done - 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def _restored(self, name: str, parameter: Tensor, model: int | None) -> dict[str, Tensor]:
        """Optimizer state of one parameter from the states of the models that share it."""
        assert self.optimizer_states is not None
        keys = [key.split("/", 1)[0] for key in self.optimizer_states[0] if key.split("/", 1)[1] == name]
        if model is not None:
            mine = self.optimizer_states[model]
            return {key: _placed(key, mine[f"{key}/{name}"].clone(), parameter) for key in keys}
        restored = {}
        for key in keys:
            each = [state[f"{key}/{name}"] for state in self.optimizer_states]
            if key == "step":
                restored[key] = each[0].clone()  # a step count, the same for all
            else:
                each += [each[-1]] * (len(parameter) - len(each))  # a dummy, where there is one
                restored[key] = _placed(key, torch.stack(each), parameter)
        return restored

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
        """The optimizer's state as one mapping ``key/name`` -> tensor per model, on the CPU."""
        states: list[dict[str, Tensor]] = [{} for _ in range(self.replicas.n)]
        for name, parameter, model in self.replicas.named_trainable():
            for key, value in optimizer.state[parameter].items():
                value = torch.as_tensor(value).detach().cpu()
                if model is not None:
                    states[model][f"{key}/{name}"] = value.clone()
                    continue
                assert isinstance(self.replicas, VmapReplicas)
                for r, state in enumerate(states):
                    state[f"{key}/{name}"] = value.clone() if key == "step" else value[r].clone()
        return states


def _placed(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    """A piece of optimizer state where torch wants it: beside its parameter, but a count of steps on the CPU."""
    return value if key == "step" else value.to(parameter.device)
