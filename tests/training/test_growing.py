"""A growing head has a class's output from the stage where the class first appears: as a network whose last layer is replaced by
a wider one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.cells.resolve import resolve
from src.config import cell_hash
from src.errors import ConfigError
from src.regimes.catalog import REGIMES
from src.training.penalties import make_penalty
from src.training.penalties.kind import PenaltyContext
from src.training.plan import Node, StagePlan
from src.training.replicas import LoopReplicas, ModelState, trainable_names
from src.training.scoring import validation_curves
from src.training.starting import initial_model, starting_model, without_new_rows
from tests.training.cells import CPU, differences, executed, planned, tiny, with_replicas

TASKS = ("split.parts=3", "split.classes=[[0,1],[1,2,3],[4,5,6,7,8,9]]", "split.size=90", "arch.widths=[8]")
GROWS = (*TASKS, "head=grow", "seeds=1")
"""Outputs: 0 and 1, then 2 and 3, then 4 to 9."""

EVERY = tuple(range(10))


def stages_of(plan: StagePlan, regime: int = 0) -> list[Node]:
    return [plan.nodes[key] for key in plan.runs[regime].stages]


@pytest.mark.parametrize(
    "optimizer", [["optimizer=adam", "optimizer.weight_decay=0.1"], ["optimizer.weight_decay=0.1"]]
)
def test_at_a_boundary_old_rows_stay_and_new_ones_are_drawn(optimizer: list[str]) -> None:
    config = tiny(*GROWS, *optimizer, "regimes=[{sequential:{reset_optimizer:false}}]")
    plan, execution = executed(config)
    first, second, third = stages_of(plan)
    assert [first.outputs, second.outputs, third.outputs] == [(0, 1), (0, 1, 2, 3), EVERY]
    assert [first.new_outputs, second.new_outputs, third.new_outputs] == [[], [2, 3], [4, 5, 6, 7, 8, 9]]
    drawn = initial_model(config, second, torch.float32).state_dict()
    for before, node in ((first, second), (second, third)):
        ended = execution.results[before.key]
        model = starting_model(config, node, execution.results, CPU)
        state = without_new_rows(node, model, ended.optimizer or {})
        assert not torch.equal(ended.weights["head.weight"][node.new_outputs], drawn["head.weight"][node.new_outputs])
        for name, tensor in model.state_dict().items():
            rows = node.new_outputs if name.startswith("head") else []
            old = [row for row in range(len(tensor)) if row not in rows]
            assert torch.equal(tensor[old], ended.weights[name][old])
            assert torch.equal(tensor[rows], drawn[name][rows])
            for key in (key for key in state if key.endswith(f"/{name}") and state[key].ndim):
                assert torch.equal(state[key][old], (ended.optimizer or {})[key][old])
                assert not state[key][rows].any()
                assert (ended.optimizer or {})[key].any()


def by_hand(node: Node, old: ModelState, drawn: ModelState, rows: int) -> tuple[nn.Module, ModelState]:
    """The stage trained by plain PyTorch with a last layer of `rows` outputs alone: the first ones are the old head's."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, rows))
    with torch.no_grad():
        for mine, name in zip(model.parameters(), old, strict=True):
            if name.startswith("head"):
                mine[: len(old[name])] = old[name]
                mine[len(old[name]) :] = drawn[name][len(old[name]) : rows]
            else:
                mine.copy_(old[name])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    data = node.data.parts[0]
    for _ in range(node.length.updates):  # a full batch, so that the order is none
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs()), data.y).backward()
        optimizer.step()
    return model, dict(zip(old, (p.detach().clone() for p in model.parameters()), strict=True))


def test_it_is_a_network_whose_last_layer_is_replaced_by_a_wider_one() -> None:
    words = ("optimizer.batch_size=full", "optimizer.weight_decay=0.01", "optimizer.momentum=0.9", "stopping.epochs=12")
    config = tiny(*GROWS, *words, "optimizer.lr=0.1", "regimes=[sequential]")
    plan, execution = executed(config)
    drawn = initial_model(config, stages_of(plan)[0], torch.float32).state_dict()
    state = {name: tensor[:0] if name.startswith("head") else tensor for name, tensor in drawn.items()}
    for node in stages_of(plan):
        model, state = by_hand(node, state, drawn, len(node.outputs))
        result = execution.results[node.key]
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, result.weights[name][: len(tensor)], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            right = {
                pool: (model(samples.inputs()).argmax(-1) == samples.y).double()
                for pool, samples in enumerate(node.stream.val.pools)
            }
        for name, chosen in node.stream.val.sets.items():
            accuracy = sum(float(right[pool] @ w) for pool, w in chosen.weights.items())
            assert validation_curves(node.stream, result.curves)[f"val/{name}/accuracy"][-1] == pytest.approx(accuracy)


def test_a_head_that_is_whole_from_the_start_is_the_full_one() -> None:
    """The stages of `combined` are those of the full head, by key; so are all of them where no class is new."""
    full, grows = (
        planned(tiny(*TASKS, "seeds=1", f"head={head}", "regimes=[combined,sequential]")) for head in ("full", "grow")
    )
    assert full.runs[0].stages == grows.runs[0].stages
    assert not set(full.runs[1].stages) & set(grows.runs[1].stages)
    same = ("regimes=[sequential,ewc,average,shrink_perturb]", "seeds=1")
    assert planned(tiny(*same)).nodes.keys() == planned(tiny(*same, "head=grow")).nodes.keys()
    hashes = {cell_hash(tiny(f"head={head}"), "source") for head in ("full", "grow")}
    assert len(hashes) == 2
    assert cell_hash(tiny(), "source") in hashes


