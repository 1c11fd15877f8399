"""Exact rows on quadratic losses with given Hessians: where regimes and penalties end, the path of stage 2, and the
effect of a larger weight on Dataset 1 (for a cross entropy as well)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from src.comparison.statistics import Floats
from src.oracles.cell import TO_THE_OPTIMUM, bias_cell, lab, measure, without_convergence
from src.oracles.conditional import SEEDS
from src.oracles.rows import Row, apart, exact, never_rises
from src.oracles.theory import linear, quadratic

OPTIMA = np.array([[1.0, -1.0], [-0.5, 2.0]])
SKEW, SECOND = np.array([[2.0, 0.6], [0.6, 0.5]]), np.array([[0.4, -0.2], [-0.2, 1.5]])
"""Covariances of the inputs of Datasets 1 and 2: the mean squared error has twice these as Hessians."""


def rows() -> Iterator[Row]:
    """All exact rows on quadratic losses."""
    for some in (optima, path, held_back, averaged, heavier_first):
        yield from some()


def each(end: Floats) -> Floats:
    """The same end for every seed, [seeds, d]."""
    return np.tile(end, (len(SEEDS), 1))


def optima() -> Iterator[Row]:
    """Quadratic losses with given Hessians 2 C1, 2 C2 and optima o1, o2 (`data.draw=exact`)."""
    for sizes in ((30, 10), (10, 30)):
        cell = measure(lab(*quadratics(SKEW, SECOND, sizes), regimes="combined,average", seeds=SEEDS))
        setting = cell.setting(f"given Hessians, n={sizes[0]}+{sizes[1]}")
        best = quadratic.combined_optimum([2 * SKEW, 2 * SECOND], list(OPTIMA), sizes)
        yield exact("combined optimum of quadratics", setting, each(best), cell.weights("combined"))
        yield exact("average of the optima", setting, each(OPTIMA.mean(axis=0)), cell.weights("average"))


def quadratics(first: Floats, second: Floats, sizes: tuple[int, int]) -> tuple[str, ...]:
    """The overrides of a cell whose losses have the Hessians 2 `first`, 2 `second`."""
    return (
        f"data.dim={len(first)}",
        "data.draw=exact",
        f"data.covariances={json.dumps([first.tolist(), second.tolist()])}",
        f"data.weights={json.dumps(OPTIMA.tolist())}",
        f"split.sizes=[{sizes[0]},{sizes[1]}]",
    )


def path() -> Iterator[Row]:
    """Stage 2 from o1: along the gradient flow, past the combined optimum, or through it if Hessians are c I."""
    n_steps, rate = 400, 0.5  # of a Hessian 2 I: stage 1 is at its optimum after one step
    times = np.geomspace(0.02, 4, 12)
    regimes = [f"{{sequential:{{lr_factor:{float(s / (n_steps * rate))!r}}}}}" for s in times]
    steps = ("stopping=epochs", f"stopping.epochs={n_steps}", f"optimizer.lr={rate}")
    words = without_convergence(*quadratics(np.eye(2), SECOND, (30, 10)), *steps)
    cell = measure(lab(*words, regimes=",".join(regimes), seeds=SEEDS), accuracy=None)
    found = np.stack([cell.weights(regime.label) for regime in cell.config.regimes], axis=1)  # [seeds, times, d]
    flow = quadratic.flow_path(2 * SECOND, OPTIMA[1], OPTIMA[0], times)
    setting = f"Hessians I and full; {n_steps} steps against the flow"
    yield exact("path of stage 2", setting, np.tile(flow, (len(SEEDS), 1, 1)), found, tolerance=0.01)
    best = quadratic.combined_optimum([2 * np.eye(2), 2 * SECOND], list(OPTIMA), (30, 10))
    span = np.linalg.norm(OPTIMA[0] - OPTIMA[1])
    least = span * quadratic.path_distance(2 * SECOND, OPTIMA[1], OPTIMA[0], best, n_grid=400)
    gaps = np.linalg.norm(found - best, axis=2).min(axis=1)
    at_times = float(np.linalg.norm(flow - best, axis=1).min())
    assert at_times >= least, "no point of the path is nearer than its nearest"
    name = "the path misses the combined optimum: least distance"
    yield apart(name, setting, np.full(len(SEEDS), at_times), gaps, least=0.9 * float(least), tolerance=0.02)

    share = 10 / 40
    steps = ("stopping=epochs", "stopping.epochs=1", f"optimizer.lr={rate}")
    words = without_convergence(*quadratics(np.eye(2), np.eye(2), (30, 10)), *steps)
    cell = measure(lab(*words, regimes=f"{{sequential:{{lr_factor:{share}}}}}", seeds=SEEDS), accuracy=None)
    best = quadratic.combined_optimum([np.eye(2), np.eye(2)], list(OPTIMA), (30, 10))
    assert quadratic.path_distance(np.eye(2), OPTIMA[1], OPTIMA[0], best) < 1e-9
    name = "positive control: the path of stage 2 meets the combined optimum"
    yield exact(name, "Hessians multiples of I", each(best), cell.weights(cell.config.regimes[0].label))


def held_back() -> Iterator[Row]:
    """EWC with the whole Hessian is combined, exactly; with its diagonal only where the Hessian is diagonal."""
    for first, is_diagonal in ((np.diag([2.0, 0.5]), True), (SKEW, False)):
        regimes = "combined,sequential,ewc,{ewc:{strength:0.3}},{ewc:{full:true}},{l2_sp:{strength:0.7}}"
        cell = measure(lab(*quadratics(first, SECOND, (30, 10)), regimes=regimes, seeds=SEEDS), stiffness=6)
        setting = cell.setting(f"{'diagonal' if is_diagonal else 'full'} H1, n=30+10")
        fisher, hessian = np.diag(np.diag(2 * first)), 2 * SECOND
        weight = 30 / 10  # at which Dataset 1 counts as it does in combined
        for label, strength in (("ewc", 1.0), ("ewc(strength=0.3)", 0.3)):
            end = quadratic.ewc_optimum(hessian, OPTIMA[1], OPTIMA[0], fisher, strength * weight)
            yield exact(f"penalty: {label}", setting, each(end), cell.weights(label))
        end = quadratic.ewc_optimum(hessian, OPTIMA[1], OPTIMA[0], np.eye(2), 0.7)
        yield exact("penalty: l2_sp(strength=0.7)", setting, each(end), cell.weights("l2_sp(strength=0.7)"))
        combined = cell.weights("combined")
        best = quadratic.combined_optimum([2 * first, hessian], list(OPTIMA), (30, 10))
        yield exact("ewc with the full H1 = combined", setting, combined, cell.weights("ewc(full=True)"))
        if is_diagonal:
            yield exact("ewc with the diagonal of H1 = combined", setting, combined, cell.weights("ewc"))
        else:
            off = quadratic.ewc_optimum(hessian, OPTIMA[1], OPTIMA[0], fisher, weight) - best
            name = "ewc with the diagonal of H1 - combined: must differ"
            yield apart(name, setting, each(off), cell.weights("ewc") - combined, least=0.05)


def averaged() -> Iterator[Row]:
    """Learning without forgetting is an average of weights."""
    for sizes in ((8, 8), (40, 60)):
        overrides = (f"split.sizes=[{sizes[0]},{sizes[1]}]", "data.target_shift=1")
        cell = measure(lab(*overrides, regimes="sequential,lwf,{lwf:{strength:4.5}}", seeds=SEEDS), stiffness=6)
        for label, strength in (("lwf", 1.0), ("lwf(strength=4.5)", 4.5)):
            weights = []
            for parts in cell.parts:
                after1, after2 = linear.sequential_weights(np.zeros(20), parts)
                weights.append(quadratic.lwf_weights(after1, after2, 1 / (1 + strength)))
            setting = cell.setting(f"d=20, n={sizes[0]}+{sizes[1]}, shift 1")
            yield exact(f"penalty: {label} = average of weights", setting, weights, cell.weights(label))


def heavier_first() -> Iterator[Row]:
    """At the minimum of L2 + rho L1, L1 does not increase with rho: quadratics (rho a strength of EWC with the full
    Hessian), and a cross entropy (rho a ratio of sizes)."""
    rhos = (0.1, 0.3, 1.0, 3.0, 10.0)
    regimes = [f"{{ewc:{{full:true,strength:{rho}}}}}" for rho in rhos]
    cell = measure(lab(*quadratics(SKEW, SECOND, (20, 20)), regimes=",".join(regimes), seeds=SEEDS), stiffness=20)
    ends = [quadratic.combined_optimum([2 * SKEW, 2 * SECOND], list(OPTIMA), (rho, 1)) for rho in rhos]
    losses = np.array([(end - OPTIMA[0]) @ SKEW @ (end - OPTIMA[0]) for end in ends])
    labels = [regime.label for regime in cell.config.regimes]
    found = np.stack([cell.metric(label, "test/d1/excess_risk") for label in labels], axis=1)
    setting = cell.setting("quadratics, rho = .1, .3, 1, 3, 10")
    yield exact("L1 at the minimum of L2 + rho L1", setting, each(losses), found)
    yield never_rises("L1 at the minimum of L2 + rho L1", setting, found)

    before, after = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.6, 0.3])
    words = [f"split.priors={json.dumps([before.tolist(), after.tolist()])}", *TO_THE_OPTIMUM]
    words += ["regimes=[combined]", f"seeds={len(SEEDS)}"]
    expected, columns = [], []
    for n1, n2 in ((30, 300), (100, 300), (300, 300), (300, 100), (300, 30)):
        own = bias_cell(1500, f"split.sizes=[{n1},{n2}]", *words)
        assert not own.unconverged
        expected.append(-float(before @ np.log((n1 * before + n2 * after) / (n1 + n2))))
        columns.append(own.metric("combined", "test/d1/loss"))
    setting = "cross entropy of biases, rho = n1/n2 = .1 to 10"
    yield exact("L1 at the minimum of L2 + rho L1", setting, each(np.array(expected)), np.stack(columns, axis=1))
    yield never_rises("L1 at the minimum of L2 + rho L1", setting, np.stack(columns, axis=1))
