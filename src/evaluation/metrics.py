"""Metrics of many models at once, from their outputs on weighted samples.

R is the number of models scored side by side (replicas), n that of samples, K that of outputs. Labels and weights are
the models' own, [R, n], or shared by all, [n]. A model's metrics have the same bits for every number of models.
Everything is computed in float64. An undefined metric is NaN here and None in the result of `score`, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from src.data.stream import Evaluations
from src.evaluation.heads import in_own_head

N_CALIBRATION_BINS = 15
METRICS = ("accuracy", "loss", "balanced_accuracy", "ece")
REGRESSION_METRICS = ("rmse", "r2")
"""What a regression has besides those."""
LARGEST = 2.0**64
"""The largest weight or output of a model that has not diverged: single precision cannot hold the square of a larger
one."""

Loss = Literal["cross_entropy", "mse"]
MetricValues = dict[str, Tensor]
"""Name of a metric to its value for each model, float64 [R]."""


class RatedClasses(NamedTuple):
    """What the metrics of a classification need of every sample, whatever its weight: [R, n] each."""

    n_classes: int
    y: Tensor
    correct: Tensor
    excess: Tensor
    """1 or 0 for a right or wrong prediction, minus its confidence."""
    bins: Tensor
    """The bin of the confidence."""
    losses: Tensor
    is_bounded: Tensor

    @classmethod
    def of(cls, logits: Tensor, y: Tensor, loss: Loss) -> RatedClasses:
        """Rates samples. `logits`: [R, n, K], or [n, K] for one model (then R = 1). `y`: int64 [R, n] or [n]."""
        logits, y = _prepared(logits, y)
        n_classes = logits.shape[-1]
        assert y.shape == logits.shape[:-1], (y.shape, logits.shape)
        assert bool(((y >= 0) & (y < n_classes)).all()), f"labels outside 0..{n_classes - 1}"
        logits, bounded = _bounded(logits)
        confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
        correct = (predicted == y).to(torch.float64)
        inner_edges = torch.linspace(0, 1, N_CALIBRATION_BINS + 1, dtype=torch.float64, device=logits.device)[1:-1]
        bins = torch.bucketize(confidence, inner_edges)
        return cls(n_classes, y, correct, correct - confidence, bins, sample_losses(logits, y, loss), bounded)

    def metrics(self, weights: Tensor) -> MetricValues:
        """accuracy, loss, balanced_accuracy, ece and recall/<class>, each a weighted mean over samples.

        `weights`: >= 0, [R, n] or [n], with any sum. `balanced_accuracy`: mean recall over the classes that have
        weight. `ece`: expected calibration error in 15 bins of equal width, closed on the right (Guo et al. 2017,
        eq. 5): the sum over bins of |accuracy - confidence|, by weight. With equal weights these are torchmetrics'
        values, except that its ECE gives a confidence of exactly 1 a bin of its own. Undefined: everything where no
        sample has weight or an output of a sample that has weight is not bounded; the recall of a class without weight.
        """
        weights = _checked(weights, self.y)
        total = _sums(weights)
        class_weight = _sums_by_group(weights, self.y, self.n_classes)
        class_hits = _sums_by_group(weights * self.correct, self.y, self.n_classes)
        recall = class_hits / class_weight  # 0 / 0 is NaN: undefined
        gap = _sums_by_group(weights * self.excess, self.bins, N_CALIBRATION_BINS)
        scores = {
            "accuracy": class_hits.sum(dim=-1) / total,
            "loss": _sums(weights * self.losses) / total,
            "balanced_accuracy": recall.nanmean(dim=-1),
            "ece": gap.abs().sum(dim=-1) / total,
        }
        scores |= {f"recall/{k}": values for k, values in enumerate(recall.unbind(-1))}
        return _defined(scores, self.is_bounded, weights)


class RatedTargets(NamedTuple):
    """What the metrics of a regression need of every sample: [R, n], and [R, n, K] of predictions and targets."""

    losses: Tensor
    is_bounded: Tensor
    predictions: Tensor
    targets: Tensor

    @classmethod
    def of(cls, predictions: Tensor, targets: Tensor) -> RatedTargets:
        """Rates samples. `predictions`, `targets`: [R, n, K] or [n, K]."""
        predictions, targets = _prepared(predictions, targets)
        assert targets.shape == predictions.shape, (targets.shape, predictions.shape)
        predictions, bounded = _bounded(predictions)
        targets = targets.to(torch.float64)
        return cls(sample_losses(predictions, targets, "mse"), bounded, predictions, targets)

    def metrics(self, weights: Tensor) -> MetricValues:
        """loss, rmse and r2, weighted. `weights`: [R, n] or [n].

        loss: the mean squared error, not halved, mean over target columns; the excess risk is this minus the variance
        of the targets' noise. rmse: its root, in the targets' unit. r2: 1 - mean squared error / variance of the
        targets, mean over the columns that vary; with equal weights torchmetrics' value.
        """
        weights = _checked(weights, self.losses)
        loss = _sums(weights * self.losses) / _sums(weights)
        columns = zip(self.predictions.unbind(-1), self.targets.unbind(-1), strict=True)
        explained = torch.stack([_r2(*column, weights) for column in columns], -1)
        scores = {"loss": loss, "rmse": loss.sqrt(), "r2": explained.nanmean(dim=-1)}
        return _defined(scores, self.is_bounded, weights)


def _r2(predictions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """1 - mean squared error / variance of one column [R, n]: [R]; NaN where the targets do not vary."""
    mean = _sums(weights * targets) / _sums(weights)
    spread = _sums(weights * (targets - mean.unsqueeze(-1)).square())
    return (1 - _sums(weights * (predictions - targets).square()) / spread).where(spread > 0, math.nan)


def sample_losses(outputs: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The loss of every sample: `outputs` [R, n, K] and `y`, classes [R, n] or targets [R, n, K], to [R, n].

    ``cross_entropy``: in nats. ``mse``: squared error, not halved, mean over the K columns; classes count as one-hot
    rows.
    """
    if loss == "cross_entropy":
        return _surprise(outputs.log_softmax(dim=-1), y)
    if not y.is_floating_point():
        y = torch.nn.functional.one_hot(y, outputs.shape[-1]).to(outputs.dtype)
    return (outputs - y).square().mean(dim=-1)


