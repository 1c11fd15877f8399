"""Terms added to a stage's loss that hold it near the end of an earlier stage: near its weights, or near its outputs.

A penalty maps (replicas, inputs [R, b, ...], outputs [R, b, K]) to an addition to each model's loss [R]. Its gradient is
elementwise in the models, so a stage held back in a group is bit for bit the stage held back alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from src.config import Config
from src.data.batches import MixtureData
from src.data.seeds import generator
from src.evaluation.metrics import Loss
from src.models.build import build_model
from src.models.structure import prefers_vmap
from src.training.budget import Length
from src.training.feed import Place, make_feed
from src.training.plan import Node, Plan
from src.training.replicas import LoopReplicas, Replicas, State, VmapReplicas
from src.training.result import StageResult

Penalty = Callable[[Replicas, Tensor, Tensor], Tensor]

EXACT_UP_TO = 16
"""Fisher information takes its expectation over labels exactly up to so many outputs; with more, one label is drawn."""
GRADIENTS_AT_ONCE = 2**24
"""Numbers in the per-sample gradients that are in memory together."""


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
    plan: Plan,
    nodes: Sequence[Node],
    results: Mapping[str, StageResult],
    fishers: MutableMapping[str, State],
    place: Place,
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
    precisions = None
    if asked.kind == "ewc":
        precisions = []
        for node, parent in zip(nodes, held, strict=True):
            total = _accumulated(config, plan, parent, results, fishers, place)
            precisions.append({name: tensor / node.data.n_samples for name, tensor in total.items()})
    return WeightPenalty(weights, precisions, asked.strength)


def extra_passes(plan: Plan, node: Node, samples: int) -> float:
    """What the stage's penalty cost besides its updates, in forward and backward passes of one sample (a forward pass is
    a third of one). `samples`: seen in its updates. Fisher information is charged to the stage that first needs it."""
    kind = node.stage.penalty.kind
    if kind == "lwf":
        return samples / 3
    if kind == "ewc":
        assert node.penalty_parent is not None
        n_vectors = node.stream.n_outputs if node.stream.n_outputs <= EXACT_UP_TO else 1
        return plan.nodes[node.penalty_parent].data.n_samples * (2 + 2 * n_vectors) / 3
    return 0.0


def _teachers(config: Config, held: Sequence[Node], weights: Sequence[Mapping[str, Tensor]], place: Place) -> Replicas:
    models = [_model(config, node, state, place) for node, state in zip(held, weights, strict=True)]
    nothing: set[str] = set()
    teacher = VmapReplicas(models, nothing) if prefers_vmap(models[0]) else LoopReplicas(models, nothing)
    return teacher.to(place.device).eval()


def _model(config: Config, node: Node, weights: Mapping[str, Tensor], place: Place) -> nn.Module:
    model = build_model(config.arch, node.stream.input_shape, node.stream.n_outputs, node.seed, place.dtype)
    model.load_state_dict(dict(weights))
    return model


# ------------------------------------------------------------------------------------------------ Fisher information


def _accumulated(
    config: Config,
    plan: Plan,
    node: Node,
    results: Mapping[str, StageResult],
    fishers: MutableMapping[str, State],
    place: Place,
) -> State:
    """Fisher information of the data of `node` and, if it was itself held by EWC, of all data before it: a sum over
    samples, each data set's at the weights its own stage ended with."""
    if node.key not in fishers:
        model = _model(config, node, results[node.key].weights, place).to(place.device)
        fishers[node.key] = fisher_sum(
            model, node.data, node.stream.n_outputs, config.loss, place, config.trainer.resident_mib
        )
    total = fishers[node.key]
    if node.stage.penalty.kind == "ewc":
        assert node.penalty_parent is not None
        earlier = _accumulated(config, plan, plan.nodes[node.penalty_parent], results, fishers, place)
        total = {name: tensor + earlier[name] for name, tensor in total.items()}
    return total


