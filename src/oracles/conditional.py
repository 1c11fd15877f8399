"""Exact rows: trained weights and metrics against the formula on the same samples, with no average over data.

The formula gets the samples of the stream, the laboratory gets a configuration; between them lie split, plan, stages,
penalties, stopping and evaluation.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

import numpy as np

from src.comparison.statistics import Floats
from src.data.stream import Stream
from src.oracles.cell import (
    TO_THE_OPTIMUM,
    MeasuredCell,
    bias_cell,
    bias_descent,
    design,
    lab,
    measure,
    parts_of,
    samples_of,
    without_convergence,
)
from src.oracles.rows import Row, exact
from src.oracles.theory import linear, risks, sampling

SEEDS = (0, 1, 2, 3)

SETTINGS: dict[str, tuple[str, ...]] = {
    "d=20, n=8+8, shift .7": ("split.sizes=[8,8]", "data.target_shift=0.7"),
    "d=20, n=60+40, shift .7": ("split.sizes=[60,40]", "data.target_shift=0.7"),
    "d=20, n=10+60": ("split.sizes=[10,60]",),
    "d=20, n=60+10, shift 2": ("split.sizes=[60,10]", "data.target_shift=2"),
    "d=20, n=16+26, noise 2": ("split.sizes=[16,26]", "data.noise=2"),
    "d=20, n=8+8, drawn starting weights": ("split.sizes=[8,8]", "arch.init=default"),
    "d=4, n=3+12, covariances diag(4,1,1,.2), diag(.5,1,2,3)": (
        "data.dim=4",
        "split.sizes=[3,12]",
        "data.covariances=[[[4,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,0.2]],[[0.5,0,0,0],[0,1,0,0],[0,0,2,0],[0,0,0,3]]]",
    ),
    "d=8, n=12+12, subspaces of 3 at 30 degrees": ("data.dim=8", "split.sizes=[12,12]", "data.rank=3", "data.angle=30"),
    "d=20, n=6+5+4, shift .7": ("split.parts=3", "split.sizes=[6,5,4]", "data.target_shift=0.7"),
}
"""Both sides of n = d, for each stage and for the union; every feature of `data=gaussian`."""


def rows() -> Iterator[Row]:
    """All exact rows on linear regression and on biases."""
    for setting, overrides in SETTINGS.items():
        yield from projections(setting, overrides)
    others = (warm_starts, too_low_a_rate, evaluations, forgetting_against_the_angle, orders, label_shift, files)
    for some in others:
        yield from some()


def _starts(cell: MeasuredCell) -> list[Floats]:
    """The starting weights of every seed."""
    from src.models.build import build_model

    streams = [cell.streams[seed] for seed in cell.seeds]
    models = [build_model(cell.config.arch, s.input_shape, 1, s.seed) for s in streams]
    return [next(iter(model.parameters())).detach().double().numpy().reshape(-1) for model in models]


def projections(setting: str, overrides: tuple[str, ...]) -> Iterator[Row]:
    """w <- (I - P) w + X^+ y, stage after stage (Evron et al. 2022)."""
    cell = measure(lab(*overrides, regimes="sequential,combined,d1_only,d2_only,reverse", seeds=SEEDS))
    both = list(zip(_starts(cell), cell.parts, strict=True))
    expected = {
        "sequential": [linear.sequential_weights(w0, parts)[-1] for w0, parts in both],
        "combined": [linear.combined_weights(w0, parts) for w0, parts in both],
        "d1_only": [linear.affine_projection(w0, *parts[0]) for w0, parts in both],
        "d2_only": [linear.affine_projection(w0, *parts[1]) for w0, parts in both],
        "reverse": [linear.sequential_weights(w0, parts[::-1])[-1] for w0, parts in both],
    }
    for regime, weights in expected.items():
        yield exact(f"projection: {regime}", cell.setting(setting), weights, cell.weights(regime))


def warm_starts() -> Iterator[Row]:
    """Warm starts end where cold starts do from the row space or at rank d; chunks in sequence."""
    for setting, sizes in (("d=20, n=60+40", "[60,40]"), ("d=20, n=8+6", "[8,6]")):
        overrides = (f"split.sizes={sizes}", "arch.init=default", "data.target_shift=0.7")
        regimes = ["combined", "warm_start", *(["shrink_perturb"] if "60" in sizes else [])]
        cell = measure(lab(*overrides, regimes=",".join(regimes), seeds=SEEDS))
        for regime in regimes[1:]:
            name = f"negative control: {regime} = combined"
            yield exact(name, cell.setting(setting), cell.weights("combined"), cell.weights(regime))
    cell = measure(lab("split.sizes=[12,12]", regimes="{chunked:{n_chunks:3}}", seeds=SEEDS))
    label = "chunked(n_chunks=3)"
    chunks = [[samples_of(cell.nodes(label, stage)[k]) for stage in range(3)] for k in range(len(SEEDS))]
    for pieces, parts in zip(chunks, cell.parts, strict=True):  # the three chunks partition the union
        chunked, whole = (np.sort(np.concatenate([y for _, y in some])) for some in (pieces, parts))
        assert np.array_equal(chunked, whole)
    weights = [linear.sequential_weights(np.zeros(20), pieces)[-1] for pieces in chunks]
    yield exact("projection: chunked", cell.setting("d=20, 3 chunks of 8"), weights, cell.weights(label))


def too_low_a_rate() -> Iterator[Row]:
    """Stages that stop too early: after T steps (1 - eta l)^T of the error along an eigenvalue l remains."""
    for factor in (1.0, 0.1):
        overrides = ("split.sizes=[30,12]", "stopping=epochs", "stopping.epochs=25", "optimizer.lr=0.02")
        regime = "sequential" if factor == 1 else "{sequential:{lr_factor:0.1}}"
        cell = measure(lab(*without_convergence(*overrides), regimes=regime, seeds=SEEDS), accuracy=None)
        label = cell.config.regimes[0].label
        weights = []
        for first, second in cell.parts:
            after1 = linear.weights_after(np.zeros(20), *first, lr=0.02, n_steps=25)
            weights.append(linear.weights_after(after1, *second, lr=0.02 * factor, n_steps=25))
        setting = f"eta=.02, then {0.02 * factor:g}"
        yield exact("too low a rate: 25 steps a stage", setting, weights, cell.weights(label))


def evaluations() -> Iterator[Row]:
    """Metrics of result.json: test losses and exact risks on d1, d2 and union, loss on the training data."""
    for sizes in ((12, 14), (40, 8)):
        setting = f"d=20, n={sizes[0]}+{sizes[1]}, shift 1, no noise"
        overrides = (f"split.sizes=[{sizes[0]},{sizes[1]}]", "data.target_shift=1", "data.noise=0")
        cell = measure(lab(*overrides, regimes="sequential,combined", seeds=SEEDS))
        for regime in ("sequential", "combined"):
            seeds = zip(cell.weights(regime), (cell.streams[seed] for seed in cell.seeds), strict=True)
            each = [_metrics(weights, stream) for weights, stream in seeds]
            for name in each[0]:
                yield exact(f"{name} of {regime}", setting, [own[name] for own in each], cell.metric(regime, name))


def _metrics(weights: Floats, stream: Stream) -> dict[str, float]:
    """The metrics of weights [d] by their definitions, from noiseless held-out inputs and the true weights."""
    assert stream.populations is not None
    held_out, _ = design(stream.test.pools[0])
    gaps = [weights - population.target for population in stream.populations]
    sizes = np.array([len(part) for part in stream.train])
    of_each = {"loss": [float(np.mean((held_out @ gap) ** 2)) for gap in gaps]}
    of_each["excess_risk"] = [float(gap @ gap) for gap in gaps]
    metrics: dict[str, float] = {}
    for name, (first, second) in of_each.items():
        union = float(sizes @ np.array([first, second]) / sizes.sum())
        metrics |= {f"test/d1/{name}": first, f"test/d2/{name}": second, f"test/union/{name}": union}
    residuals = [inputs @ weights - targets for inputs, targets in parts_of(stream)]
    metrics["train/union/loss"] = float(np.mean(np.concatenate(residuals) ** 2))
    return metrics


def orders() -> Iterator[Row]:
    """One epoch of SGD on a bias in the plan's own order, shuffled and in blocks."""
    for regime, repeats, label in (("combined", 1, "combined"), ("{blocks:{repeats:5}}", 5, "blocks(repeats=5)")):
        words = (*bias_descent(repeats), "split.sizes=[9,6]", "optimizer.lr=0.07")
        cell = measure(lab(*words, regimes=regime, seeds=SEEDS), accuracy=None)
        kept = sampling.retention(0.07, 2.0, repeats)
        biases = []
        for node in cell.nodes(label):
            centres = node.data.labels.double().numpy().reshape(-1)[node.data.order(0)][::repeats]
            biases.append(sampling.weight_after_epoch(0.0, centres, kept))
        setting = f"15 samples, eta=.07, each {repeats} times in a row"
        yield exact(f"order of samples: {label}", setting, biases, cell.weights(label, name="head.bias")[:, 0])