def smoothed_losses(outputs: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross entropy with labels (1 - smoothing) one-hot + smoothing/K (Szegedy 2016): [R, n, K], [R, n] -> [R, n]."""
    log_p = outputs.log_softmax(dim=-1)
    return (1 - smoothing) * _surprise(log_p, y) - smoothing * log_p.mean(dim=-1)


def _surprise(log_p: Tensor, y: Tensor) -> Tensor:
    """-log p of the classes y [...], of log-probabilities [..., K].

    On a GPU the deterministic gradient of `gather` sorts its indices; that of `nll_loss`, with the same bits, does not.
    """
    if log_p.is_cuda:
        flat = torch.nn.functional.nll_loss(log_p.flatten(0, -2), y.flatten(), reduction="none")
        return flat.view(y.shape)
    return -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)


def constant_loss(y: Tensor, n_outputs: int, loss: Loss) -> float:
    """The lowest mean loss that one prediction for all samples reaches: `y`, classes [n] or targets [n, K].

    The cross-entropy of the class shares in nats, or the variance of the targets.
    """
    if y.is_floating_point():
        return float(y.double().var(dim=0, correction=0).mean())
    shares = torch.bincount(y, minlength=n_outputs).double() / len(y)
    return float(-torch.xlogy(shares, shares).sum() if loss == "cross_entropy" else (shares * (1 - shares)).mean())


_Rated = RatedClasses | RatedTargets


def score(
    evaluations: Sequence[Evaluations],
    outputs: Sequence[Tensor],
    loss: Loss,
    sets: Sequence[str],
    mask: Tensor | None = None,
) -> list[dict[str, float | None]]:
    """Each model's metrics on the named `sets`: one dict per model, of "d1/accuracy", ..., "union/recall/3" to a
    number.

    `evaluations`: one per model, with equally long pools; `outputs[pool]`: [R, len(pool), K]. None where undefined: on
    a set that the evaluations lack (an empty data set), and accuracy, balanced_accuracy and ece of a regression, which
    has rmse and r2 too. Recalls are given for `union`. `mask`: see `src.evaluation.heads`.
    """
    pools = range(len(evaluations[0].pools))
    assert len(outputs) == len(pools) > 0, "one tensor of outputs per pool"
    labels = [torch.stack([one.pools[pool].y for one in evaluations]) for pool in pools]
    is_regression = labels[0].is_floating_point()
    rate = RatedTargets.of if is_regression else partial(RatedClasses.of, loss=loss)
    rated = [rate(in_own_head(output.cpu(), y, mask), y) for output, y in zip(outputs, labels, strict=True)]
    rows: list[dict[str, float | None]] = [{} for _ in evaluations]
    for name in sets:
        # a pool without weight only adds zeros, most of the time in a stream of 20 data sets
        used = [pool for pool in pools if any(pool in _weights_of(one, name) for one in evaluations)] or list(pools)
        has_recalls = name == "union" and not is_regression
        metrics = [*METRICS, *(REGRESSION_METRICS if is_regression else ())]
        metrics += [f"recall/{k}" for k in range(outputs[0].shape[-1] if has_recalls else 0)]
        weights = torch.stack([_set_weights(one, name, used) for one in evaluations])
        scores = _joined([rated[pool] for pool in used]).metrics(weights)
        for metric in metrics:
            values = scores[metric].tolist() if metric in scores else [math.nan] * len(rows)
            for row, value in zip(rows, values, strict=True):
                row[f"{name}/{metric}"] = value if math.isfinite(value) else None
    return rows


def _weights_of(evaluations: Evaluations, name: str) -> Mapping[int, Tensor]:
    """The set's weights by pool; none if there is no such set."""
    return evaluations.sets[name].weights if name in evaluations.sets else {}


def _set_weights(evaluations: Evaluations, name: str, pools: Sequence[int]) -> Tensor:
    """The set's weights [n] of the samples of these pools, in order; zeros if there is no such set."""
    chosen = _weights_of(evaluations, name)
    return torch.cat([chosen.get(k, torch.zeros(len(evaluations.pools[k]))).double() for k in pools])


def _prepared(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs as float64 [R, n, K] and labels [R, n, ...]."""
    outputs = outputs.detach().to(torch.float64)
    outputs = outputs.unsqueeze(0) if outputs.ndim == 2 else outputs
    assert outputs.ndim == 3, outputs.shape
    n_label_dims = 2 if y.is_floating_point() else 1  # targets have columns
    y = y.to(outputs.device)
    return outputs, y.expand(len(outputs), *y.shape) if y.ndim == n_label_dims else y


def _bounded(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs [R, n, K] with 0 for all of a sample of which one is not bounded, and whether all are, [R, n].

    So a sample without weight adds 0, whatever its outputs.
    """
    bounded = is_bounded(outputs).all(dim=-1)
    return outputs.where(bounded.unsqueeze(-1), 0.0), bounded


def _checked(weights: Tensor, like: Tensor) -> Tensor:
    """Weights as float64 [R, n]."""
    weights = weights.to(like.device, torch.float64).expand(like.shape)
    assert bool((weights >= 0).all()), "weights are >= 0"
    return weights


def _joined(parts: Sequence[_Rated]) -> _Rated:
    """The samples of several pools as one."""
    if len(parts) == 1:
        return parts[0]
    tensors = [name for name in parts[0]._fields if isinstance(getattr(parts[0], name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in tensors}
    return parts[0]._replace(**joined)


def _sums_by_group(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Sums of `values` [R, n] by their group [R, n]: [R, n_groups].

    Each model's values are added up in the order of the samples, so their bits do not depend on the number of models.
    """
    sums = torch.zeros(len(values), n_groups, dtype=values.dtype, device=values.device)
    return sums.scatter_add_(1, groups, values)


def _sums(values: Tensor) -> Tensor:
    """Sums of `values` [R, n] over samples: [R]."""
    return _sums_by_group(values, torch.zeros_like(values, dtype=torch.int64), 1).squeeze(1)


def _defined(scores: MetricValues, bounded: Tensor, weights: Tensor) -> MetricValues:
    """The scores, NaN for each model that has an output which is not bounded, of a sample with weight."""
    defined = (bounded | (weights == 0)).all(dim=-1)
    return scores if bool(defined.all()) else {name: values.where(defined, math.nan) for name, values in scores.items()}


def is_bounded(values: Tensor) -> Tensor:
    """Whether each weight or output is a number of at most `LARGEST`: the one rule by which a model has diverged."""
    return values.abs() <= LARGEST