def fisher_sum(
    model: nn.Module, data: MixtureData, n_outputs: int, loss: Loss, place: Place, resident_mib: int = 1024
) -> State:
    """Diagonal of the Fisher information of the model on the inputs of `data`, summed over the samples, by parameter.

    The true Fisher: labels follow the model, not the data. With J the Jacobian of one sample's outputs it is
    sum_c (J's_c)^2 elementwise, s_c the columns of a root of the loss's Hessian in the outputs: sqrt(p_c) (e_c - p) for
    cross entropy, sqrt(2/K) e_c for the mean squared error (the negative log-likelihood of variance K/2). Above
    `EXACT_UP_TO` outputs one random vector with the same second moments takes their place: e_y - p with y drawn from p, or
    random signs times sqrt(2/K).
    """
    assert data.n_draws == data.n_samples, "a stage that is held near to draws every sample once an epoch"
    model = model.eval()
    # gradients of single samples in a batch are grouped convolutions, which a CPU does slower than one after the other
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    squares = _squares_in_turn if convolves and place.device.type == "cpu" else _squares_together
    n_numbers = sum(p.numel() for p in model.parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    rng = generator(data.seed, "noise", "fisher", data.digest)
    rows = max(1, min(data.n_samples, GRADIENTS_AT_ONCE // (n_numbers * min(n_outputs, EXACT_UP_TO))))
    length = Length.of_epochs(data.n_draws, rows, 1)
    for x, _, _ in make_feed([data], length, Place(place.device, place.dtype), resident_mib):
        with torch.no_grad():
            uniform = torch.from_numpy(rng.random((x.shape[1], n_outputs))).to(place.device)
            vectors = _output_vectors(model(x[0]), uniform, loss)
        for name, square in squares(model, x[0], vectors).items():
            total[name] += square
    return {name: tensor.to(place.dtype).cpu() for name, tensor in total.items()}


def _squares_together(model: nn.Module, x: Tensor, vectors: Tensor) -> State:
    """Sum over the samples x [b, ...] and their vectors s_c [b, C, K] of (J's_c)^2, by parameter, in float64."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def of_one(sample: Tensor, own: Tensor) -> State:
        def outputs(values: State) -> Tensor:
            out: Tensor = functional_call(model, {**buffers, **values}, (sample.unsqueeze(0),))
            return out[0]

        pull = vjp(outputs, parameters)[1]
        (gradients,) = vmap(pull)(own)
        return {name: gradient.square().sum(0) for name, gradient in gradients.items()}

    return {name: square.double().sum(0) for name, square in vmap(of_one)(x, vectors).items()}


def _squares_in_turn(model: nn.Module, x: Tensor, vectors: Tensor) -> State:
    """The same, one backward pass after the other."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for sample, own in zip(x, vectors, strict=True):
        outputs = model(sample.unsqueeze(0))[0]
        for vector in own:
            gradients = torch.autograd.grad(outputs @ vector, list(parameters.values()), retain_graph=True)
            for square, gradient in zip(total.values(), gradients, strict=True):
                square += gradient.double().square()
    return total


def _output_vectors(outputs: Tensor, uniform: Tensor, loss: Loss) -> Tensor:
    """Vectors [b, C, K] whose outer products sum to the Hessian of each sample's loss in its outputs [b, K], exactly up to
    `EXACT_UP_TO` outputs (C = K), else in expectation over `uniform` [b, K] (C = 1)."""
    n_outputs = outputs.shape[-1]
    unit = torch.eye(n_outputs, dtype=outputs.dtype, device=outputs.device)
    exact = n_outputs <= EXACT_UP_TO
    if loss == "mse":
        vectors = unit.expand(len(outputs), -1, -1) if exact else (2.0 * (uniform < 0.5) - 1).to(outputs).unsqueeze(1)
        return vectors * math.sqrt(2 / n_outputs)
    p = outputs.softmax(-1)
    if exact:
        return p.sqrt().unsqueeze(-1) * (unit - p.unsqueeze(1))
    drawn = (p.double().cumsum(-1) < uniform[:, :1]).sum(-1).clamp(max=n_outputs - 1)
    return (unit[drawn] - p).unsqueeze(1)
