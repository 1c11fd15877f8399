"""Geometry of the loss, on losses whose shape is known.

Properties: lines, planes and curves pass through their points; coordinates are those of the nearest point; a barrier is the height above the
higher end; distances to a path are Euclidean; a fitted curve avoids a hill that the straight line crosses; on a
quadratic loss all values agree with the formula; a network's surface has the network's own losses.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from src.evaluation.landscape import (
    Surface,
    along,
    barrier,
    bezier,
    connect,
    distance_to_path,
    interpolate,
    plane_through,
    window,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_line_on_a_quadratic_has_the_formula_s_losses_and_no_barrier() -> None:
    """Half |w|^2 from a to b is convex: never above the straight line between the ends."""
    a, b = vector(1.0, 0.0), vector(0.0, 3.0)
    positions = along(11)
    losses = [float(0.5 * interpolate(a, b, t).square().sum()) for t in positions]
    assert losses == pytest.approx([0.5 * ((1 - t) ** 2 + 9 * t**2) for t in positions])
    assert barrier(losses) == 0.0


def test_a_barrier_is_measured_from_the_higher_end() -> None:
    assert barrier([1.0, 4.0, 2.5, 3.0]) == 1.0
    assert barrier([1.0, 2.0, 3.0]) == 0.0  # a slope is no barrier
    assert barrier([1.0, math.inf, 1.0]) == math.inf
    assert math.isnan(barrier([1.0, math.nan, 1.0]))


def test_distances_to_a_path_are_euclid_s() -> None:
    path = [vector(0, 0), vector(2, 0), vector(2, 2)]
    assert distance_to_path(path, vector(1, 1)) == pytest.approx(1.0)
    assert distance_to_path(path, vector(3, 3)) == pytest.approx(math.sqrt(2))
    assert distance_to_path(path, vector(2, 1)) == pytest.approx(0.0)
    assert distance_to_path(path[:1], vector(3, 4)) == pytest.approx(5.0)
    assert distance_to_path([path[0], path[0]], vector(3, 4)) == pytest.approx(5.0)


def test_the_path_of_gradient_flow_misses_the_combined_optimum_unless_the_hessians_are_multiples_of_one() -> None:
    """o2 + exp(-s H2)(o1 - o2): a straight line for H2 = c I, which then passes the weighted mean of the optima."""
    o1, o2 = vector(0, 0), vector(2, 1)
    for h1, h2, expected in ((vector(1, 1), vector(3, 3), True), (vector(1, 5), vector(3, 1), False)):
        combined = (h1 * o1 + h2 * o2) / (h1 + h2)
        path = [o2 + torch.exp(-s * h2) * (o1 - o2) for s in torch.linspace(0, 12, 2001, dtype=torch.float64)]
        share = distance_to_path(path, combined) / float((o2 - o1).norm())
        assert (share < 1e-4) == expected


def test_a_plane_passes_through_its_points_and_measures_distances() -> None:
    a, b, c = (torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(3))
    plane = plane_through(a, b, c)
    assert float(plane.right @ plane.up) == pytest.approx(0.0, abs=1e-12)
    for point in (a, b, c):
        torch.testing.assert_close(plane.at(*plane.coordinates(point)), point)
    (xa, ya), (xb, yb) = plane.coordinates(a), plane.coordinates(b)
    assert (xa, ya) == (0.0, 0.0)
    assert (xb, yb) == (pytest.approx(float((b - a).norm())), pytest.approx(0.0, abs=1e-9))
    assert plane.coordinates(c)[1] > 0
    normal = torch.linalg.svd(torch.stack([plane.right, plane.up]))[2][-1]
    assert plane.coordinates(plane.at(1, 2) + 3 * normal) == (pytest.approx(1), pytest.approx(2))


@pytest.mark.parametrize("third", [vector(2, 2, 2), vector(0, 0, 0), vector(1, 1, 1)])
def test_points_on_one_line_span_no_plane(third: Tensor) -> None:
    with pytest.raises(ValueError, match="span no plane"):
        plane_through(vector(0, 0, 0), vector(1, 1, 1), third)
    with pytest.raises(ValueError, match="span no plane"):
        plane_through(vector(1, 0, 0), vector(1, 0, 0), third)


def test_a_window_is_a_square_around_all_points() -> None:
    left, right, bottom, top = window([(0.0, 0.0), (4.0, 1.0)], margin=0.25)
    assert (left, right) == (-1.0, 5.0)
    assert right - left == top - bottom
    assert bottom < 0 < 1 < top
    assert window([(1.0, 1.0)])[1] > 1.0


def test_a_curve_avoids_the_hill_that_the_line_crosses() -> None:
    """A hill of height 2 between two valleys: the line's barrier is its height, the fitted curve's nearly nothing."""
    a, b = vector(-1.0, 0.0), vector(1.0, 0.1)

    def loss(point: Tensor) -> Tensor:
        return 2 * torch.exp(-4 * point.square().sum())

    positions = along(41)
    line = [float(loss(interpolate(a, b, t))) for t in positions]
    control = connect(loss, a, b, n_steps=200)
    curved = barrier([float(loss(bezier(a, control, b, t))) for t in positions])
    assert barrier(line) > 1.8
    assert positions[line.index(max(line))] == pytest.approx(0.5, abs=0.05)
    assert curved < 0.1
    assert torch.equal(bezier(a, control, b, 0.0), a)
    assert torch.equal(bezier(a, control, b, 1.0), b)
    assert torch.equal(control, connect(loss, a, b, n_steps=200))


def test_a_surface_gives_the_network_s_own_losses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    surface = Surface(model, {"d1": (x, y), "d2": (x[:5], y[:5])}, "cross_entropy")
    point = surface.vector(model.state_dict())
    assert point.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in surface.weights(point).items())
    losses = surface.losses([point, 0 * point])
    assert losses["d1"][0] == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-6)
    assert losses["d2"][0] == pytest.approx(nn.functional.cross_entropy(model(x[:5]), y[:5]).item(), rel=1e-6)
    assert losses["d1"][1] == pytest.approx(math.log(2))
    probe = point.clone().requires_grad_(True)
    surface.loss_of("d1")(probe).backward()
    assert probe.grad is not None
    assert float(probe.grad.norm()) > 0


def test_a_linear_regression_s_surface_is_its_quadratic() -> None:
    """Mean squared error of a linear model: a parabola along every line, with its least value at the solution."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    surface = Surface(nn.Linear(3, 1, bias=False).double(), {"d1": (x, y)}, "mse")
    solution = vector(1.0, -2.0, 0.5)
    losses = surface.losses([interpolate(0 * solution, solution, t) for t in (0.0, 0.5, 1.0)])["d1"]
    assert losses[2] == pytest.approx(0.0, abs=1e-20)
    assert losses[1] == pytest.approx(losses[0] / 4)


def test_batch_normalisation_uses_the_statistics_of_the_set() -> None:
    """The surface depends on no running statistics of the model and does not change them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    before = Surface(model, {"d1": (x, y)}, "cross_entropy")
    point = before.vector(model.state_dict())
    first = before.losses([point, point])["d1"]
    model[1].running_mean += 5.0
    assert first[0] == first[1] == Surface(model, {"d1": (x, y)}, "cross_entropy").losses([point])["d1"][0]
