"""Terms added to a stage's loss that hold it near the end of an earlier stage: near its weights, or near its outputs.

A penalty maps (replicas, inputs [R, b, ...], outputs [R, b, K]) to an addition to each model's loss [R]. Its gradient is
elementwise in the models, so a stage held back in a group is bit for bit the stage held back alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from src.config import Config
from src.evaluation.metrics import Loss
from src.models.build import build_model
from src.models.structure import prefers_vmap
from src.training.devices import Device
from src.training.penalties.fisher import EXACT_UP_TO, fisher_matrix, fisher_sum
from src.training.plan import Node, StagePlan
from src.training.replicas import LoopReplicas, ModelState, Replicas, VmapReplicas
from src.training.result import StageResult

Penalty = Callable[[Replicas, Tensor, Tensor], Tensor]

WHOLE = "whole"
"""Name of the Fisher matrix among precisions, where others have a tensor for each parameter."""


@dataclass
class WeightPenalty:
    """strength/2 x sum_i A_i (w_i - w_i')^2 over the parameters that are trained; A is 1 unless `precisions` are given.

    `anchors`: w' of every model. `precisions`: A of every model.
    """

    anchors: Sequence[Mapping[str, Tensor]]
    precisions: Sequence[Mapping[str, Tensor]] | None
    strength: float
    _placed: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R], whatever the batch."""
        del x
        terms: list[list[Tensor]] = [[] for _ in range(replicas.n)]
        stacked: list[Tensor] = []
        for name, parameter, model in replicas.named_trainable():
            if model is None:
                anchor, precision = self._of_all(name, parameter)
                stacked.append(_weighted_square(parameter, anchor, precision).flatten(1).sum(1)[: replicas.n])
            elif replicas.active[model]:  # a stopped model gets no gradient, not even of zero
                anchor, precision = self._of_one(name, model, parameter)
                terms[model].append(_weighted_square(parameter, anchor, precision).sum())
        if stacked:
            return 0.5 * self.strength * torch.stack(stacked).sum(0)
        nothing = torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        return 0.5 * self.strength * torch.stack([torch.stack(own).sum() if own else nothing for own in terms])

    def _of_one(self, name: str, model: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
        key = f"{model}/{name}"
        if key not in self._placed:
            precision = None if self.precisions is None else self.precisions[model][name].to(like)
            self._placed[key] = (self.anchors[model][name].to(like), precision)
        return self._placed[key]

    def _of_all(self, name: str, like: Tensor) -> tuple[Tensor, Tensor | None]:
        if name not in self._placed:
            precision = None if self.precisions is None else _stacked_like(like, name, self.precisions)
            self._placed[name] = (_stacked_like(like, name, self.anchors), precision)
        return self._placed[name]


def _stacked_like(like: Tensor, name: str, states: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """The tensor `name` of every model, stacked [R, ...]; a dummy among the rows of `like` gets the last model's."""
    each = [state[name] for state in states]
    each += [each[-1]] * (len(like) - len(each))
    return torch.stack(each).to(like)


def _weighted_square(parameter: Tensor, anchor: Tensor, precision: Tensor | None) -> Tensor:
    square = (parameter - anchor).square()
    return square if precision is None else precision * square


@dataclass
class MatrixPenalty:
    """strength/2 x (w - w')' A (w - w') with a whole matrix A over all parameters, one after the other in the order `names`.

    `anchors`: w' of every model. `matrices`: A of every model, [P, P].
    """

    anchors: Sequence[Mapping[str, Tensor]]
    matrices: Sequence[Tensor]
    names: Sequence[str]
    strength: float

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R], whatever the batch."""
        del x
        found: list[dict[str, Tensor]] = [{} for _ in range(replicas.n)]
        for name, parameter, model in replicas.named_trainable():
            for r in range(replicas.n) if model is None else [model]:
                if replicas.active[r] or model is None:  # a stopped module gets no gradient, not even of zero
                    found[r][name] = parameter[r] if model is None else parameter
        terms = []
        for own, anchor, matrix in zip(found, self.anchors, self.matrices, strict=True):
            if own:
                gap = torch.cat([(own[name] - anchor[name].to(own[name])).flatten() for name in self.names])
                terms.append(gap @ matrix.to(gap) @ gap)
            else:
                terms.append(torch.zeros((), dtype=outputs.dtype, device=outputs.device))
        return 0.5 * self.strength * torch.stack(terms)


@dataclass
class OutputPenalty:
    """strength x mean over the batch of the distance between each model's outputs and its teacher's on the same inputs.

    Kullback-Leibler divergence of softmax(outputs / temperature) from softmax(teacher / temperature): the cross entropy of
    Li & Hoiem 2017 less a constant, without a factor temperature^2, as theirs. For ``mse`` the squared error of the
    outputs, mean over columns, without a temperature.
    """

    teacher: Replicas
    strength: float
    temperature: float
    loss: Loss

    def __call__(self, replicas: Replicas, x: Tensor, outputs: Tensor) -> Tensor:
        """The addition to each model's loss [R]."""
        del replicas
        with torch.no_grad():
            targets = self.teacher(x)
        if self.loss == "mse":
            distance = (outputs - targets).square().mean(-1)
        else:
            wanted = (targets / self.temperature).log_softmax(-1)
            distance = (wanted.exp() * (wanted - (outputs / self.temperature).log_softmax(-1))).sum(-1)
        penalty: Tensor = self.strength * distance.mean(1)
        return penalty


def make_penalty(
    config: Config,
    plan: StagePlan,
    nodes: Sequence[Node],
    results: Mapping[str, StageResult],
    fishers: MutableMapping[str, ModelState],
    place: Device,
) -> Penalty | None:
    """The penalty of a group of stages; None if they have none.

    `results`: of the stages they are held near to. `fishers`: Fisher information by the key of its stage, kept from group
    to group.
    """
    asked = nodes[0].stage.penalty
    if asked.kind == "none":
        return None
    held = [plan.nodes[node.penalty_parent] for node in nodes if node.penalty_parent is not None]
    assert len(held) == len(nodes)
    weights = [results[node.key].weights for node in held]
    if asked.kind == "lwf":
        return OutputPenalty(_teachers(config, held, weights, place), asked.strength, asked.temperature, config.loss)
    if asked.kind == "l2_sp":
        return WeightPenalty(weights, None, asked.strength)
    precisions = []
    for node, parent in zip(nodes, held, strict=True):
        total = _accumulated(config, plan, parent, asked.kind, results, fishers, place)
        precisions.append({name: tensor / node.data.n_samples for name, tensor in total.items()})
    if asked.kind == "ewc":
        return WeightPenalty(weights, precisions, asked.strength)
    assert asked.kind == "ewc_full", asked.kind
    names = [name for name, _ in _model(config, held[0], weights[0], place).named_parameters()]
    return MatrixPenalty(weights, [own[WHOLE] for own in precisions], names, asked.strength)


def extra_passes(plan: StagePlan, node: Node, samples: int) -> float:
    """What the stage's penalty cost besides its updates, in forward and backward passes of one sample (a forward pass is
    a third of one). `samples`: seen in its updates. Fisher information is charged to the stage that first needs it."""
    kind = node.stage.penalty.kind
    if kind == "lwf":
        return samples / 3
    if kind in ("ewc", "ewc_full"):
        assert node.penalty_parent is not None
        n_vectors = node.stream.n_outputs if node.stream.n_outputs <= EXACT_UP_TO else 1
        return plan.nodes[node.penalty_parent].data.n_samples * (2 + 2 * n_vectors) / 3
    return 0.0


def _teachers(config: Config, held: Sequence[Node], weights: Sequence[Mapping[str, Tensor]], place: Device) -> Replicas:
    models = [_model(config, node, state, place) for node, state in zip(held, weights, strict=True)]
    nothing: set[str] = set()
    teacher = (
        VmapReplicas(models, nothing)
        if prefers_vmap(models[0], place.torch_device.type)
        else LoopReplicas(models, nothing)
    )
    return teacher.to(place.torch_device).eval()


def _model(config: Config, node: Node, weights: Mapping[str, Tensor], place: Device) -> nn.Module:
    model = build_model(config.arch, node.stream.input_shape, node.stream.n_outputs, node.seed, place.dtype)
    model.load_state_dict(dict(weights))
    return model


def _accumulated(
    config: Config,
    plan: StagePlan,
    node: Node,
    kind: str,
    results: Mapping[str, StageResult],
    fishers: MutableMapping[str, ModelState],
    place: Device,
) -> ModelState:
    """Fisher information of the data of `node` and, if it was itself held by EWC, of all data before it: a sum over
    samples, each data set's at the weights its own stage ended with. `kind`: of the penalty, which says which form."""
    key = f"{node.key}/{kind}"
    if key not in fishers:
        model = _model(config, node, results[node.key].weights, place).to(place.torch_device)
        about = (model, node.data, node.stream.n_outputs, config.loss, place, config.trainer.resident_mib)
        fishers[key] = fisher_sum(*about) if kind == "ewc" else {WHOLE: fisher_matrix(*about)}
    total = fishers[key]
    if node.stage.penalty.kind == kind:
        assert node.penalty_parent is not None
        earlier = _accumulated(config, plan, plan.nodes[node.penalty_parent], kind, results, fishers, place)
        total = {name: tensor + earlier[name] for name, tensor in total.items()}
    return total
