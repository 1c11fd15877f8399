"""The Gaussian generator: every data set has its stated distribution, exactly where defined, and seeds are
independent if `draw` is fresh."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from src.config import Config, compose
from src.data.sources.gaussian import GaussianData
from src.data.stream import Samples, Stream
from src.errors import ConfigError
from tests.data.samples import load_streams


def cell(*overrides: str) -> Config:
    return compose(["study=linear_lab", "data.dim=6", *overrides])


def stream(*overrides: str, seed: int = 0) -> Stream:
    return load_streams(cell(*overrides)).build(seed)


def xy(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    return samples.inputs(torch.float64).numpy(), samples.y.numpy()[:, 0]


def test_every_data_set_follows_its_own_target_in_training_and_held_out_sets() -> None:
    """Without noise the targets are exactly linear in the inputs, with weights at the given distance."""
    for overrides in (("data.target_shift=0.7",), ("data.target_shift=0.7", "split.parts=3", "split.sizes=[10,10,10]")):
        found = stream("data.noise=0", *overrides)
        assert found.populations is not None
        first = found.populations[0].target
        assert np.linalg.norm(first) == pytest.approx(1)
        for part, population in enumerate(found.populations):
            distance = np.linalg.norm(population.target - first)
            assert distance == pytest.approx(0.7 if part else 0)
            assert (population.target - first) @ first == pytest.approx(0, abs=1e-12)
            for samples in (found.train[part], found.test.pools[part], found.val.pools[part]):
                inputs, targets = xy(samples)
                assert np.allclose(inputs @ population.target, targets)


def test_equal_distributions_share_one_pool_of_held_out_samples() -> None:
    assert len(stream().test.pools) == 1
    assert len(stream("data.target_shift=1").test.pools) == 2
    assert len(stream("data.rank=2", "data.angle=0").test.pools) == 1


def test_fresh_seeds_have_samples_of_their_own_and_a_pool_is_shared() -> None:
    for draw, shared in (("fresh", False), ("pool", True)):
        factory = load_streams(cell(f"data.draw={draw}", "split.sizes=[80,80]"))
        sets = [{tuple(row) for row in xy(part)[0]} for seed in (1, 2) for part in factory.build(seed).train]
        assert bool((sets[0] | sets[1]) & (sets[2] | sets[3])) == shared
        assert not sets[0] & sets[1]
        assert factory.build(1).digest == factory.build(1).digest != factory.build(2).digest


def test_exact_draw_has_the_requested_quadratic_loss() -> None:
    """The inputs' second moment is the covariance, and the least-squares solution is the true weights, noise or not."""
    first, second = [[2.0, 0.6], [0.6, 0.5]], [[0.0, 0.0], [0.0, 3.0]]
    words = (f"data.covariances={[first, second]}", "data.weights=[[1,-1],[0,2]]", "data.dim=2", "data.draw=exact")
    found = stream(*words, "split.sizes=[20,7]", "data.noise=0.5")
    for part, wanted in enumerate((first, second)):
        inputs, targets = xy(found.train[part])
        assert np.allclose(inputs.T @ inputs / len(inputs), wanted)
        noise = targets - inputs @ np.array([[1, -1], [0, 2]])[part]
        assert np.allclose(inputs.T @ noise, 0)
        assert noise.std() > 0.1
    again = stream(*words, "split.sizes=[20,7]", "data.noise=0.5", seed=1)
    assert found.train[0].digest != again.train[0].digest


def test_subspaces_meet_at_their_angle() -> None:
    found = stream("data.rank=2", "data.angle=30", "split.sizes=[40,40]")
    bases = [np.linalg.svd(xy(part)[0])[2][:2] for part in found.train]
    assert np.linalg.matrix_rank(xy(found.train[0])[0]) == 2
    cosines = np.linalg.svd(bases[0] @ bases[1].T, compute_uv=False)
    assert np.rad2deg(np.arccos(cosines)) == pytest.approx([30, 30])


def test_covariance_of_random_draws() -> None:
    wanted = np.diag([4.0, 1.0, 0.25])
    words = (
        f"data.covariances={[wanted.tolist()] * 2}",
        "data.dim=3",
        "data.n_samples=9000",
        "split.sizes=[4000,4000]",
    )
    inputs, _ = xy(stream(*words).train[1])
    assert np.cov(inputs.T) == pytest.approx(wanted, abs=0.3)


def test_populations_are_those_of_the_parameters_alone() -> None:
    """Neither size nor seed moves the truth; equal distributions are one object."""
    data = cell("data.target_shift=0.5").data
    assert isinstance(data, GaussianData)
    more = dataclasses.replace(data, n_samples=5000)
    first, second = data.populations(2)
    assert np.array_equal(second.target, more.populations(2)[1].target)
    assert np.array_equal(first.target, data.true_weights()[:, 0])
    assert first is not second
    same = dataclasses.replace(data, target_shift=0.0).populations(2)
    assert same[0] is same[1]


def test_a_shift_of_the_inputs_leaves_no_known_population() -> None:
    assert stream("split.shift.kind=permute", "split.shift.amount=1").populations is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (
            ["data.target=classification", "data.draw=pool", "data.target_shift=1", "loss=cross_entropy"],
            "data.target_shift",
        ),
        (["data.target=classification", "loss=cross_entropy"], "data.draw"),
        (["data.angle=10"], "data.angle"),
        (["data.rank=4"], "data.rank"),
        (["data.rank=2", "data.angle=91"], "data.angle"),
        (["data.covariances=[[[1]]]"], "data.covariances"),
        (["data.dim=1", "data.covariances=[[[1,2]],[[1]]]"], "data.covariances"),
        (["data.dim=2", "data.covariances=[[[1,2],[0,1]],[[1,0],[0,1]]]"], "data.covariances"),
        (["data.dim=1", "data.covariances=[[[-1]],[[1]]]"], "data.covariances"),
        (["data.weights=[[1,2]]"], "data.weights"),
        (["data.dim=2", "data.weights=[[1,2],[1,2]]", "data.target_shift=1"], "data.target_shift"),
        (["data.draw=exact", "split.sizes=[30,3]"], "split.sizes"),
        (["data.dim=1", "data.target_shift=1"], "data.target_shift"),
        (["arch.init=ones"], "arch.init"),
    ],
)
def test_contradictions_are_refused_by_name(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cell(*overrides)
    assert refused.value.key == key
