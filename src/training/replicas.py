"""Many models of one architecture in one module, trained side by side without seeing each other.

Two engines: `LoopReplicas`, plain modules one after the other, for any architecture; `StackedReplicas`, stacked parameters,
for small rows of Linear layers (on a GPU any row, convolutions too), where one big step is much cheaper than many small
ones. The engine follows from the model and the kind of device (`src.models.structure.prefers_stacking`), never from the
group's size, so a stage trained in a group is bit for bit the stage trained alone (on a CPU, one thread).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn import functional

from src.errors import ConfigError
from src.models.structure import layers, row_of_layers
from src.regimes.stage import Trainable
from src.training.compiling import CompiledPass, plain

ModelState = dict[str, Tensor]
"""Name -> tensor of one model: its parameters and buffers, as in `nn.Module.state_dict()`."""

SHOWN = 6
"""Layers at either end of a network that an error names: torchvision's have a hundred and more."""


def trainable_names(model: nn.Module, trainable: Trainable, key: str = "regime.freeze") -> set[str]:
    """Names of the parameters that a stage trains, of those that the network itself does not freeze. Raises ConfigError under
    `key` if `trainable` freezes all of them or none."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trainable.kind == "all":
        return names
    if trainable.kind == "pattern":
        chosen = {name for name in names if re.search(trainable.pattern, name)}
    else:
        ordered = [parameters for _, parameters in layers(model)]
        kept = ordered[-trainable.layers :] if trainable.kind == "last" else ordered[trainable.layers :]
        chosen = names.intersection(name for parameters in kept for name in parameters)
    if not chosen or len(chosen) == len(names):
        what = "nothing is left to train" if not chosen else "nothing is frozen"
        given = trainable.pattern if trainable.kind == "pattern" else trainable.layers
        known = [name for name, _ in layers(model)]
        shown = [*known[:SHOWN], "...", *known[-SHOWN:]] if len(known) > 2 * SHOWN else known
        count = f"{len(known)} layer{'s' * (len(known) > 1)}"
        raise ConfigError(key, given, f"{what}; this architecture has {count}: {', '.join(shown)}")
    return chosen


class Replicas(nn.Module):
    """R models of equal shape. `active[r]` is false once model r has stopped; its weights then stay fixed."""

    active: list[bool]
    _active_mask: Tensor | None = None

    @property
    def n(self) -> int:
        """Number of models, R."""
        return len(self.active)

    def active_mask(self, device: torch.device) -> Tensor:
        """`active` as a tensor [R] on the device; copied there once for each model that stops."""
        if self._active_mask is None:
            self._active_mask = torch.tensor(self.active, device=device)
        return self._active_mask

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [R, b, n_outputs] of inputs [R, b, ...]; rows of stopped models are not defined."""
        raise NotImplementedError

    def named_trainable(self) -> Iterator[tuple[str, Tensor, int | None]]:
        """(name, parameter, model) of the trained parameters; model None: stacked over all models."""
        raise NotImplementedError

    def states(self) -> list[ModelState]:
        """A copy of every model's parameters and buffers, on the CPU."""
        raise NotImplementedError

    def stop(self, model: int, state: Mapping[str, Tensor] | None = None) -> None:
        """Freezes one model for good, at `state` (its best weights) or as it is."""
        raise NotImplementedError

    def hold(self) -> None:
        """Restores the weights of stopped models; called after every optimizer step."""


PenaltyTerm = Callable[[Replicas, Tensor, Tensor], Tensor]
"""Maps (replicas, inputs [R, b, ...], outputs [R, b, K]) to an addition to each model's loss [R].

Its gradient is elementwise in the models, so a model has the same bits in a group as alone.
"""


N_STREAMS = 16
"""Models whose kernels may run at the same time; every stream keeps a workspace for matrix products."""


