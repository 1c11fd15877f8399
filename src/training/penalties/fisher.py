"""Fisher information of a network on the data of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from src.data.batches import MixtureData
from src.evaluation.heads import within
from src.evaluation.metrics import Loss
from src.models.structure import is_row_of_linears, n_parameters, row_of_layers
from src.seeds import generator
from src.stopping.length import Length
from src.training.devices import Device
from src.training.feed import make_feed
from src.training.replicas import ModelState

EXACT_UP_TO = 16
"""Outputs up to which the expectation over labels is exact; with more, one label is drawn for each sample."""
GRADIENTS_AT_ONCE = 2**24
"""Numbers in the per-sample gradients that are in memory together."""


def n_vectors(n_outputs: int) -> int:
    """Number of vectors s_c of each sample."""
    return n_outputs if n_outputs <= EXACT_UP_TO else 1


@dataclass(frozen=True, eq=False)
class FisherInput:
    """A network in evaluation mode and the data on which its Fisher information is taken."""

    model: nn.Module
    data: MixtureData
    n_outputs: int
    loss: Loss
    device: Device
    resident_mib: int = 1024
    classes: Sequence[int] | None = None
    """The classes that its head has; None: all."""

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_()

    def batches(self, n_numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples [b, ...] with their vectors s_c [b, C, K]; `n_numbers`: in memory for each vector."""
        data = self.data
        assert data.n_draws == data.n_samples, "a stage with a Fisher information draws every sample once an epoch"
        rng = generator(data.seed, "noise", "fisher", data.digest)
        rows = max(1, min(data.n_samples, GRADIENTS_AT_ONCE // (n_numbers * min(self.n_outputs, EXACT_UP_TO))))
        length = Length.of_epochs(data.n_draws, rows, 1)
        for x, _, _ in make_feed([data], length, replace(self.device, rank=0, world=1), self.resident_mib):
            with torch.no_grad():
                uniform = torch.from_numpy(rng.random((x.shape[1], self.n_outputs))).to(x.device)
                outputs = self.model(x[0]) if self.classes is None else within(self.model(x[0]), self.classes)
                vectors = _output_vectors(outputs, uniform, self.loss)
            yield x[0], vectors


def fisher_sum(given: FisherInput) -> ModelState:
    """Diagonal of the Fisher information, summed over the samples, by parameter.

    The true Fisher: labels follow the model, not the data. With J the Jacobian of one sample's outputs it is sum_c
    (J's_c)^2 elementwise, s_c the columns of a root of the loss's Hessian in the outputs: sqrt(p_c) (e_c - p) for cross
    entropy, sqrt(2/K) e_c for the mean squared error (the negative log-likelihood of variance K/2). Above `EXACT_UP_TO`
    outputs one random vector with the same second moments takes their place: e_y - p with y drawn from p, or random
    signs times sqrt(2/K).
    """
    model = given.model
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    squares = _fastest_squares(model, given.device)
    n_numbers = n_parameters(model) if squares is not _squares_of_row else max(p.shape[0] for p in model.parameters())
    for x, vectors in given.batches(n_numbers):
        for name, square in squares(model, x, vectors).items():
            total[name] += square
    return {name: tensor.to(given.device.dtype).cpu() for name, tensor in total.items()}


def fisher_matrix(given: FisherInput) -> Tensor:
    """The whole Fisher information [P, P], summed over the samples, with the parameters in the model's order.

    `fisher_sum` is its diagonal.
    """
    total: Tensor | float = 0.0
    for x, vectors in given.batches(n_parameters(given.model)):
        gradients = _gradients(given.model, x, vectors)
        rows = torch.cat([gradient.flatten(0, 1).flatten(1) for gradient in gradients.values()], dim=1).double()
        total = total + rows.T @ rows
    assert isinstance(total, Tensor)
    return total.to(given.device.dtype).cpu()


def _fastest_squares(model: nn.Module, device: Device) -> Callable[[nn.Module, Tensor, Tensor], ModelState]:
    """The fastest algorithm for the network; all give the same values up to rounding."""
    if is_row_of_linears(model):
        return _squares_of_row
    # gradients of single samples in a batch are grouped convolutions, which a CPU does slower than one after the other
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    return _squares_in_turn if convolves and device.torch_device.type == "cpu" else _squares_together


def _squares_of_row(model: nn.Module, x: Tensor, vectors: Tensor) -> ModelState:
    """`_squares_together` for a row of Linear layers: with h a layer's inputs and d the gradients at its outputs, the
    square of a weight's gradient is d_i^2 h_j^2, so its sum over samples and vectors is one product of matrices."""
    with torch.no_grad():
        row, inputs = row_of_layers(model), []
        for _, layer in row:
            inputs.append(x)
            x = layer(x)
        squares: ModelState = {}
        gradient = vectors
        for (prefix, layer), own in reversed(list(zip(row, inputs, strict=True))):
            if isinstance(layer, nn.Linear):
                at_outputs = gradient.square().sum(1)
                squares[f"{prefix}weight"] = (at_outputs.T @ own.square()).double()
                if layer.bias is not None:
                    squares[f"{prefix}bias"] = at_outputs.double().sum(0)
                gradient = gradient @ layer.weight
            elif isinstance(layer, nn.ReLU):
                gradient = gradient * (own > 0).unsqueeze(1)
    return squares


def _squares_together(model: nn.Module, x: Tensor, vectors: Tensor) -> ModelState:
    """Sum over the samples x [b, ...] and their vectors s_c [b, C, K] of (J's_c)^2, by parameter, in float64."""
    return {name: each.square().sum(1).double().sum(0) for name, each in _gradients(model, x, vectors).items()}


def _gradients(model: nn.Module, x: Tensor, vectors: Tensor) -> ModelState:
    """J's_c of every sample x [b, ...] and vector s_c [b, C, K], by parameter: [b, C, ...]."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def of_one(sample: Tensor, own: Tensor) -> ModelState:
        def outputs(values: ModelState) -> Tensor:
            out: Tensor = functional_call(model, {**buffers, **values}, (sample.unsqueeze(0),))
            return out[0]

        (gradients,) = vmap(vjp(outputs, parameters)[1])(own)
        return dict(gradients)

    return dict(vmap(of_one)(x, vectors))


def _squares_in_turn(model: nn.Module, x: Tensor, vectors: Tensor) -> ModelState:
    """The same, one backward pass after the other."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for sample, own in zip(x, vectors, strict=True):
        outputs = model(sample.unsqueeze(0))[0]
        for vector in own:
            gradients = torch.autograd.grad(outputs @ vector, list(parameters.values()), retain_graph=True)
            for square, gradient in zip(total.values(), gradients, strict=True):
                square += gradient.double().square()
    return total


def _output_vectors(outputs: Tensor, uniform: Tensor, loss: Loss) -> Tensor:
    """Vectors [b, C, K] whose outer products sum to the Hessian of each sample's loss in its outputs [b, K], exactly up
    to `EXACT_UP_TO` outputs (C = K), else in expectation over `uniform` [b, K] (C = 1)."""
    n_outputs = outputs.shape[-1]
    unit = torch.eye(n_outputs, dtype=outputs.dtype, device=outputs.device)
    exact = n_outputs <= EXACT_UP_TO
    if loss == "mse":
        vectors = unit.expand(len(outputs), -1, -1) if exact else (2.0 * (uniform < 0.5) - 1).to(outputs).unsqueeze(1)
        return vectors * math.sqrt(2 / n_outputs)
    p = outputs.softmax(-1)
    if exact:
        return p.sqrt().unsqueeze(-1) * (unit - p.unsqueeze(1))
    drawn = (p.double().cumsum(-1) < uniform[:, :1]).sum(-1).clamp(max=n_outputs - 1)
    return (unit[drawn] - p).unsqueeze(1)
