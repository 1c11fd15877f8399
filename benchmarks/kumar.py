"""What moves the online accuracy of Kumar et al. 2023 (conf/anchor/kumar-l2-init.yaml): a plain torch loop of the authors' protocol.

    DATA_ROOT=... python -m benchmarks.kumar [--seeds 2]         20 s of processor time a row and seed

20 permuted MNIST tasks of 10,000 images, one epoch each, MLP 784-100-100-10, Adam at 0.001 whose state is kept, batches of 16, loss +
strength/2 |w - w0|^2. Each row changes one thing; published: online accuracy 81.1, backward transfer -63.4.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.flat_mnist import Images, flat_mnist

N_TASKS, N_IMAGES, BATCH = 20, 10_000, 16
ROWS: dict[str, tuple[float, bool, bool]] = {
    "as the authors' code: pixels -1 to 1, strength 0.001": (0.001, True, False),
    "strength 0.002": (0.002, True, False),
    "strength 0": (0.0, True, False),
    "pixels 0 to 1": (0.001, False, False),
    "pixels 0 to 1, strength 0.002": (0.002, False, False),
    "strength 0.002, the same images in every task": (0.002, True, True),
}
"""Strength, whether pixels go from -1 to 1, whether all tasks have the same images."""


def measured(
    train: Images, test: Images, seed: int, strength: float, *, signed: bool, same: bool
) -> tuple[float, float]:
    """Online accuracy and backward transfer, in % and points."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    hidden = (nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU())
    model = nn.Sequential(*hidden, nn.Linear(100, 10))
    initial = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    (x, y), (x_test, y_test) = ((2 * x - 1 if signed else x, y) for x, y in (train, test))
    first = rng.permutation(len(y))[:N_IMAGES]
    hits, permutations, learned = 0, [], []

    def accuracy(permutation: np.ndarray) -> float:
        with torch.no_grad():
            return float((model(x_test[:, permutation]).argmax(1) == y_test).float().mean())

    for task in range(N_TASKS):
        permutations.append(rng.permutation(784) if task else np.arange(784))
        chosen = rng.permutation(first) if same else rng.permutation(len(y))[:N_IMAGES]
        for start in range(0, N_IMAGES, BATCH):
            rows = chosen[start : start + BATCH]
            outputs = model(x[rows][:, permutations[-1]])
            hits += int((outputs.argmax(1) == y[rows]).sum())
            optimizer.zero_grad()
            cross_entropy(outputs, y[rows]).backward()  # type: ignore[no-untyped-call]
            for weight, w0 in zip(model.parameters(), initial, strict=True):
                assert weight.grad is not None
                weight.grad.add_(weight.detach() - w0, alpha=strength)
            optimizer.step()
        learned.append(accuracy(permutations[-1]))
    transfer = np.mean([accuracy(p) - a for p, a in zip(permutations[:-1], learned[:-1], strict=True)])
    return 100 * hits / (N_TASKS * N_IMAGES), 100 * float(transfer)


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    train, test = flat_mnist()
    for name, (strength, signed, same) in ROWS.items():
        values = np.array([measured(train, test, seed, strength, signed=signed, same=same) for seed in range(seeds)])
        texts = (f"{a:.1f} ± {s:.1f}" for a, s in zip(values.mean(0), values.std(0, ddof=1), strict=True))
        print(f"{name:56}", "online {}, backward transfer {}".format(*texts), f"(n = {seeds})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    main(parser.parse_args().seeds)
