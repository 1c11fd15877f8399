"""Error rates of the verdicts: false alarms, power and equivalence of the sign-flip test, compared with the bootstrap.

    python -m benchmarks.false_alarms                                            synthetic differences, 10 seeds, 5 s
    python -m benchmarks.false_alarms --train --comparisons 1000                 real trainings, minutes
    python -m benchmarks.false_alarms --runs multirun/NAME --regime combined     existing runs

Real A/A comparisons: the runs of one regime are split into blocks of 2n seeds, and the first n of a block are paired with the
last n as if they were two regimes, so each run is used once: 1,000 comparisons at n = 10 need 20,000 trainings. Power and
equivalence are measured by adding an effect to the differences, whose own mean is 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.comparison.pairing import by_cell, load_records
from src.comparison.statistics import equivalence_p, non_inferiority_p, sign_flip_interval, sign_flip_p

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""From a generator and (comparisons, seeds) to paired differences of that shape."""

ALPHA = 0.05
N_RESAMPLES = 2_000

EXCHANGEABLE: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 3 df)": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed values (exponential)": lambda rng, shape: rng.exponential(size=shape) - rng.exponential(size=shape),
    "accuracies k/359 near 0.93": lambda rng, shape: (
        (rng.binomial(359, 0.93, shape) - rng.binomial(359, 0.93, shape)) / 359
    ),
    "accuracies k/20 near 0.9": lambda rng, shape: (rng.binomial(20, 0.9, shape) - rng.binomial(20, 0.9, shape)) / 20,
    "unequal spread of seeds": lambda rng, shape: rng.normal(size=shape) * rng.lognormal(0, 1, shape),
}
"""A/A: both sides have one distribution, so the differences are symmetric around 0 whatever its shape."""

SKEWED: Draw = lambda rng, shape: rng.exponential(size=shape) - 1.0  # noqa: E731 - like the entries above, but not A/A
"""Asymmetric differences of mean 0, which violate the assumption of the test; they show how much it matters."""


# ------------------------------------------------------------------------------------------------ rates


def alarm_rate(differences: Floats, alpha: float = ALPHA) -> float:
    """Share of comparisons, rows of [comparisons, seeds], that the sign-flip test rejects."""
    return float(np.mean(sign_flip_p(differences) <= alpha))


def bootstrap_alarm_rate(differences: Floats, rng: np.random.Generator, alpha: float = ALPHA) -> float:
    """The same for the percentile bootstrap interval of the mean."""
    n = differences.shape[1]
    alarms = 0
    for row in differences:
        means = row[rng.integers(0, n, (N_RESAMPLES, n))].mean(axis=1)
        low, high = np.quantile(means, (alpha / 2, 1 - alpha / 2))
        alarms += bool(low > 0 or high < 0)
    return alarms / len(differences)


def coverage(differences: Floats, truth: float, alpha: float = ALPHA) -> float:
    """Share of comparisons whose interval covers the true mean."""
    low, high = sign_flip_interval(differences, alpha=alpha)
    return float(np.mean((low <= truth) & (truth <= high)))


def alarm_bound(n_comparisons: int, alpha: float = ALPHA) -> float:
    """Two standard errors above alpha: the bound on a rate over `n_comparisons`."""
    return alpha + 2 * float(np.sqrt(alpha * (1 - alpha) / n_comparisons))