def label_shift() -> Iterator[Row]:
    """Priors 80/10/10, then others: the bias moves by log pi2 - log pi1; an absent class's probability falls as 1/t."""

    def biases(*overrides: str) -> tuple[MeasuredCell, Floats, Floats]:
        shared = ("split.sizes=[200,200]", "regimes=[sequential]", f"seeds={len(SEEDS)}")
        cell = bias_cell(1200, *shared, *overrides)
        return cell, cell.weights("sequential", 0, "head.bias"), cell.weights("sequential", name="head.bias")

    cell, before, after = biases("split.priors=[[0.8,0.1,0.1],[0.1,0.7,0.2]]", *TO_THE_OPTIMUM)
    change = sampling.bias_change([0.8, 0.1, 0.1], [0.1, 0.7, 0.2])
    expected = np.tile(change - change.mean(), (len(SEEDS), 1))  # biases are defined up to a common constant
    moved = after - before
    setting = cell.setting("80/10/10, then 10/70/20")
    yield exact("label shift: change of the bias", setting, expected, moved - moved.mean(axis=1, keepdims=True))

    absent = ("split.priors=[[0.4,0.4,0.2],[0.5,0.5,0]]", "optimizer.lr=0.05", "stopping.epochs=800")
    _, before, after = biases(*absent)
    start, end = (np.exp(bias)[:, 2] / np.exp(bias).sum(axis=1) for bias in (before, after))
    expected = np.array([sampling.absent_class_probability(p, 0.05 * 800, 2) for p in start])
    setting = "40/40/20, then 50/50/0, eta t = 40; steps of .05 against the flow"
    yield exact("label shift: an absent class falls like 1/t", setting, expected, end, tolerance=0.01)


