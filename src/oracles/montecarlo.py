"""Monte Carlo rows: means over independent draws of the data against their exact expectations.

Every seed draws its own samples (`data.draw=fresh`), so runs are independent. Risks near n = d have infinite variance,
so |n - d| is at least 4 for every n that matters. The seeds are fixed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from src.cells.resolve import resolve
from src.comparison.statistics import Floats
from src.oracles.cell import MeasuredCell, bias_descent, lab, measure, without_convergence
from src.oracles.phase_diagram import METRIC, PhasePoint, PhaseSetting, point_of
from src.oracles.rows import Row, chi_square, joint_deviation, monte_carlo
from src.oracles.theory import risks, sampling

SEEDS = tuple(range(1000, 1512))
ACCURACY = 1e-5
"""Error of the weights: far below the standard errors here."""
GROUP = f"trainer.replicas={len(SEEDS)}"


@dataclass(frozen=True)
class MonteCarloSetting:
    """Sizes, shift and noise (a standard deviation) of one cell; d = 20 unless said, |w*| = 1, w0 = 0."""

    n1: int
    n2: int
    shift: float = 0.0
    noise: float = 0.5
    dim: int = 20

    @property
    def text(self) -> str:
        """For the table."""
        shift = f", D={self.shift:g}" if self.shift else ""
        return f"d={self.dim}, n={self.n1}+{self.n2}, s={self.noise:g}{shift}"


SETTINGS = (
    MonteCarloSetting(6, 6),
    MonteCarloSetting(8, 6, shift=1.0),
    MonteCarloSetting(12, 16, shift=0.7),
    MonteCarloSetting(14, 28),
    MonteCarloSetting(28, 12, shift=1.0),
    MonteCarloSetting(40, 5, shift=0.5),
    MonteCarloSetting(5, 40, shift=0.5),
    MonteCarloSetting(60, 60, shift=0.3, noise=1.0),
    MonteCarloSetting(200, 30, shift=0.3, noise=1.0),
    MonteCarloSetting(30, 30, shift=2.0, noise=0.0),
)
"""n1, n2 and N on both sides of d, in every combination that matters to sequential or combined."""


NEAR_INTERPOLATION = (MonteCarloSetting(45, 45, dim=100), MonteCarloSetting(70, 70, dim=100))
"""The union near N = d, where combined loses, and beyond it, where combined wins."""


def rows() -> Iterator[Row]:
    """All Monte Carlo rows; the joint chi-square is the last."""
    deviations: list[tuple[float, int]] = []
    for found, deviation in cells():
        yield from found
        deviations.append(deviation)
    yield chi_square(deviations)


def cells() -> Iterator[tuple[list[Row], tuple[float, int]]]:
    """The rows of each cell with their joint deviation from theory; cells share no samples."""
    each = (
        *(partial(two_data_sets, setting) for setting in SETTINGS),
        *(partial(chunks, 4, 6), partial(chunks, 3, 28)),
        *(partial(surface_noise, n) for n in (8, 80)),
        *(partial(gradient_noise, n) for n in (10, 100)),
        *(partial(long_run, repeats) for repeats in (1, 5)),
        *(partial(two_data_sets, setting) for setting in NEAR_INTERPOLATION),
        partial(subset_noise, 60, 100),
    )
    for block, cell in enumerate(each):
        yield cell(block=block)


def seeds_of(block: int) -> tuple[int, ...]:
    """The seeds of one cell: no two cells share any."""
    return tuple(seed + 10_000 * block for seed in SEEDS)


def _joined(
    named: list[tuple[str, float, Floats]], setting: str, cell: MeasuredCell
) -> tuple[list[Row], tuple[float, int]]:
    found = [monte_carlo(name, cell.setting(setting), theory, values) for name, theory, values in named]
    return found, joint_deviation([theory for _, theory, _ in named], np.stack([v for _, _, v in named], axis=1))


def two_data_sets(setting: MonteCarloSetting, block: int = 0) -> tuple[list[Row], tuple[float, int]]:
    """Risks of one stage, sequential and combined, on Dataset 1 and 2, and who wins by how much."""
    n1, n2, d, s2, shift = setting.n1, setting.n2, setting.dim, setting.noise**2, setting.shift**2
    overrides = (
        f"data.dim={d}",
        f"data.noise={setting.noise}",
        f"data.target_shift={setting.shift}",
        f"split.sizes=[{n1},{n2}]",
        f"data.n_samples={2 * (n1 + n2) + 20}",
    )
    config = lab(*overrides, GROUP, regimes="sequential,combined,d1_only", seeds=seeds_of(block))
    cell = measure(config, accuracy=ACCURACY)
    sequential, combined = (cell.metric(regime, "test/d2/excess_risk") for regime in ("sequential", "combined"))
    one = risks.one_stage_risk(d, n1, noise=s2, initial=1.0)
    named = [("one stage", one, cell.metric("d1_only", "test/d1/excess_risk"))]
    judges: tuple[risks.Judge, ...] = ("d2", "d1") if shift else ("d2",)
    for judge in judges:
        for regime, risk in (("sequential", risks.sequential_risk), ("combined", risks.combined_risk)):
            theory = risk(d, n1, n2, noise=s2, initial=1.0, shift=shift, judge=judge)
            named.append((f"{regime} on {judge}", theory, cell.metric(regime, f"test/{judge}/excess_risk")))
    # noiseless data that determine the weights leave no variance; the exact rows cover them
    kept = [(name, theory, values) for name, theory, values in named if values.std() > ACCURACY]
    found, deviation = _joined(kept, setting.text, cell)
    gap = risks.risk_difference(d, n1, n2, noise=s2, shift=shift, initial=1.0)
    found.append(monte_carlo("sequential - combined on d2", setting.text, gap, sequential - combined))
    return found, deviation


def chunks(n_chunks: int, size: int, block: int) -> tuple[list[Row], tuple[float, int]]:
    """k chunks of m fresh samples, one stage each."""
    total = n_chunks * size
    overrides = (f"split.sizes=[{total // 2},{total - total // 2}]", f"data.n_samples={2 * total + 20}")
    regimes = f"{{chunked:{{n_chunks:{n_chunks}}}}}"
    cell = measure(lab(*overrides, GROUP, regimes=regimes, seeds=seeds_of(block)), accuracy=ACCURACY)
    theory = risks.chunks_risk(20, size, n_chunks, noise=0.25, initial=1.0)
    values = cell.metric(f"chunked(n_chunks={n_chunks})", "test/union/excess_risk")
    return _joined([("chunks in sequence", theory, values)], f"d=20, {n_chunks} chunks of {size}, s=0.5", cell)


def surface_noise(n: int, block: int) -> tuple[list[Row], tuple[float, int]]:
    """The spread of the test loss at given weights: Var = 4 (|e|^2 + s2)^2 / (2n) of the squared error, n samples."""
    overrides = ("split.sizes=[40,40]", "data.n_samples=400", f"split.test={n / 400}")
    cell = measure(lab(*overrides, GROUP, regimes="d1_only", seeds=seeds_of(block)), accuracy=ACCURACY)
    loss, excess = cell.metric("d1_only", "test/d1/loss"), cell.metric("d1_only", "test/d1/excess_risk")
    expected = np.array([4 * sampling.linear_loss_variance(float(e), 0.25, n) for e in excess])
    setting = f"d=20, {n} test samples, s=0.5"
    named = [
        ("test loss less its risk", 0.0, (loss - excess - 0.25) / np.sqrt(expected)),
        ("variance of a test loss, over theory's", 1.0, (loss - excess - 0.25) ** 2 / expected),
    ]
    return _joined(named, setting, cell)


def subset_noise(n: int, pool: int, block: int) -> tuple[list[Row], tuple[float, int]]:
    """The spread of the test loss at one and the same weights over subsets of one pool: Var = (S^2/n)(1 - n/M)."""
    words = ("data.draw=pool", f"data.n_samples={pool}", f"split.test={n / pool}", "split.sizes=[4,4]", GROUP)
    fixed = ("stopping=epochs", "stopping.epochs=1", "optimizer.lr=1e-30")  # the weights stay at 0
    cell = measure(lab(*without_convergence(*words, *fixed), regimes="d1_only", seeds=seeds_of(block)), accuracy=None)
    squares = resolve(cell.config).streams.source.y.double().numpy().reshape(-1) ** 2
    expected = sampling.mean_loss_variance(float(squares.var(ddof=1)), n, pool)
    off = cell.metric("d1_only", "test/d1/loss") - squares.mean()
    named = [
        ("loss of a subset less the pool's", 0.0, off / expected**0.5),
        ("variance of a subset's loss, over theory's", 1.0, off**2 / expected),
    ]
    return _joined(named, f"{n} of a pool of {pool} samples", cell)


def gradient_noise(n: int, block: int) -> tuple[list[Row], tuple[float, int]]:
    """E|g - E g|^2 of the first gradient, seen in the first step: 4 [(d+1)|e|^2 + d s2]/n of the squared error."""
    one_step = ("stopping=epochs", "stopping.epochs=1", "optimizer.lr=0.1", GROUP)
    words = without_convergence(f"split.sizes=[{n},{n}]", f"data.n_samples={3 * n + 20}", *one_step)
    cell = measure(lab(*words, regimes="d1_only", seeds=seeds_of(block)), accuracy=None)
    first = cell.streams[cell.seeds[0]].populations
    assert first is not None
    gradients = -cell.weights("d1_only") / 0.1
    off = np.sum((gradients + 2 * first[0].target) ** 2, axis=1)  # E g = -2 w* at w0 = 0
    theory = 4 * sampling.gradient_noise(20, 1.0, 0.25, n)
    return _joined([("noise of the gradient", theory, off)], f"d=20, n={n}, s=0.5", cell)


def long_run(repeats: int, block: int) -> tuple[list[Row], tuple[float, int]]:
    """SGD on a bias, one sample a step, each `repeats` times in a row: the variance of its end, s2 (1-q^m)/(1+q^m)."""
    words = (*bias_descent(repeats), "split.sizes=[30,30]", "optimizer.lr=0.1", GROUP)
    regime = "combined" if repeats == 1 else f"{{blocks:{{repeats:{repeats}}}}}"
    cell = measure(lab(*words, regimes=regime, seeds=seeds_of(block)), accuracy=None)
    ends = cell.weights(cell.config.regimes[0].label, name="head.bias")[:, 0]
    theory = sampling.long_run_variance(1.0, sampling.retention(0.1, 2.0, repeats))
    setting = f"eta a=.2, each sample {repeats} times in a row"
    return _joined([("long-run variance of SGD", theory, ends**2)], setting, cell)


BOUNDARY = PhaseSetting(dim=20, n1=400, noise=1.0)
BOUNDARY_SIZES = (1, 2, 4, 7, 10, 13, 16, 24, 30, 42, 60, 100)
BOUNDARY_SHIFTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""D2 = |w1* - w2*|^2. Sizes stay 4 away from d, where the variance of a risk is infinite."""
BOUNDARY_SEEDS = tuple(range(500_000, 500_064))


def boundary_points() -> Iterator[PhasePoint]:
    """Measures every cell of the phase diagram: runs of `study=linear_lab` at these sizes and shifts."""
    for n2 in BOUNDARY_SIZES:
        for shift in BOUNDARY_SHIFTS:
            overrides = (
                f"data.dim={BOUNDARY.dim}",
                f"data.noise={BOUNDARY.noise}",
                f"data.target_shift={shift**0.5!r}",
                f"data.n_samples={int(1.2 * (BOUNDARY.n1 + n2))}",
                f"split.sizes=[{BOUNDARY.n1},{n2}]",
                "split.test=0.05",
            )
            config = lab(*overrides, regimes="sequential,combined", seeds=BOUNDARY_SEEDS)
            cell = measure(config, accuracy=1e-4)
            assert not cell.unconverged, (n2, shift)
            sequential, combined = (cell.metric(regime, METRIC) for regime in ("sequential", "combined"))
            yield point_of(BOUNDARY, n2, shift, sequential - combined)