def paired(values: Sequence[float], n: int) -> Floats:
    """Differences [comparisons, n]: of every 2n values, the first n minus the last n; an incomplete block is dropped."""
    blocks = np.array(values, np.float64)[: len(values) // (2 * n) * 2 * n].reshape(-1, 2, n)
    return blocks[:, 0] - blocks[:, 1]


def real_differences(sweep_dir: Path, regime: str, metric: str, n: int) -> Floats:
    """A/A differences [comparisons, n] from the runs of one regime with disjoint seeds."""

    found = []
    for runs in by_cell(run for run in load_records(sweep_dir).runs if run.regime == regime).values():
        values = [run.metric(metric) for run in sorted(runs, key=lambda run: run.seed)]
        found.append(paired([value for value in values if value is not None], n))
    differences = np.concatenate([*found, np.empty((0, n))])
    if differences.size == 0:
        raise SystemExit(f"{sweep_dir}: no cell has {2 * n} finished runs of {regime} with a value of {metric}")
    return differences


# ------------------------------------------------------------------------------------------------ the study


def rates(n_comparisons: int, n: int, rng: np.random.Generator) -> Iterator[tuple[str, str, float, str]]:
    """Rows of the table: question, differences, rate, nominal rate."""
    shape = (n_comparisons, n)
    bound = f"<= {alarm_bound(n_comparisons):.1%}"
    for name, draw in EXCHANGEABLE.items():
        yield "A/A called different", name, alarm_rate(draw(rng, shape)), bound
    yield "mean 0, called different", "skewed differences (no A/A)", alarm_rate(SKEWED(rng, shape)), "no guarantee"
    normal = rng.normal(size=shape)
    yield "A/A, percentile bootstrap", "normal", bootstrap_alarm_rate(normal, rng), "about 10 % at n = 10"
    yield "interval holds the mean", "normal", coverage(normal, 0.0), f">= {1 - alarm_bound(n_comparisons):.1%}"
    planted = rng.normal(1.2, 1.0, shape)
    yield "1.2 SD found", "normal", alarm_rate(planted), ">= 85 % at n = 10"
    yield "1.2 SD found at alpha/12", "normal", alarm_rate(planted, ALPHA / 12), "reported"
    discrete = EXCHANGEABLE["accuracies k/359 near 0.93"](rng, shape)
    at_margin = discrete + 7 / 359
    yield (
        "equivalent at the margin",
        "normal, margin 1 SD",
        _share(equivalence_p(rng.normal(1.0, 1.0, shape), 1.0)),
        bound,
    )
    yield "equivalent at the margin", "k/359, margin 7/359", _share(equivalence_p(at_margin, 7 / 359)), bound
    yield (
        "no worse at -margin",
        "normal, margin 1 SD",
        _share(non_inferiority_p(rng.normal(-1.0, 1.0, shape), 1.0)),
        bound,
    )
    yield "equivalent at no effect", "normal, margin 1 SD", _share(equivalence_p(normal, 1.0)), "about 79 % at n = 10"
    yield "equivalent at no effect", "normal, margin 0.5 SD", _share(equivalence_p(normal, 0.5)), "about 7 % at n = 10"


def real_rates(differences: Floats, name: str, rng: np.random.Generator) -> Iterator[tuple[str, str, float, str]]:
    """The same rows for real A/A differences [comparisons, n]; effects are in standard deviations of all differences."""
    bound, sd = f"<= {alarm_bound(len(differences)):.1%}", float(differences.std(ddof=1))
    yield "A/A called different", name, alarm_rate(differences), bound
    yield "A/A, percentile bootstrap", name, bootstrap_alarm_rate(differences, rng), "about 10 % at n = 10"
    yield "interval holds the mean", name, coverage(differences, 0.0), f">= {1 - alarm_bound(len(differences)):.1%}"
    planted = differences + 1.2 * sd
    yield "1.2 SD found", name, alarm_rate(planted), ">= 85 % at n = 10"
    yield "1.2 SD found at alpha/12", name, alarm_rate(planted, ALPHA / 12), "reported"
    for share in (1.0, 0.5):
        at_margin = equivalence_p(differences + share * sd, share * sd)
        yield "equivalent at the margin", f"{name}, margin {share:g} SD", _share(at_margin), bound
    no_worse = non_inferiority_p(differences - sd, sd)
    yield "no worse at -margin", f"{name}, margin 1 SD", _share(no_worse), bound
    yield (
        "equivalent at no effect",
        f"{name}, margin 1 SD",
        _share(equivalence_p(differences, sd)),
        "about 79 % at n = 10",
    )


def _share(p_values: Floats) -> float:
    return float(np.mean(p_values <= ALPHA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=10, help="number of paired differences in a comparison")
    parser.add_argument("--random-seed", type=int, default=0)
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--train", action="store_true", help="train 2 x seeds tiny networks for every comparison")
    real.add_argument("--runs", type=Path, help="folder of a sweep; its runs give the comparisons")
    parser.add_argument("--regime", default="sequential", help="for --train and --runs")
    parser.add_argument("--metric", default="test/union/accuracy", help="for --train and --runs")
    options = parser.parse_args()
    rng = np.random.default_rng(options.random_seed)
    if options.train or options.runs:
        if options.train:
            from benchmarks.tiny_trainings import trained_values

            seeds = range(2 * options.seeds * options.comparisons)
            differences = paired(trained_values(seeds, options.regime, options.metric).tolist(), options.seeds)
        else:
            differences = real_differences(options.runs, options.regime, options.metric, options.seeds)
        name = f"{options.regime}, {len(differences):,} comparisons"
        print(f"standard deviation of a difference: {differences.std(ddof=1):.4f}, mean {differences.mean():+.5f}\n")
        rows = list(real_rates(differences, name, rng))
    else:
        rows = list(rates(options.comparisons, options.seeds, rng))
    print("| question | differences | rate | should be |\n| --- | --- | ---: | --- |")
    for question, differences, rate, wanted in rows:
        print(f"| {question} | {differences} | {rate:.1%} | {wanted} |")


if __name__ == "__main__":
    main()
