"""What moves LwF and EWC on split MNIST from the values of van de Ven & Tolias 2018 (conf/anchor/vandeven-*.yaml): a plain torch loop.

    DATA_ROOT=... python -m benchmarks.vandeven [--seeds 3] [--rows lwf|ewc]      2 to 3 minutes of processor time a row and seed

Five tasks of two digits, drawn anew for each seed, MLP 784-400-400 with ReLU, Adam at 0.001 whose state is kept, batches of 128, 2,000
updates a task. The rows differ in two places where the authors' code of 2018 (GMvandeVen/continual-learning, utils.py and
continual_learner.py) is not what its paper's formulas say, and where this project follows the formulas:

- its distillation loss is the mean over the batch *and over the outputs*, so it weighs 1/2k of the formula in task k between classes;
- its Fisher information takes the gradient of the likeliest label alone, in place of the mean over all labels, each with its
  probability; a network sure of its outputs then has almost none.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, pad, softmax

from benchmarks.flat_mnist import Images, flat_mnist

N_TASKS, UPDATES, BATCH, TEMPERATURE, STRENGTH = 5, 2_000, 128, 2.0, 5_000


@dataclass(frozen=True)
class Row:
    """One way to train.

    `by_class`: ten outputs, a softmax over the digits so far; otherwise even or odd of a task, two outputs. `lwf`: the mean
    of the distillation loss over "batch" or "all" elements. `ewc`: Fisher information of "every" or of the "likeliest"
    label. `each`: a penalty around the weights at the end of each task, in place of one around the latest.
    """

    by_class: bool
    published: float
    lwf: str = ""
    ewc: str = ""
    each: bool = False


ROWS: dict[str, Row] = {
    "LwF, between classes, as the formula": Row(True, 24.17, lwf="batch"),
    "LwF, between classes, as the code of 2018": Row(True, 24.17, lwf="all"),
    "LwF, between domains, as the code of 2018": Row(False, 71.02, lwf="all"),
    "EWC, between domains, one penalty, every label": Row(False, 57.80, ewc="every"),
    "EWC, between domains, one penalty a task, every label": Row(False, 57.80, ewc="every", each=True),
    "EWC, between domains, as the code of 2018": Row(False, 57.80, ewc="likeliest", each=True),
    "plain, between domains": Row(False, float("nan")),
}


def distillation(outputs: Tensor, targets: Tensor, mean: str) -> Tensor:
    """Cross entropy of softened outputs from softened targets, times T^2; classes that the teacher lacks get target 0."""
    wanted = pad(softmax(targets / TEMPERATURE, 1), (0, outputs.shape[1] - targets.shape[1]))
    terms = -wanted * log_softmax(outputs / TEMPERATURE, 1)
    return TEMPERATURE**2 * (terms.mean() if mean == "all" else terms.sum(1).mean())


def fisher(model: nn.Sequential, x: Tensor, labels: str) -> list[Tensor]:
    """Diagonal Fisher information, mean over the samples `x` [N, 784], one tensor a parameter.

    The squared gradient of a linear layer's weights for one sample is the outer product of its squared output gradient and
    its squared input.
    """
    totals = [torch.zeros_like(weight) for weight in model.parameters()]
    for part in x.split(1000):  # type: ignore[no-untyped-call]
        inputs, values = [], part
        for layer in model:
            if isinstance(layer, nn.Linear):
                inputs.append(values.detach())
            values = layer(values)
            if isinstance(layer, nn.Linear):
                values.retain_grad()
                inputs.append(values)
        chances = softmax(values.detach(), 1)
        for label in range(values.shape[1]):
            counted = chances[:, label] if labels == "every" else (chances.argmax(1) == label).float()
            model.zero_grad()
            for tensor in inputs[1::2]:
                tensor.grad = None
            (-log_softmax(values, 1)[:, label].sum()).backward(retain_graph=True)  # type: ignore[no-untyped-call]
            for i, (seen, outputs) in enumerate(zip(inputs[::2], inputs[1::2], strict=True)):
                assert outputs.grad is not None
                squared = outputs.grad.square() * counted[:, None]
                totals[2 * i] += squared.T @ seen.square()
                totals[2 * i + 1] += squared.sum(0)
    return [total / len(x) for total in totals]


def accuracy(row: Row, train: Images, test: Images, seed: int) -> float:
    """Accuracy after the last task in %, the mean over the tasks."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_outputs = 10 if row.by_class else 2
    model = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, n_outputs))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    place = torch.empty(10, dtype=torch.long)
    place[torch.from_numpy(rng.permutation(10))] = torch.arange(10)

    def of_task(images: Images, task: int) -> Images:
        ours = place[images[1]] // 2 == task
        labels = place[images[1][ours]]
        return images[0][ours], labels if row.by_class else labels % 2

    teacher, anchors, precisions = None, list[list[Tensor]](), list[list[Tensor]]()
    for task in range(N_TASKS):
        x, y = of_task(train, task)
        order, n_known = np.empty(0, int), 2 * task if row.by_class else 2
        n_active = n_known + 2 if row.by_class else 2
        for _ in range(UPDATES):
            if len(order) < BATCH:  # the rest of a pass is dropped, as there
                order = rng.permutation(len(y))
            rows, order = order[:BATCH], order[BATCH:]
            outputs = model(x[rows])[:, :n_active]
            loss = cross_entropy(outputs, y[rows])
            if row.lwf and teacher is not None:
                with torch.no_grad():
                    targets = teacher(x[rows])[:, :n_known]
                share = 1 / (task + 1)
                loss = share * loss + (1 - share) * distillation(outputs, targets, row.lwf)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for means, weights in zip(anchors, precisions, strict=True):
                for own, mean, weight in zip(model.parameters(), means, weights, strict=True):
                    assert own.grad is not None
                    own.grad.addcmul_(weight, own.detach() - mean, value=STRENGTH)
            optimizer.step()
        teacher = copy.deepcopy(model)
        if row.ewc:
            information = fisher(model, x, row.ewc)
            latest = [weight.detach().clone() for weight in model.parameters()]
            if anchors and not row.each:
                information = [a + b for a, b in zip(information, precisions.pop(), strict=True)]
                anchors.clear()
            anchors.append(latest)
            precisions.append(information)
    with torch.no_grad():
        found = [of_task(test, task) for task in range(N_TASKS)]
        return 100 * float(np.mean([float((model(x).argmax(1) == y).float().mean()) for x, y in found]))


def main(seeds: int, rows: str) -> None:
    torch.set_num_threads(1)
    train, test = flat_mnist()
    for name, row in ROWS.items():
        if rows.lower() in name.lower():
            values = np.array([accuracy(row, train, test, seed) for seed in range(seeds)])
            spread = f" ± {values.std(ddof=1):.2f}" if seeds > 1 else ""
            print(f"{name:54} {values.mean():.2f}{spread} (n = {seeds}; published {row.published:.2f})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default="", help="rows whose name contains this")
    given = parser.parse_args()
    main(given.seeds, given.rows)