class CudaBranches:
    """A CUDA stream for each model, at most `N_STREAMS`: fork with `branch`, then `join`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._streams = device, _streams(device)
        self._forked: set[torch.cuda.Stream] = set()

    def branch(self, model: int) -> AbstractContextManager[Any]:
        """The context in which the work of one model is launched; autograd launches its backward pass on the same stream."""
        stream = self._streams[model % N_STREAMS]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        self._forked.add(stream)
        return torch.cuda.stream(stream)

    def join(self) -> None:
        """Makes the current stream wait for every branch since the last `join`."""
        current = torch.cuda.current_stream(self._device)
        for stream in self._forked:
            current.wait_stream(stream)
        self._forked.clear()

    def abandon(self) -> None:
        """Joins every branch of a recording that an exception ends, so that its end does not fail for their sake."""
        current = torch.cuda.current_stream(self._device)
        self._forked.clear()
        for stream in self._streams:
            with torch.cuda.stream(stream):
                is_recorded = torch.cuda.is_current_stream_capturing()
            if is_recorded:
                current.wait_stream(stream)


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """The streams of all fits of this process: their workspaces are allocated once."""
    return tuple(torch.cuda.Stream(device) for _ in range(N_STREAMS))  # type: ignore[no-untyped-call]


class LoopReplicas(Replicas):
    """Plain modules, one after the other.

    `layout`: memory format of inputs and weights. `compiled`: chooses how models in training are called; None: as they
    are.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        trainable: set[str],
        layout: torch.memory_format = torch.contiguous_format,
        compiled: CompiledPass | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models).to(memory_format=layout)
        self._layout, self._compiled = layout, compiled
        self.active = [True] * len(models)
        self.noise: list[Tensor] | None = None
        self.branches: CudaBranches | None = None
        """Where models in training run at the same time; None: one after the other."""
        for model in models:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in trainable)
        self.train()

    def train(self, mode: bool = True) -> LoopReplicas:
        """Training mode; frozen normalisation layers keep the statistics that belong to their weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                own = list(module.parameters(recurse=False))
                module.training = mode and (not own or any(parameter.requires_grad for parameter in own))
        return self

    def seed_noise(self, seeds: Sequence[int]) -> None:
        """Seeds a noise generator (dropout) for every model."""
        self.noise = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
                self.noise.append(torch.random.get_rng_state())

    @contextmanager
    def _noise_of(self, model: int, device: torch.device) -> Iterator[None]:
        """Replaces the global generator by the model's own, and keeps its state for the next step."""
        if self.noise is None or not self.training:
            yield
            return
        if device.type == "cuda":  # one CPU generator per model names the CUDA stream of this step
            with torch.random.fork_rng(devices=[device]):
                state = torch.Generator()
                state.set_state(self.noise[model])
                torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=state)))
                self.noise[model] = state.get_state()
                yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(self.noise[model])
            yield
            self.noise[model] = torch.random.get_rng_state()

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor | None] = []
        branches = self.branches if self.training else None
        compiled = self._compiled if self.training else None
        for r, model in enumerate(self.models):
            if self.active[r] or not self.training:
                with self._noise_of(r, x.device), nullcontext() if branches is None else branches.branch(r):
                    inputs = x[r].contiguous(memory_format=self._layout)
                    call = plain if compiled is None else compiled.of(model, inputs)
                    out.append(call(model, inputs))
            else:
                out.append(None)
        if branches is not None:
            branches.join()
        blank = next(o for o in out if o is not None).detach()
        return torch.stack([torch.zeros_like(blank) if o is None else o for o in out])

    def named_trainable(self) -> Iterator[tuple[str, Tensor, int | None]]:
        for r, model in enumerate(self.models):
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    yield name, parameter, r

    def states(self) -> list[ModelState]:
        plain = torch.contiguous_format  # as loaded from the store, so that sums over weights have the same order
        return [
            {name: t.detach().cpu().clone(memory_format=plain) for name, t in m.state_dict().items()}
            for m in self.models
        ]

    def stop(self, model: int, state: Mapping[str, Tensor] | None = None) -> None:
        # optimizers skip parameters without a gradient: no momentum, no decay, no drift
        self.active[model], self._active_mask = False, None
        if state is not None:
            self.models[model].load_state_dict(dict(state))
        for parameter in self.models[model].parameters():
            parameter.grad = None


class StackedReplicas(Replicas):
    """Stacked parameters [R, ...] of a row of layers: one batched product, or one convolution of R groups, does a layer of
    all models.

    The products are explicit since `torch.func.vmap` gives the same values at several times the cost per step. A model's
    bits do not depend on the number of models or its position among them if there are at least two; a single model gets a
    dummy, because a product of one matrix takes another code path.
    """

    def __init__(self, models: Sequence[nn.Module], trainable: set[str]) -> None:
        super().__init__()
        self.active = [True] * len(models)
        self.n_dummies = 1 if len(models) == 1 else 0
        stacked, buffers = stack_module_state([*models, *[models[-1]] * self.n_dummies])
        assert not buffers, "a stack of Linear layers has no buffers"
        self.names = list(stacked)
        tensors = ((stacked[name].detach().clone(), name in trainable) for name in self.names)
        self.stacked = nn.ParameterList(nn.Parameter(tensor, is_trained) for tensor, is_trained in tensors)
        self._layers = row_of_layers(models[0])
        self._stopped: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        stacked = dict(zip(self.names, self.stacked, strict=True))
        if self.n_dummies:
            x = x.expand(2, *x.shape[1:])
        for prefix, layer in self._layers:
            if isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            elif isinstance(layer, nn.Conv2d):
                x = _convolved(x, layer, stacked[f"{prefix}weight"], stacked.get(f"{prefix}bias"))
            else:
                weight, bias = stacked[f"{prefix}weight"].transpose(1, 2), stacked.get(f"{prefix}bias")
                x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        return x[: self.n]

    def named_trainable(self) -> Iterator[tuple[str, Tensor, int | None]]:
        for name, parameter in zip(self.names, self.stacked, strict=True):
            if parameter.requires_grad:
                yield name, parameter, None

    def states(self) -> list[ModelState]:
        whole = [parameter.detach().cpu() for parameter in self.stacked]
        return [{name: t[r].clone() for name, t in zip(self.names, whole, strict=True)} for r in range(self.n)]

    def stop(self, model: int, state: Mapping[str, Tensor] | None = None) -> None:
        self.active[model], self._active_mask = False, None
        with torch.no_grad():
            for name, parameter in zip(self.names, self.stacked, strict=True):
                if state is not None:
                    parameter[model] = state[name].to(parameter)
            self._stopped = [parameter.detach().clone() for parameter in self.stacked]

    def hold(self) -> None:
        # the loss of a stopped model is masked, yet momentum and decay would still change its weights
        if self._stopped:
            stopped = ~self.active_mask(self.stacked[0].device)
            if self.n_dummies:
                stopped = functional.pad(stopped, (0, self.n_dummies))
            with torch.no_grad():
                for parameter, tensor in zip(self.stacked, self._stopped, strict=True):
                    mask = stopped.view(-1, *[1] * (parameter.ndim - 1))
                    parameter.copy_(torch.where(mask, tensor, parameter))


def _convolved(x: Tensor, layer: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`layer` of every model on its own inputs [R, b, C, H, W]: the models side by side as channels, each a group."""
    channels, kernels = x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1)
    flat_bias = None if bias is None else bias.flatten()
    out = functional.conv2d(channels, kernels, flat_bias, layer.stride, layer.padding, layer.dilation, groups=len(x))
    return out.view(out.shape[0], len(x), layer.out_channels, *out.shape[2:]).transpose(0, 1)
