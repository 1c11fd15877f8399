"""Execution of a plan: initial weights, optimizer state across stages, and the stages that a failure affects.

Properties: weights carry over as the stage defines; a stage that raises fails with its descendants only, and the next call
retries it; user errors are raised; batch normalisation is refused where its statistics cannot be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import src.training.execute as execute_module
from src.errors import ConfigError
from src.models.build import build_model
from src.training.plan import Node
from src.training.starting import average, shrink_perturb
from tests.training.cells import differences, executed, planned, same_bits, tiny


def broken(monkeypatch: pytest.MonkeyPatch, wrong: set[str], error: Exception) -> list[int]:
    """Make the fit of every group with a key in `wrong` raise; return the sizes of the attempted groups."""
    tried: list[int] = []
    whole = execute_module.fit

    def fit(config: Any, nodes: Sequence[Node], *rest: Any, **options: Any) -> Any:
        tried.append(len(nodes))
        if wrong & {node.key for node in nodes}:
            raise error
        return whole(config, nodes, *rest, **options)

    monkeypatch.setattr(execute_module, "fit", fit)
    return tried


def test_a_stage_that_raises_fails_only_its_descendants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tiny("seeds=5", "regimes=[sequential,combined,d1_only]")
    plan = planned(config)
    _, whole = executed(config, plan=plan)
    wrong = plan.runs[2].stages[0]  # stage 1 of sequential at seed 2, shared with d1_only
    tried = broken(monkeypatch, {wrong}, RuntimeError("planted\nhere"))
    _, execution = executed(config, tmp_path, plan)
    lost = {key for run in plan.runs for key in run.stages if wrong in run.stages}
    assert execution.failures.keys() == lost
    for line, trace in execution.failures.values():
        assert line == "RuntimeError: planted here"
        assert "Traceback" in trace
        assert "planted" in trace
    assert execution.results.keys() == plan.nodes.keys() - lost
    for key, result in execution.results.items():
        assert differences(result, whole.results[key]) == []
    assert max(tried) >= 5
    monkeypatch.undo()
    _, again = executed(config, tmp_path, plan)
    assert again.trained == lost, "the next call trains only the missing stages"
    for key in lost:
        assert differences(again.results[key], whole.results[key]) == []


def test_a_group_that_exceeds_the_memory_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("seeds=5", "regimes=[combined]")
    plan = planned(config)
    whole = execute_module.fit

    def fit(config: Any, nodes: Sequence[Node], *rest: Any, **options: Any) -> Any:
        if len(nodes) > 2:
            raise torch.OutOfMemoryError("planted")
        return whole(config, nodes, *rest, **options)

    monkeypatch.setattr(execute_module, "fit", fit)
    _, execution = executed(config, plan=plan)
    assert execution.failures == {}
    assert {result.ledger.group for result in execution.results.values()} == {1, 2}


def test_a_config_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("seeds=2")
    plan = planned(config)
    broken(monkeypatch, set(plan.nodes), ConfigError("regime.freeze", 9, "freezes all"))
    with pytest.raises(ConfigError, match=r"regime\.freeze=9"):
        executed(config, plan=plan)


def test_stages_after_a_diverged_one_are_not_trained() -> None:
    config = tiny("seeds=2", "regimes=[sequential]", "optimizer.lr=1e30")
    plan, execution = executed(config)
    assert execution.failures == {}
    assert execution.results.keys() == {run.stages[0] for run in plan.runs}
    assert all(execution.diverged(run.stages[0]) for run in plan.runs)


def test_continued_momentum_is_one_long_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 2 with the optimizer kept equals a plain loop that continues with the same optimizer object, bit for bit."""
    monkeypatch.setattr("src.training.graph.choice.prefers_stacking", lambda *_: False)
    for optimizer in ("sgd", "adam"):
        config = tiny(
            "seeds=1",
            "regimes=[{sequential: {reset_optimizer: false}}]",
            f"optimizer={optimizer}",
            "optimizer.batch_size=8",
        )
        plan, execution = executed(config)
        nodes = [plan.nodes[key] for key in plan.runs[0].stages]
        model = build_model(config.arch, (1, 8, 8), 10, 0)
        given = config.optimizer
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
        options = {"momentum": given.momentum} if optimizer == "sgd" else {}
        plain = kind(model.parameters(), lr=given.lr, **options)
        for node in nodes:
            x, y = node.data.parts[0].inputs(), node.data.labels
            for epoch in range(node.length.n_epochs):
                for rows in torch.from_numpy(node.data.order(epoch)).split(8):
                    plain.zero_grad()
                    torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                    plain.step()
        for name, tensor in model.state_dict().items():
            assert same_bits(execution.results[nodes[-1].key].weights[name], tensor), (optimizer, name)


def test_average_and_shrink_perturb_are_their_formulas() -> None:
    a, b = {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(4)}, {"w": torch.tensor([3.0, -1.0]), "n": torch.tensor(6)}
    mean = average([a, b], [0.25, 0.75])
    assert mean["w"].tolist() == [2.5, 0.0]
    assert mean["n"] == 4
    noise = torch.nn.Linear(1, 2, bias=False)
    mixed = shrink_perturb({"weight": torch.ones(2, 1), "n": torch.tensor(1.0)}, noise, 0.5, 2.0)
    assert torch.equal(mixed["weight"], 0.5 + 2 * noise.weight.detach())
    assert mixed["n"] == 1
