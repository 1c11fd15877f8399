"""Regimes that mix data sets draw their shares, keep their memories, and repeat their blocks as docs/REGIMES.md says."""

from __future__ import annotations

import torch

from tests.training.cells import executed, planned, tiny


def test_self_replay_of_a_network_that_is_right_is_replay() -> None:
    """Labels that equal the true ones give the very weights of replay; those of a bad network do not."""
    names = "regimes=[self_replay,replay]"
    fitted = tiny(names, "seeds=1", "stopping=convergence", "stopping.max_epochs=200", "stopping.tolerance=0.01")
    for config, is_right in ((fitted, True), (tiny(names, "seeds=1", "stopping.epochs=1"), False)):
        plan, execution = executed(config)
        own, true = (execution.results[run.stages[-1]].weights for run in plan.runs)
        assert all(torch.equal(own[name], true[name]) for name in own) == is_right


def test_a_memory_keeps_its_size_balance_and_past() -> None:
    """A memory is fixed at the end of a stage: what it holds later of that stage's data, it held before."""
    three = ("split.parts=3", "split.size=240", "split.imbalance=8", "seeds=1", "optimizer.batch_size=10")
    plan = planned(tiny("regimes=[{replay:{share:0.3,memory:30,even:true}}]", *three))
    second, third = (plan.nodes[key].data for key in plan.runs[0].stages[1:])
    ids = [set(torch.cat([part.ids for part in data.parts])[data.pools[0]].tolist()) for data in (second, third)]
    assert [len(own) for own in ids] == [30, 30]
    first = set(second.parts[0].ids.tolist())
    assert ids[1] & first < ids[0]
    batches = second.order(0).reshape(-1, 10)
    assert ((batches < len(second.parts[0])).sum(1) == 3).all()
    for regime in ("{replay:{memory:30,kept:balanced}}", "{gdumb:{memory:30}}"):
        plan = planned(tiny(f"regimes=[{regime}]", *three))
        data = plan.nodes[plan.runs[0].stages[-1]].data
        counts = torch.bincount(data.labels[data.pools[0]], minlength=10)
        assert counts.sum() == 30
        assert counts.max() <= 4


def test_blocks_count_passes_as_combined_does() -> None:
    """Ten epochs are one pass over the blocks, each sample ten times in a row; one epoch is a tenth of the samples."""
    config = tiny("regimes=[{blocks:{repeats:10}}]", "seeds=1", "stopping.epochs=10", "optimizer.batch_size=1")
    plan = planned(config)
    (node,) = plan.nodes.values()
    assert (node.length.updates, node.length.samples, node.length.n_epochs) == (600, 600, 1)
    order = node.data.order(0).reshape(60, 10)
    assert (order == order[:, :1]).all()
    assert sorted(order[:, 0].tolist()) == list(range(60))
    pieces = planned(tiny("regimes=[{blocks:{repeats:3,piece:20}}]", "seeds=1"))
    blocks = next(iter(pieces.nodes.values())).data.order(0).reshape(3, 3, 20)
    assert (blocks == blocks[:, :1]).all()
    assert sorted(blocks[:, 0].reshape(-1).tolist()) == list(range(60))


def test_replay_draws_its_share_and_balances_earlier_data() -> None:
    """Stage 2 draws the share from Dataset 1, balanced over classes on request, and Dataset 2 without balancing."""
    overrides = ["regimes=[{replay:{share:0.5,balanced:true}}]", "seeds=1", "split.size=200", "split.imbalance=5"]
    plan = planned(tiny(*overrides))
    node = plan.nodes[plan.runs[0].stages[-1]]
    order, n_old = node.data.order(0), len(node.data.parts[0])
    labels = node.data.labels.numpy()
    assert (order < n_old).sum() == 50 == len(order) // 2
    counts = [int((labels[order[order < n_old]] == c).sum()) for c in range(10)]
    assert counts == [5] * 10
    assert len(set(order[order >= n_old])) == 50
