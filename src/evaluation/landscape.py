"""The loss between and around trained weights: straight lines, planes, curves, and the barriers on them.

Points are the parameters of one model as one float64 vector [P] (see `Surface.vector`), so every function here is plain
geometry; `Surface` alone knows the network and the data.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from src.evaluation.metrics import Loss, sample_losses
from src.models.structure import has_batchnorm

LossOf = Callable[[Tensor], Tensor]
"""Loss [] of a point [P], differentiable."""


class Surface:
    """Losses of a network as functions of its parameters.

    `sets`: name -> (inputs [n, ...], labels [n] or targets [n, k]). Buffers are those of `model`; a network with batch
    normalisation uses the statistics of the set itself (a training-mode pass), since the statistics of a mixture of
    weights are not the mixture of their statistics.
    """

    def __init__(self, model: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], loss: Loss) -> None:
        self.model = copy.deepcopy(model).train(has_batchnorm(model))
        self.sets, self.loss = dict(sets), loss
        self.parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        self.buffers = {name: buffer.detach() for name, buffer in self.model.named_buffers()}

    def vector(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The parameters among `weights` as a point, float64 [P]."""
        return torch.cat([weights[name].detach().double().flatten() for name in self.parameters])

    def weights(self, point: Tensor) -> dict[str, Tensor]:
        """A point as parameters of the network, in its precision; differentiable."""
        out, start = {}, 0
        for name, like in self.parameters.items():
            out[name] = point[start : start + like.numel()].view(like.shape).to(like.dtype)
            start += like.numel()
        return out

    def loss_of(self, name: str) -> LossOf:
        """The mean loss on one set as a differentiable function of the point."""
        x, y = self.sets[name]

        def loss(point: Tensor) -> Tensor:
            buffers = {key: buffer.clone() for key, buffer in self.buffers.items()}
            outputs = functional_call(self.model, {**self.weights(point), **buffers}, (x,))
            return sample_losses(outputs.double(), y, self.loss).mean()

        return loss

    def losses(self, points: Sequence[Tensor]) -> dict[str, list[float]]:
        """The mean loss on every set at every point."""
        with torch.no_grad():
            return {name: [float(self.loss_of(name)(point)) for point in points] for name in self.sets}


# ------------------------------------------------------------------------------------------------ lines and barriers


def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point (1 - t) a + t b."""
    return (1 - t) * a + t * b


def along(n: int) -> list[float]:
    """n >= 2 positions from 0 to 1, both ends among them."""
    return [k / (n - 1) for k in range(n)]


def barrier(losses: Sequence[float]) -> float:
    """The barrier of a path from the losses along it, ends included: max L(t) - max(L(0), L(1)), at least 0.

    Draxler et al. 2018 and Garipov et al. 2018 look for paths on which this is about 0. (Frankle et al. 2020 subtract
    the mean of the two ends instead; with ends of unequal loss that calls a plain slope a barrier.) NaN if a loss is.
    """
    assert len(losses) >= 2
    return math.nan if any(map(math.isnan, losses)) else max(losses) - max(losses[0], losses[-1])


def distance_to_path(path: Sequence[Tensor], point: Tensor) -> float:
    """Least Euclidean distance from a point to the polygon through the points of `path` (at least one)."""
    if len(path) == 1:
        return float((point - path[0]).norm())
    return min(_to_segment(a, b, point) for a, b in itertools.pairwise(path))


def _to_segment(a: Tensor, b: Tensor, point: Tensor) -> float:
    step = b - a
    length = float(step @ step)
    t = 0.0 if length == 0 else min(1.0, max(0.0, float((point - a) @ step) / length))
    return float((point - interpolate(a, b, t)).norm())


# ------------------------------------------------------------------------------------------------ planes


@dataclass(frozen=True, eq=False, slots=True)
class Plane:
    """The plane through three points: `origin` + x `right` + y `up`, both of length 1 and at a right angle."""

    origin: Tensor
    right: Tensor
    up: Tensor

    def at(self, x: float, y: float) -> Tensor:
        """The point with these coordinates."""
        return self.origin + x * self.right + y * self.up

    def coordinates(self, point: Tensor) -> tuple[float, float]:
        """(x, y) of the nearest point of the plane."""
        offset = point - self.origin
        return float(offset @ self.right), float(offset @ self.up)


def plane_through(a: Tensor, b: Tensor, c: Tensor) -> Plane:
    """a at the origin, b on the x axis, c above it (Garipov et al. 2018, section 5: Gram-Schmidt of b - a and c - a).

    Raises ValueError if the three lie on one line.
    """
    right = (b - a) / (b - a).norm()  # NaN if they are equal
    up = c - a
    size = float(up.norm())
    up = up - (up @ right) * right
    up = up - (up @ right) * right  # once more: rounding leaves a part along `right` when c is nearly on the line
    if not float(up.norm()) > 1e-9 * size:
        raise ValueError("the three points lie on one line, so they span no plane")
    return Plane(a, right, up / up.norm())


def window(points: Sequence[tuple[float, float]], margin: float = 0.3) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of a square around the points, with a margin as a share of its side."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) * (0.5 + margin) or 1.0
    x, y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return x - half, x + half, y - half, y + half


# ------------------------------------------------------------------------------------------------ curves


def bezier(a: Tensor, control: Tensor, b: Tensor, t: float) -> Tensor:
    """The quadratic Bezier curve (1 - t)^2 a + 2 t (1 - t) control + t^2 b."""
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b


def connect(loss: LossOf, a: Tensor, b: Tensor, *, n_steps: int = 100, n_positions: int = 7) -> Tensor:
    """The control point [P] of a curve of low loss from a to b: mode connectivity (Garipov et al. 2018, eq. 2).

    Minimises the mean loss over `n_positions` inner positions of the curve with Adam, from the straight line; the steps
    are as long, per parameter, as two hundredths of the root mean square of b - a. Deterministic: the positions are
    fixed, where the paper draws them. Returns the control point with the lowest mean loss.
    """
    positions = [(k + 1) / (n_positions + 1) for k in range(n_positions)]
    control = interpolate(a, b, 0.5).clone().requires_grad_(True)
    scale = float((b - a).square().mean().sqrt())
    optimizer = torch.optim.Adam([control], lr=0.02 * scale)
    best, lowest = control.detach().clone(), math.inf
    for step in range(n_steps + 1):
        optimizer.zero_grad()
        mean = torch.stack([loss(bezier(a, control, b, t)) for t in positions]).mean()
        if float(mean.detach()) < lowest:
            best, lowest = control.detach().clone(), float(mean.detach())
        if step < n_steps:
            mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return best
