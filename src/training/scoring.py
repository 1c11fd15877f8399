"""Scores of models on held-out samples.

While a group trains: on shared pools by class, from which the metrics of any set follow. After training: every metric
of the test sets, one plain model at a time, so that a score's bits depend on the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor, nn

from src.config import Config
from src.data.stream import Evaluations, EvaluationSet, Samples, Stream
from src.evaluation.heads import has_only, in_own_head, test_mask
from src.evaluation.metrics import Loss, is_bounded, sample_losses, score
from src.evaluation.population import population_risks
from src.models.build import build_model
from src.models.structure import memory_layout
from src.training.devices import Device
from src.training.feed import Table
from src.training.replicas import Replicas
from src.training.result import Curves

Floats = NDArray[np.float64]
PoolScores = Floats
"""Recall and loss of R models on P pools, means over the pool's samples of each class (before classes share a label):
[2, P, R, n_classes]. A regression has one class and no recall (NaN)."""

EVALUATION_BATCH = 256
"""Rows evaluated at once, per model: their activations stay in the cache (the small CNN on 32x32 images takes 86 us a
row at 256, 156 us at 1,024), and the rows of twelve models do not fill the memory."""


class Scorer:
    """Scores the models of a group on pools: `pools[r]` are the pools of model r, equally many and equally long.

    `mask`, `classes`: see `src.evaluation.heads`; the classes that the head has."""

    def __init__(
        self,
        pools: Sequence[Sequence[Samples]],
        n_outputs: int,
        loss: Loss,
        device: Device,
        mask: Tensor | None,
        classes: Sequence[int],
    ) -> None:
        self.pools, self.loss, self.device, self.mask, self.classes = pools, loss, device, mask, classes
        self.table = Table(list(pools), device)
        self.labels = [torch.stack([models[p].y for models in pools]) for p in range(len(pools[0]))]
        sizes = [len(pool) for pool in pools[0]]
        starts = np.cumsum([0, *sizes])
        self.rows = [
            torch.stack([rows[start : start + size] for rows in self.table.rows])
            for start, size in zip(starts[:-1], sizes, strict=True)
        ]
        self.groups = [np.stack([models[p].groups for models in pools]) for p in range(len(pools[0]))]
        shared = max((int(groups.max()) + 1 for groups in self.groups if groups.size), default=1)
        self.n_classes = 1 if self.labels[0].is_floating_point() else max(n_outputs, shared)

    def weights(self, model: int, chosen: EvaluationSet) -> Mapping[int, Floats]:
        """The class weights of a set over the model's pools."""
        return class_weights(chosen, self.pools[model], self.n_classes)

    def score(self, replicas: Replicas) -> PoolScores:
        """Scores of every pool under the current weights, in evaluation mode."""
        was_training = replicas.training
        replicas.eval()
        with torch.no_grad():
            each = zip(self.rows, self.labels, self.groups, strict=True)
            scores = np.stack([self._pool(replicas, *one) for one in each], axis=1)
        replicas.train(was_training)
        return scores

    def _pool(self, replicas: Replicas, rows: Tensor, y: Tensor, groups: NDArray[np.int64]) -> Floats:
        losses, hits, device = [], [], self.device.torch_device
        both = (torch.split(tensor, EVALUATION_BATCH, dim=1) for tensor in (rows, y.to(device)))
        for batch, labels in zip(*both, strict=True):
            outputs = replicas(self.table.take(batch.to(device)))
            outputs = in_own_head(has_only(outputs, self.classes), labels, self.mask)
            if labels.is_floating_point():
                labels = labels.to(outputs.dtype)
            sample_loss = sample_losses(outputs, labels, self.loss).double()
            is_defined = is_bounded(outputs).all(-1) & sample_loss.isfinite()
            losses.append(sample_loss.where(is_defined, math.inf).cpu())
            if not labels.is_floating_point():
                hits.append((outputs.argmax(-1) == labels).double().cpu())
        loss = torch.cat(losses, 1).numpy()
        if not hits:
            return np.stack([np.full((len(loss), 1), np.nan), loss.mean(1, keepdims=True)])
        return np.stack([self._by_class(torch.cat(hits, 1).numpy(), groups), self._by_class(loss, groups)])

    def _by_class(self, values: Floats, groups: NDArray[np.int64]) -> Floats:
        """Means per class [R, n_classes]; NaN where the pool has no sample of a class."""
        out = np.full((len(values), self.n_classes), np.nan)
        for r, (row, group) in enumerate(zip(values, groups, strict=True)):
            counts = np.bincount(group, minlength=self.n_classes)
            sums = np.bincount(group, weights=row, minlength=self.n_classes)
            np.divide(sums, counts, out=out[r], where=counts > 0)
        return out


def class_weights(chosen: EvaluationSet, pools: Sequence[Samples], n_classes: int) -> Mapping[int, Floats]:
    """Weight of every class of every pool in a set: [n_classes] per pool, all together summing to 1."""
    weights = {}
    for pool, w in chosen.weights.items():
        sums = np.bincount(pools[pool].groups, weights=w.numpy(), minlength=n_classes)
        weights[pool] = sums.astype(np.float64)
    return weights


def set_mean(per_class: Sequence[Floats] | Floats, weights: Mapping[int, Floats]) -> Floats:
    """The set's mean of a metric given per pool and class: [..., n_classes] each -> [...]."""
    total: Floats | float = 0.0
    for pool, w in weights.items():
        used = w > 0  # a class of weight 0 may have no samples, hence no value
        total = total + (per_class[pool][..., used] * w[used]).sum(-1)  # row by row: no bit depends on other rows
    return np.asarray(total)


