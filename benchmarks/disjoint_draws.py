"""Seeds that redraw from one finite source against seeds that each have samples of their own.

    DATA_ROOT=... python -m benchmarks.disjoint_draws [--pieces 12] [--size 2000]        minutes of processor time

MNIST's 70,000 images are dealt into pieces that share no image. Sequential and combined are compared, as in claim=combined-wins-iid at
20 epochs, (a) on every piece with as many seeds as there are pieces, which redraw their training and test sets from that piece and
overlap, and (b) with seed k on piece k alone, so that no two seeds share an image. If redrawing understates the variation, the seeds
of one piece scatter less around their mean than (b), the means of pieces scatter by more than their seeds explain, and the 95 %
intervals of single pieces miss the mean of all pieces in more than 5 %.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records
from src.comparison.statistics import sign_flip_interval, sign_flip_p
from src.config import compose

Floats = NDArray[np.float64]
RECIPE = (
    "trainer=cpu",
    "tracking=off",
    "regimes=[sequential,combined]",
    "data=arrays",
    "split.size=400",
    "split.test=0.2",
    "optimizer.lr=0.02",
    "trainer.curve_points=1",
)


def measured(pieces: int, size: int, folder: Path) -> Floats:
    """Combined's accuracy on the union less sequential's, [pieces, seeds]."""
    source = compose(["data=mnist"]).data.load(folder)
    order = np.random.default_rng(0).permutation(len(source.y))[: pieces * size].reshape(pieces, size)
    rows = []
    for piece, chosen in enumerate(order):
        path = folder / f"piece{piece}.npz"
        np.savez(path, x=source.bank.x[chosen].numpy(), y=source.y[chosen].numpy())
        words = (f"data.path={path}", f"seeds={pieces}", f"multirun={folder}", f"sweep=piece{piece}")
        assert not run_cell(resolve(compose([*RECIPE, *words]))).failures
        runs = load_records(folder / f"piece{piece}").runs
        value = {(run.regime, run.seed): run.result["metrics"]["test/union/accuracy"] for run in runs}
        rows.append([value["combined", seed] - value["sequential", seed] for seed in range(pieces)])
    return np.array(rows)


def table(values: Floats) -> str:
    """What the docstring promises, in points."""
    points, n = 100 * values, len(values)
    low, high = sign_flip_interval(points)
    inside = int(((low <= points.mean()) & (points.mean() <= high)).sum())
    within, own = points.std(axis=1, ddof=1), np.diag(points)
    return "\n".join(
        [
            f"{n} pieces, {n} seeds; combined - sequential, points",
            f"mean of all {points.mean():+.2f}; of disjoint draws {own.mean():+.2f}, p = {float(sign_flip_p(own)):.3f}",
            f"standard deviation over seeds: of one piece {np.sqrt((within**2).mean()):.2f}, of disjoint draws {own.std(ddof=1):.2f}",
            f"of the pieces' means {points.mean(axis=1).std(ddof=1):.2f}; their seeds explain {np.sqrt((within**2).mean() / n):.2f}",
            f"95 % intervals of one piece that hold the mean of all: {inside} of {n}",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=12)
    parser.add_argument("--size", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(table(measured(given.pieces, given.size, Path(temporary))))
