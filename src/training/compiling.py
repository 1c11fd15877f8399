"""`trainer.compile`: the pass of a network in training through torch.compile, and when that is refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.config import Config
from src.data.split import StreamFactory
from src.errors import ConfigError
from src.evaluation.flops import training_flops
from src.models.build import build_meta_model
from src.models.structure import layers
from src.training.plan import make_plan

COMPILE_SECONDS = 7.0, 0.7
"""Time of compiling a network, and each of its layers with parameters."""
SAVED_SHARE, FLOPS_PER_SECOND = 0.2, 3e10
"""The share of an update's time that compiled code saves at best, and the rate of plain updates.

All four were measured on a CPU (docs/PERFORMANCE.md). A GPU compiles as long, and its updates have less to save.
"""

Call = Callable[[nn.Module, Tensor], Tensor]


def check_pays(cells: Sequence[tuple[Config, StreamFactory]]) -> None:
    """Raises ConfigError if the updates of new cells save less time than compiling takes, by the constants above.

    For a command that is about to train them: a cell whose training has begun is never refused, wherever it is read or
    extended. The updates of all `cells` count, those of tuning too, because equal networks share the compiled code.
    """
    compiling, saved, n_updates = 0.0, 0.0, 0
    for config, streams in cells:
        if not config.trainer.compile:
            continue
        stream = streams.build(config.seeds[0])  # all seeds have the same sizes
        plan = make_plan(config, {stream.seed: stream}, [(regime, stream.seed) for regime in config.regimes])
        lengths, n_runs = [node.length for node in plan.nodes.values()], len(config.seeds) + config.tune.n_runs
        n_updates += n_runs * sum(length.updates for length in lengths)
        shape, n_outputs = streams.source.bank.input_shape, streams.n_outputs
        flops = training_flops(config.arch, shape, n_outputs) * n_runs * sum(length.samples for length in lengths)
        saved += SAVED_SHARE * flops / FLOPS_PER_SECOND
        start, each = COMPILE_SECONDS
        compiling = max(compiling, start + each * len(layers(build_meta_model(config.arch, shape, n_outputs))))
    if saved < compiling:
        takes = f"compiling takes about {compiling:.2g} s, and the {n_updates} updates of this command would save"
        source = f"{saved:.2g} s (estimates from times on a CPU, docs/PERFORMANCE.md)"
        raise ConfigError("trainer.compile", True, f"{takes} {source}; set it to false, or train longer")


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The pass of a model as it is."""
    return model(x)  # type: ignore[no-any-return]


@functools.cache
def _compiled() -> Call:
    # one function for all models, so that equal ones share its code; never code for sizes that vary, whose bits would
    # depend on the sizes that this process met before; never a part that is not compiled; dropout leaves out what it
    # would in plain code
    return torch.compile(plain, dynamic=False, fullgraph=True, options={"fallback_random": True})


class CompiledPass:
    """Chooses the pass of models in training: compiled for batches of `batch_size`, plain for the rest of an epoch."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._is_tried = batch_size, False

    def of(self, model: nn.Module, x: Tensor) -> Call:
        """The pass of a batch [b, ...] through `model` or another one of its group. Raises ConfigError if the network
        cannot be compiled, before the first update."""
        if len(x) != self._batch_size:
            return plain
        if not self._is_tried:
            _try(model, x)
            self._is_tried = True
        return _compiled()


def _try(model: nn.Module, x: Tensor) -> None:
    """Compiles both directions on a copy, so that nothing is left of it but the code."""
    limit: Any = torch._dynamo.exc.FailOnRecompileLimitHit

    def both_directions(tried: nn.Module) -> None:
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            trained = [parameter for parameter in tried.parameters() if parameter.requires_grad]
            torch.autograd.grad(_compiled()(tried, x).sum(), trained, allow_unused=True)

    tried = copy.deepcopy(model)
    try:
        try:
            both_directions(tried)
        except limit:  # torch keeps the code of eight kinds of network
            torch.compiler.reset()
            both_directions(tried)
        with torch.compiler.set_stance("fail_on_recompile"):  # a network that counts its calls, for example
            both_directions(tried)
    except RuntimeError as error:  # torch's own errors; a full disk, for example, is none of the network's
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split("\n\n")[0].split())[:300]
        problem = f"torch cannot compile this network ({cause}); set it to false"
        raise ConfigError("trainer.compile", True, problem) from error