def files() -> Iterator[Row]:
    """The same through files: result.json, and a second regime whose first stage comes from the store."""
    from src.cells.resolve import resolve
    from src.cells.run import run_cell

    with tempfile.TemporaryDirectory() as folder:
        overrides = (f"multirun={folder}", "split.sizes=[40,30]", "data.target_shift=1", "optimizer.lr=0.25")
        config = lab(*overrides, "stopping.tolerance=1e-11", regimes="sequential", seeds=SEEDS)
        run_cell(resolve(config))
        cell = resolve(lab(*overrides, "stopping.tolerance=1e-11", regimes="sequential,d1_only", seeds=SEEDS))
        run_cell(cell)
        for regime in cell.config.regimes:
            expected, found, reused = [], [], 0
            for seed in cell.config.seeds:
                body = json.loads((cell.run_folder(regime, seed) / "result.json").read_text())
                found.append(body["result"]["metrics"]["test/d2/excess_risk"])
                reused += body["provenance"]["reused_samples"]
                stream = cell.streams.build(seed)
                assert stream.populations is not None
                ends = linear.sequential_weights(np.zeros(20), parts_of(stream))
                end = ends[-1] if regime.label == "sequential" else ends[0]
                expected.append(float(np.sum((end - stream.populations[1].target) ** 2)))
            setting = f"d=20, n=40+30, {'from the store' if reused else 'trained'}"
            yield exact(f"result.json of {regime.label}: test/d2/excess_risk", setting, expected, found)


def forgetting_against_the_angle() -> Iterator[Row]:
    """Squared error on Dataset 1 after Dataset 2, two unit inputs at an angle: cos^2 sin^2, peak at 45 degrees."""
    for angle in (15, 30, 45, 60, 75):
        overrides = ("data.dim=2", "data.rank=1", f"data.angle={angle}", "data.draw=exact", "data.noise=0")
        cell = measure(lab(*overrides, "split.sizes=[6,6]", regimes="sequential", seeds=SEEDS))
        stream = cell.streams[0]
        assert stream.populations is not None
        unseen = float(stream.populations[0].target[1]) ** 2  # of w0 - w*, orthogonal to Dataset 1's inputs e_1
        theory = risks.forgetting_at_angle(np.deg2rad(angle), unseen)
        found = cell.metric("sequential", "test/d1/excess_risk")
        yield exact("forgetting against the angle", f"{angle} degrees", np.full(len(SEEDS), theory), found)