def validation_curves(stream: Stream, curves: Curves) -> dict[str, Floats]:
    """Accuracy and loss of every validation set at every point [T], by name: ``val/union/accuracy``."""
    series = {}
    for name, chosen in stream.val.sets.items():
        weights = class_weights(chosen, stream.val.pools, curves.loss[0].shape[-1])
        series[f"val/{name}/accuracy"] = set_mean(curves.recall, weights)
        series[f"val/{name}/loss"] = set_mean(curves.loss, weights)
    return series


def monitor_values(scores: PoolScores, sets: Sequence[Mapping[int, Floats]], quantity: str) -> list[float]:
    """Every model's mean ``loss`` or ``accuracy`` on its own set, given its class weights."""
    values, (recall, loss) = [], scores
    for r, weights in enumerate(sets):
        value = float(set_mean(loss[:, r], weights))
        if quantity == "accuracy":  # outputs that are not bounded have no accuracy, though their largest has an index
            value = float(set_mean(recall[:, r], weights)) if math.isfinite(value) else math.nan
        values.append(value)
    return values


SCORED_AT_ONCE = 16
"""Models whose outputs are in memory together."""
KEPT_MIB = 64
"""Inputs that are in memory together besides those of a batch."""

Scores = dict[str, float | None]


def set_names(n_parts: int) -> list[str]:
    """d1, d2, ..., union."""
    return [f"d{part + 1}" for part in range(n_parts)] + ["union"]


def score_stages(
    config: Config,
    stages: Sequence[tuple[Stream, Mapping[str, Tensor]]],
    of: Literal["test", "train"],
    device: Device,
    classes: Sequence[int] | None = None,
) -> list[Scores]:
    """Metrics ``d1/accuracy``, ..., ``union/recall/3`` of each (stream, weights), streams of one split.

    `of`: the test sets, or the training samples themselves, every sample equally. Exact risks are included if the
    distribution behind the test sets is known. The network is built once; only its weights change. `classes`: those
    that its head has; None: all.
    """
    stream = stages[0][0]
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, stream.seed, device.dtype)
    layout = memory_layout(model, stream.input_shape, device.torch_device)
    model = model.to(device.torch_device).to(memory_format=layout).eval()
    names = set_names(config.split.parts)
    if of == "test":
        names += [name for name in stream.test.sets if name not in names]
    mask = test_mask(config.split.heads, stream)
    sets = {stream: stream.test if of == "test" else training_sets(stream.train) for stream, _ in stages}
    inputs = _Inputs(device, layout)
    scores: list[Scores] = []
    for start in range(0, len(stages), SCORED_AT_ONCE):
        some = stages[start : start + SCORED_AT_ONCE]
        evaluations = [sets[stream] for stream, _ in some]
        outputs = []
        for one, (_, weights) in zip(evaluations, some, strict=True):
            model.load_state_dict(dict(weights))
            found = [_outputs(model, inputs.of(pool)) for pool in one.pools]
            outputs.append(found if classes is None else [has_only(each, classes) for each in found])
        by_pool = [torch.stack([own[pool] for own in outputs]) for pool in range(len(outputs[0]))]
        rows = score(evaluations, by_pool, config.loss, names, mask)
        if of == "test":
            for row, (stream, weights) in zip(rows, some, strict=True):
                sizes = [len(part) for part in stream.train]
                risks = population_risks(config.arch, weights, stream.populations, sizes)
                row |= {name: None if risk is None or not math.isfinite(risk) else risk for name, risk in risks.items()}
        scores += rows
    return scores


def _outputs(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x).cpu() for x in batches])


class _Inputs:
    """Pools of samples as batches that the network sees; small pools are scaled once, since many models share them."""

    def __init__(self, device: Device, layout: torch.memory_format) -> None:
        self._device, self._layout = device, layout
        self._kept: LRUCache[str, list[Tensor]] = LRUCache(KEPT_MIB * 2**20, lambda own: sum(x.nbytes for x in own))

    def of(self, samples: Samples) -> Iterable[Tensor]:
        """The batches of a pool, which a network may change in place."""
        n_bytes = len(samples) * math.prod(samples.bank.input_shape) * self._device.dtype.itemsize
        if n_bytes > self._kept.maxsize:
            return self._made(samples)
        if samples.digest not in self._kept:
            self._kept[samples.digest] = list(self._made(samples))
        return (x.clone() for x in self._kept[samples.digest])

    def _made(self, samples: Samples) -> Iterator[Tensor]:
        for rows in torch.split(samples.rows, EVALUATION_BATCH):
            x = samples.bank.x[rows].to(self._device.torch_device)
            yield samples.bank.scale(x, self._device.dtype).contiguous(memory_format=self._layout)


def training_sets(train: Sequence[Samples]) -> Evaluations:
    """The training samples as sets to score: every sample has the same weight."""
    present = {part: len(samples) for part, samples in enumerate(train) if len(samples)}
    total = sum(present.values())
    sets = {
        f"d{part + 1}": EvaluationSet({pool: torch.full((n,), 1 / n, dtype=torch.float64)})
        for pool, (part, n) in enumerate(present.items())
    }
    each = [torch.full((n,), 1 / total, dtype=torch.float64) for n in present.values()]
    return Evaluations(tuple(train[part] for part in present), {**sets, "union": EvaluationSet(dict(enumerate(each)))})