def test_every_regime_grows() -> None:
    """No output that a stage lacks is ever trained or predicted, in any regime; the mean of two heads has each one's rows."""
    config = tiny(*GROWS, f"regimes=[{','.join(REGIMES)}]", "stopping.epochs=3")
    resolve(config)
    plan, execution = executed(config)
    assert not execution.failures
    drawn = initial_model(config, next(iter(plan.nodes.values())), torch.float32).state_dict()
    for key, node in plan.nodes.items():
        result = execution.results[key]
        missing = [c for c in EVERY if c not in node.outputs]
        assert not any(
            recall[:, missing].any() for recall in map(torch.from_numpy, map(np.nan_to_num, result.curves.recall))
        )
        if node.stage.start.kind in ("fresh", "previous"):
            assert torch.equal(result.weights["head.bias"][missing], drawn["head.bias"][missing])
    names = [run.regime.name for run in plan.runs]
    average = [execution.results[key].weights["head.weight"] for key in plan.runs[names.index("average")].stages]
    second = average[0][1:2] + average[1][1:2]
    rows = [average[0][:1], second / 2, average[1][2:4], average[2][4:]]
    torch.testing.assert_close(average[3], torch.cat(rows))
    soup = [execution.results[key].weights["head.bias"] for key in plan.runs[names.index("model_soup")].stages]
    assert torch.equal(soup[-1][2:], soup[-2][2:])
    _, alone = executed(with_replicas(tiny(*GROWS, "seeds=2", "regimes=[ewc,der,shrink_perturb]"), 1))
    _, together = executed(tiny(*GROWS, "seeds=2", "regimes=[ewc,der,shrink_perturb]"))
    assert all(differences(alone.results[key], result) == [] for key, result in together.results.items())


def test_l2_sp_and_ewc_do_not_hold_new_rows() -> None:
    """A penalty too strong to move keeps every old weight and leaves the new rows free."""
    for regime in ("l2_sp", "ewc"):
        config = tiny(*GROWS, f"regimes=[{{{regime}:{{strength:1e-3}}}}]")
        plan, execution = executed(config)
        _, second, _ = stages_of(plan)
        context = PenaltyContext(config, plan, execution.results, {}, CPU)
        model = starting_model(config, second, execution.results, CPU)
        penalty = make_penalty(context, [second])
        assert penalty is not None
        replicas = LoopReplicas([model], trainable_names(model, second.stage.trainable))
        with torch.no_grad():
            model.get_parameter("head.weight")[second.new_outputs] += 1
        x = torch.zeros(1, 2, 1, 8, 8)
        assert float(penalty(replicas, x, replicas(x)).detach()) == 0
        with torch.no_grad():
            model.get_parameter("head.weight")[0] += 1
        assert float(penalty(replicas, x, replicas(x)).detach()) > 0


def test_a_checkpoint_brings_the_rows_of_its_classes(tmp_path: Path) -> None:
    config = tiny(*GROWS)
    node = next(iter(planned(config).nodes.values()))
    torch.save(initial_model(config, node, torch.float32, ("other",)).state_dict(), tmp_path / "all.pt")
    four = {n: t[:4] if n.startswith("head") else t for n, t in torch.load(tmp_path / "all.pt").items()}
    torch.save(four, tmp_path / "four.pt")
    for given, outputs in (
        (str(tmp_path / "all.pt"), [EVERY] * 3),
        (
            f"{{path:{tmp_path / 'four.pt'},classes:['3','1','5','0']}}",
            [(0, 1, 3, 5), (0, 1, 2, 3, 5), EVERY],
        ),
    ):
        config = tiny(*GROWS, f"regimes=[{{sequential:{{checkpoint:{given}}}}}]")
        plan, execution = executed(config)
        assert [node.outputs for node in stages_of(plan)] == outputs
        second = stages_of(plan)[1]
        model = starting_model(config, second, execution.results, CPU)
        weights = torch.load(tmp_path / "all.pt")["head.weight"]
        if len(outputs[0]) == 4:
            assert torch.equal(model.state_dict()["head.weight"][[3, 1, 5, 0]], weights[:4])
        else:
            assert torch.equal(model.state_dict()["head.weight"], weights)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label_smoothing=0.1"], r"^head=grow: needs loss=cross_entropy and label_smoothing=0; take full$"),
        (["loss=mse"], r"^head=grow: needs loss=cross_entropy"),
        (["split.heads=seen"], r"^split\.heads=seen: chooses among all outputs, and head=grow"),
        (["regimes=[{freeze:{pattern:head}}]"], None),
        (["regimes=[{freeze:{pattern:hidden}}]"], r"^head=grow: freezes the head in freeze\(pattern=hidden\)"),
        (["head=grown"], r"^head=grown: must be full or grow"),
    ],
)
def test_what_cannot_grow_is_refused(words: list[str], message: str | None) -> None:
    if message is None:
        resolve(tiny(*GROWS, *words))
        return
    with pytest.raises(ConfigError, match=message):
        resolve(tiny(*GROWS, *words))
