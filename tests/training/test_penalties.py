"""Penalties converge to the exact solutions for quadratic losses; Fisher information matches its definition; costs count."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.config import compose
from src.data.batches import mixture_data
from src.evaluation.flops import training_flops
from src.evaluation.metrics import Loss, sample_losses
from src.models.build import build_model
from src.models.structure import prefers_stacking
from src.oracles.theory.quadratic import combined_optimum, ewc_optimum, lwf_weights
from src.regimes.stage import Mixture
from src.training.devices import Device
from src.training.penalties.fisher import (
    FisherInput,
    _squares_in_turn,
    _squares_of_row,
    _squares_together,
    fisher_matrix,
    fisher_sum,
)
from src.training.plan import StagePlan
from src.training.replicas import LoopReplicas, StackedReplicas
from tests.training.cells import differences, executed, planned, tiny, with_replicas

DOUBLE = Device(torch.device("cpu"), torch.float64)

# ------------------------------------------------------------------------------------------------ oracles

OPTIMA = np.array([[1.0, -0.5, 2.0], [-1.0, 0.5, 0.0], [0.0, 2.0, 1.0]])
DIAGONAL = [[[0.5, 0, 0], [0, 1.0, 0], [0, 0, 1.5]], [[1.5, 0, 0], [0, 0.5, 0], [0, 0, 1.0]], np.eye(3).tolist()]
CORRELATED = [[[1.0, 0.4, 0], [0.4, 1.0, 0], [0, 0, 0.8]], [[0.7, 0, -0.3], [0, 1.0, 0], [-0.3, 0, 1.2]]]


def ends(regimes: str, covariances: list[list[list[float]]], sizes: list[int]) -> list[np.ndarray]:
    """Final weights of each regime on mean squared errors with Hessians twice `covariances` around OPTIMA, converged."""
    n = len(sizes)
    lab = ["data=gaussian", "data.dim=3", "data.n_samples=600", "data.draw=exact", f"data.covariances={covariances}"]
    lab += [
        f"data.weights={OPTIMA[:n].tolist()}",
        "arch=linear",
        "arch.bias=false",
        "loss=mse",
        "trainer.precision='64'",
    ]
    lab += ["split.size=null", f"split.sizes={sizes}", f"split.parts={n}", "optimizer.batch_size=full"]
    descent = ["optimizer.lr=0.15", "optimizer.momentum=0", "stopping.epochs=150", f"regimes=[{regimes}]", "seeds=1"]
    plan, execution = executed(tiny(*[word.replace(" ", "") for word in [*lab, *descent]]))
    assert not execution.failures
    return [execution.results[run.stages[-1]].weights["head.weight"][0].numpy() for run in plan.runs]


def test_ewc_is_combined_where_the_hessian_is_diagonal() -> None:
    """At strength 1 earlier data count as much as in combined, whatever the sizes: exact for diagonal Hessians."""
    for sizes in ([60, 20], [30, 60, 20]):
        ewc, combined, plain = ends("ewc,combined,sequential", DIAGONAL[: len(sizes)], sizes)
        hessians = [2 * np.array(c) for c in DIAGONAL[: len(sizes)]]
        expected = combined_optimum(hessians, list(OPTIMA[: len(sizes)]), sizes)
        np.testing.assert_allclose(combined, expected, atol=1e-9)
        np.testing.assert_allclose(ewc, expected, atol=1e-9)
        np.testing.assert_allclose(plain, OPTIMA[len(sizes) - 1], atol=1e-9)


def test_penalties_converge_to_the_theoretical_weights() -> None:
    """Correlated inputs: EWC uses the diagonal alone and differs from combined; L2-SP is EWC with A = 1; LwF averages."""
    names = "{ewc:{strength:2}},{l2_sp:{strength:0.7}},{lwf:{strength:3}},sequential,combined"
    ewc, l2_sp, lwf, plain, combined = ends(names, CORRELATED, [40, 20])
    first, second = (2 * np.array(c) for c in CORRELATED)
    fisher = np.diag(np.diag(first)) * 40 / 20
    np.testing.assert_allclose(ewc, ewc_optimum(second, OPTIMA[1], OPTIMA[0], fisher, 2.0), atol=1e-9)
    np.testing.assert_allclose(l2_sp, ewc_optimum(second, OPTIMA[1], OPTIMA[0], np.eye(3), 0.7), atol=1e-9)
    np.testing.assert_allclose(lwf, lwf_weights(OPTIMA[0], plain, 1 / (1 + 3)), atol=1e-9)
    assert np.abs(ewc - combined).max() > 0.05


# ------------------------------------------------------------------------------------------------ Fisher information


def a_model(arch: list[str], loss: Loss) -> tuple[nn.Module, StagePlan]:
    """A network at its initial weights, and a plan with one stage on the data."""
    plan = planned(tiny("regimes=[d1_only]", "seeds=1", f"loss={loss}", *arch))
    config = compose(arch)
    stream = next(iter(plan.nodes.values())).stream
    return build_model(config.arch, stream.input_shape, stream.n_outputs, 0, torch.float64).eval(), plan


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(
    "arch", [["arch=mlp", "arch.widths=[5]"], ["arch=cnn", "arch.widths=[2,2]"]], ids=["mlp", "cnn"]
)
def test_fisher_is_the_expected_square_of_the_score(arch: list[str], loss: Loss) -> None:
    """Sum over samples and labels of p(label) (d log p(label) / dw)^2; for squared errors the diagonal of Gauss-Newton."""
    model, plan = a_model(arch, loss)
    data = next(iter(plan.nodes.values())).data
    found = fisher_sum(FisherInput(model, data, 10, loss, DOUBLE))
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x in data.parts[0].inputs(torch.float64):
        outputs = model(x.unsqueeze(0))[0]
        for c in range(10):
            # mean squared error = negative log-likelihood of variance K/2: the square of each output's gradient times 2/K
            score, weight = (
                (outputs.log_softmax(-1)[c], outputs.softmax(-1)[c]) if loss == "cross_entropy" else (outputs[c], 0.2)
            )
            gradients = torch.autograd.grad(score, list(model.parameters()), retain_graph=True)
            for total, gradient in zip(expected.values(), gradients, strict=True):
                total += weight * gradient.square()
    for name, total in expected.items():
        torch.testing.assert_close(found[name], total, rtol=1e-9, atol=1e-12)


def test_all_computations_of_per_sample_gradients_agree() -> None:
    """Squares under vmap, one after another, or as one product for a sequence of Linear layers are equal."""
    model, plan = a_model(["arch=mlp", "arch.widths=[5]"], "mse")
    x = next(iter(plan.nodes.values())).data.parts[0].inputs(torch.float64)[:7]
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 3, 10)))
    together = _squares_together(model, x, vectors)
    for other in (_squares_in_turn(model, x, vectors), _squares_of_row(model, x, vectors)):
        assert other.keys() == together.keys()
        for name in together:
            torch.testing.assert_close(together[name], other[name], rtol=1e-10, atol=1e-14)


def test_an_activation_that_a_row_calls_twice_counts_twice() -> None:
    """In the stack of a user's network, and in its Fisher information. Rows that call a layer with parameters twice, or a
    Linear on more than vectors, train as plain modules."""
    relu = torch.nn.ReLU()
    row = torch.nn.Sequential(torch.nn.Linear(4, 5), relu, torch.nn.Linear(5, 5), relu, torch.nn.Linear(5, 3)).double()
    assert prefers_stacking(row)
    x, vectors = torch.randn(2, 7, 4, dtype=torch.float64), torch.randn(7, 3, 3, dtype=torch.float64)
    names = {name for name, _ in row.named_parameters()}
    stacked, looped = (
        engine([copy.deepcopy(row), copy.deepcopy(row)], names)(x) for engine in (StackedReplicas, LoopReplicas)
    )
    torch.testing.assert_close(stacked, looped)
    together, of_row = _squares_together(row, x[0], vectors), _squares_of_row(row, x[0], vectors)
    for name in names:
        torch.testing.assert_close(of_row[name], together[name])
    tied = torch.nn.Linear(4, 4)
    assert not prefers_stacking(torch.nn.Sequential(tied, relu, tied))
    assert not prefers_stacking(torch.nn.Sequential(tied, relu, torch.nn.Flatten(), torch.nn.Linear(32, 3)))


def test_the_whole_matrix_has_the_separately_computed_diagonal() -> None:
    """The matrix is symmetric, in the order of the model's parameter names."""
    model, plan = a_model(["arch=mlp", "arch.widths=[3]"], "cross_entropy")
    data = next(iter(plan.nodes.values())).data
    whole = fisher_matrix(FisherInput(model, data, 10, "cross_entropy", DOUBLE))
    alone = fisher_sum(FisherInput(model, data, 10, "cross_entropy", DOUBLE))
    diagonal = torch.cat([alone[name].flatten() for name, _ in model.named_parameters()])
    torch.testing.assert_close(whole.diagonal(), diagonal, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole, whole.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_drawn_labels_give_the_same_fisher_on_average(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many outputs one label is drawn for each sample: unbiased and reproducible."""
    model, plan = a_model(["arch=linear"], loss)
    stream = next(iter(plan.nodes.values())).stream
    data = mixture_data(stream, Mixture(parts=(0, 1)))
    exact = fisher_sum(FisherInput(model, data, 10, loss, DOUBLE))["head.bias"]
    monkeypatch.setattr("src.training.penalties.fisher.EXACT_UP_TO", 9)
    draws = []
    for seed in range(40):
        object.__setattr__(data, "seed", seed)
        draws.append(fisher_sum(FisherInput(model, data, 10, loss, DOUBLE))["head.bias"])
        if seed == 0:
            assert torch.equal(draws[0], fisher_sum(FisherInput(model, data, 10, loss, DOUBLE))["head.bias"])
    found, spread = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 40**0.5
    assert bool(((found - exact).abs() <= 4 * spread + 1e-9).all())


# ------------------------------------------------------------------------------------------------ the training loop


@pytest.mark.parametrize(
    "arch", [["arch=mlp", "arch.widths=[8]"], ["arch=cnn", "arch.widths=[2,4]"]], ids=["vmap", "loop"]
)
def test_a_penalty_in_a_group_equals_the_penalty_alone(arch: list[str]) -> None:
    """Bit for bit, with momentum and decay, and with models of the group that stop at different epochs."""
    rule = ["stopping=early_stopping", "stopping.max_epochs=8", "stopping.patience=1", "optimizer.batch_size=8"]
    how = ["optimizer.momentum=0.9", "optimizer.weight_decay=0.01", "seeds=5", "optimizer.lr=0.3"]
    config = tiny("regimes=[{ewc:{strength:10}},l2_sp,lwf]", *arch, *rule, *how)
    plan, together = executed(config)
    _, alone = executed(with_replicas(config, 1))
    lengths: dict[str, set[int]] = {}
    for key, node in plan.nodes.items():
        assert differences(together.results[key], alone.results[key]) == []
        lengths.setdefault(node.stage.penalty.kind, set()).add(together.results[key].ledger.updates)
    assert any(len(lengths[kind]) > 1 for kind in ("ewc", "l2_sp", "lwf"))


def test_a_penalty_reduces_the_movement() -> None:
    """The stronger the penalty, the nearer the weights stay to those of stage 1 (the outputs for learning without
    forgetting)."""
    strengths = [0, 1, 10]
    for kind in ("ewc", "l2_sp", "lwf"):
        names = ",".join(f"{{{kind}:{{strength:{strength}}}}}" for strength in strengths)
        config = tiny(f"regimes=[{names}]", "seeds=1", "stopping.epochs=5", "optimizer.lr=0.05", "optimizer.momentum=0")
        plan, execution = executed(config)
        moved = []
        for run in plan.runs:
            before, after = (execution.results[key].weights for key in run.stages)
            if kind == "lwf":
                x = plan.nodes[run.stages[1]].data.parts[0].inputs()
                model = build_model(config.arch, x.shape[1:], 10, 0)
                outputs = []
                for weights in (before, after):
                    model.load_state_dict(dict(weights))
                    outputs.append(model(x).softmax(-1))
                moved.append(float((outputs[0] - outputs[1]).norm().detach()))
            else:
                moved.append(float(sum((after[n] - before[n]).square().sum() for n in before)))
        assert moved[0] > moved[1] > moved[2], (kind, moved)


def test_the_cost_of_a_penalty_is_charged(tmp_path: Path) -> None:
    """A teacher's forward pass is a third of a pass for each sample seen; Fisher information 2 forward passes and one
    backward pass for each output, over Dataset 1; both are in the run's FLOPs, also when the stages come from the store."""
    from src.training.run_files import result_of, score_all

    config = tiny("regimes=[sequential,l2_sp,lwf,ewc]", "seeds=1")
    for _ in range(2):
        plan, execution = executed(config, tmp_path)
        stream = next(iter(plan.nodes.values())).stream
        scores = score_all(config, plan, execution, DOUBLE)
        flops = [result_of(config, plan, run, execution, scores)["cost"]["flops"] for run in plan.runs]
        of_one = training_flops(config.arch, stream.input_shape, stream.n_outputs)
        seen, n_first = 2 * 60, 30
        expected = [seen, seen, seen + 60 / 3, seen + n_first * (2 + 2 * 10) / 3]
        np.testing.assert_allclose(flops, np.array(expected) * of_one, rtol=1e-12)


def test_distillation_is_zero_at_the_teacher() -> None:
    """The penalty of outputs is a distance: 0 for the teacher itself, in either loss, so it never hides convergence."""
    from src.training.penalties.lwf import OutputPenalty
    from src.training.replicas import LoopReplicas

    model, plan = a_model(["arch=linear"], "mse")
    x = next(iter(plan.nodes.values())).data.parts[0].inputs(torch.float64)[None, :6]
    teacher = LoopReplicas([model], set()).eval()
    for loss in ("cross_entropy", "mse"):
        penalty = OutputPenalty(teacher, 2.0, 2.0, loss)  # type: ignore[arg-type]
        outputs = teacher(x)
        assert float(penalty(teacher, x, outputs)) == pytest.approx(0, abs=1e-15)
        assert float(penalty(teacher, x, outputs + torch.arange(10.0))) > 0.1
    shifted = sample_losses(outputs + 1, outputs, "mse").mean(1)
    assert float(OutputPenalty(teacher, 2.0, 2.0, "mse")(teacher, x, outputs + 1)) == pytest.approx(2 * float(shifted))
