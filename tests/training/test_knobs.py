"""Settings that published protocols need: each does what its definition says, alone as in a group, and refuses nonsense."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from src.cells.resolve import resolve
from src.config import Config, compose
from src.errors import ConfigError
from src.evaluation.metrics import smoothed_losses
from src.optimizers import OPTIMIZERS, SgdConfig
from src.training.penalties.lwf import OutputPenalty
from src.training.scoring import score_stages
from src.training.starting import initial_model
from tests.training.cells import CPU, differences, executed, planned, tiny, with_replicas

TASKS = ("split.parts=5", "split.classes=[[0,1],[2,3],[4,5],[6,7],[8,9]]", "split.size=100", "seeds=1")


def same_alone(config: Config) -> bool:
    """Whether a group gives each of its models the bits that it has alone."""
    plan, together = executed(config)
    _, alone = executed(with_replicas(config, 1))
    assert not together.failures
    return all(differences(together.results[key], alone.results[key]) == [] for key in plan.nodes)


def test_schedules_warm_up_and_fall() -> None:
    sgd = {"name": "sgd", "lr": 1.0, "batch_size": 1, "momentum": 0.0, "weight_decay": 0.0}

    def rates(n: int, **settings: object) -> list[float]:
        optimizer = OPTIMIZERS["sgd"](**{**sgd, "schedule": "constant", **settings})  # type: ignore[arg-type]
        return [optimizer.rate(k, n) for k in range(n)]

    assert rates(4) == [1, 1, 1, 1]
    assert rates(5, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates(4, schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(10, schedule="stable_decay") == pytest.approx([1] * 9 + [0.5])
    cosine = rates(6, schedule="cosine", warmup=2)
    assert cosine == pytest.approx([1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))])


def test_a_schedule_extends_over_every_stage_or_once_over_all() -> None:
    """The clipped updates of plain SGD at rate 1 are as long as the schedule says; a single stage has one key under both."""
    one_each = ("optimizer.batch_size=full", "stopping.epochs=1", "optimizer.momentum=0", "optimizer.lr=1")
    words = ("seeds=1", "split.parts=3", "split.size=90", *one_each, "optimizer.clip=0.01", "optimizer.warmup=2")
    moved, keys = {}, {}
    for span in ("stage", "run"):
        config = tiny("regimes=[sequential,combined,average]", *words, f"optimizer.span={span}")
        plan, execution = executed(config)
        keys[span] = {run.regime.name: run.stages for run in plan.runs}
        chain = [execution.results[key].weights for key in keys[span]["sequential"]]
        chain.insert(0, initial_model(config, next(iter(plan.nodes.values())), torch.float32).state_dict())
        pairs = itertools.pairwise(chain)
        moved[span] = [sum(float((b[n] - a[n]).square().sum()) for n in a) ** 0.5 for a, b in pairs]
    assert moved["stage"] == pytest.approx([0.01 / 3] * 3, rel=1e-3)
    assert moved["run"] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01], rel=1e-3)
    assert keys["run"]["combined"] == keys["stage"]["combined"]
    assert keys["run"]["average"] == keys["stage"]["average"], "its stages do not continue one another"
    assert keys["run"]["sequential"][2] != keys["stage"]["sequential"][2]
    with pytest.raises(ConfigError, match=r"^optimizer\.span=run: has no effect at a constant rate"):
        tiny("optimizer.span=run")
    with pytest.raises(ConfigError, match=r"^optimizer\.span=run: needs stages of a known length"):
        tiny("optimizer.span=run", "optimizer.schedule=cosine", "stopping=early_stopping")


def test_initial_weights_are_drawn_by_the_named_function() -> None:
    words = ("regimes=[combined]", "seeds=2")
    assert resolve(tiny(*words, "arch.init=default")).hash == resolve(tiny(*words)).hash
    config = tiny(*words, "arch.init=orthogonal")
    weights = initial_model(config, _node(config), torch.float32).state_dict()
    torch.testing.assert_close(weights["head.weight"] @ weights["head.weight"].T, torch.eye(10))
    assert not weights["head.bias"].any()
    assert same_alone(config)
    convolution = tiny(*words, "arch=cnn", "arch.widths=[4]", "arch.init=kaiming_uniform")
    drawn = initial_model(convolution, _node(convolution), torch.float32).state_dict()["conv_1.weight"]
    assert 0.9 < float(drawn.abs().max()) / math.sqrt(6 / 9) <= 1
    hashes = {
        resolve(tiny(*words, "arch=linear", f"arch.init={name}")).hash for name in ("default", "zero", "orthogonal")
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("arch", ["arch=mlp", "arch=cnn"])
def test_a_clipped_update_is_no_longer_than_the_rate_times_the_norm(arch: str) -> None:
    """One update of plain SGD at rate 1 in stacked and in looped models."""
    one_update = ("regimes=[combined]", "optimizer.batch_size=full", "stopping.epochs=1", "optimizer.momentum=0")
    config = tiny(*one_update, arch, "arch.widths=[4]", "optimizer.lr=1", "optimizer.clip=0.25", "seeds=2")
    plan, execution = executed(config)
    for key, node in plan.nodes.items():
        start = initial_model(config, node, torch.float32).state_dict()
        moved = sum(float((w - start[name]).square().sum()) for name, w in execution.results[key].weights.items())
        assert math.sqrt(moved) == pytest.approx(0.25, rel=1e-4)
    assert same_alone(config)


def test_label_smoothing_is_torchs() -> None:
    outputs, y = torch.randn(2, 7, 5), torch.randint(5, (2, 7))
    own = smoothed_losses(outputs, y, 0.1).flatten()
    torch.testing.assert_close(
        own, cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=0.1)
    )
    plain, smooth = (executed(tiny("regimes=[combined]", "seeds=1", f"label_smoothing={s}")) for s in (0, 0.2))
    weights = [next(iter(execution.results.values())).weights["head.weight"] for _, execution in (plain, smooth)]
    assert not torch.equal(*weights)


def test_stopping_at_a_training_accuracy() -> None:
    """The accuracy of the weights at the end, measured on the training data, is the target's or more; one epoch before, less."""
    rule = ("stopping=train_accuracy", "stopping.target=0.9", "stopping.max_epochs=60")
    config = tiny("regimes=[sequential]", "seeds=2", *rule)
    plan, execution = executed(config)
    assert same_alone(config)
    for run in plan.runs:
        first = execution.results[run.stages[0]]
        assert first.ledger.stopped_by == "tolerance"
        final = score_stages(config, [(plan.nodes[run.stages[0]].stream, first.weights)], "train", CPU)[0]
        assert float(final["d1/accuracy"] or 0) >= 0.9
    capped = tiny(
        "regimes=[combined]", "seeds=1", "stopping=train_accuracy", "stopping.target=1", "stopping.max_epochs=1"
    )
    assert [result.ledger.converged for result in executed(capped)[1].results.values()] == [False]


@pytest.mark.parametrize("arch", ["arch=mlp", "arch=cnn"])
def test_activation_and_dropout(arch: str) -> None:
    """Another activation or dropout is another network and another hash; the same alone as in a group."""
    words = ("regimes=[combined]", "seeds=2", arch, "arch.widths=[4]")
    configs = [tiny(*words), tiny(*words, "arch.activation=tanh"), tiny(*words, "arch.dropout=0.5")]
    assert len({resolve(config).hash for config in configs}) == 3
    kinds = [{type(m).__name__ for m in initial_model(c, _node(c), torch.float32).modules()} for c in configs]
    assert ["Tanh" in names for names in kinds] == [False, True, False]
    assert ["Dropout" in names for names in kinds] == [False, False, True]
    assert same_alone(configs[1])
    assert same_alone(configs[2])


def _node(config: Config):  # type: ignore[no-untyped-def]
    return next(iter(planned(config).nodes.values()))


def test_rates_and_batches_of_stages() -> None:
    three = ("split.parts=3", "split.size=90", "seeds=1", "optimizer.batch_size=10")
    regimes = "regimes=[{sequential:{lr_factor:0.5,lr_decay:0.5,batch_factor:3}},{warm_start:{grow_batch:true}}]"
    plan = planned(tiny(regimes, *three))
    decaying, growing = ([plan.nodes[key] for key in run.stages] for run in plan.runs)
    assert [node.stage.lr_factor for node in decaying] == [1, 0.25, 0.125]
    assert [node.length.batch_size for node in decaying] == [10, 30, 30]
    assert [(node.length.batch_size, node.length.updates) for node in growing] == [(10, 6), (20, 6), (30, 6)]


def test_every_data_set_may_have_the_same_images() -> None:
    words = (
        "regimes=[sequential]",
        "seeds=1",
        "split.parts=3",
        "split.size=300",
        "split=permuted",
        "split.shared=true",
    )
    stream = _node(tiny(*words)).stream
    ids = [part.ids.tolist() for part in stream.train]
    assert len(ids[0]) == 100
    assert ids[0] == ids[1] == ids[2]
    x = [part.inputs() for part in stream.train]
    assert not torch.equal(x[0], x[1])
    torch.testing.assert_close(x[0].flatten(1).sort().values, x[1].flatten(1).sort().values)
    held_out = {i for pool in (*stream.val.pools, *stream.test.pools) for i in pool.ids.tolist()}
    assert not held_out & set(ids[0])
    with pytest.raises(ConfigError, match=r"^split\.shared=true: gives equal data sets"):
        tiny("split.shared=true")


def test_scale_padding_and_random_angles_of_images() -> None:
    stream = _node(tiny("regimes=[combined]", "seeds=1", "split.pixels=unit", "split.pad=2")).stream
    x = stream.train[0].inputs()
    assert tuple(x.shape[1:]) == (1, 12, 12)
    assert x.min() == 0
    assert 0.9 < x.max() <= 1
    assert x[:, :, :2].abs().sum() + x[..., -2:].abs().sum() == 0
    signed = _node(tiny("regimes=[combined]", "seeds=1", "split.pixels=signed", "split.pad=2")).stream
    torch.testing.assert_close(signed.train[0].inputs(), 2 * x - 1)
    with pytest.raises(ConfigError, match=r"^split\.pixels=unit: is for images, and samples are \[50\]"):
        resolve(compose(["data=gaussian", "arch=linear", "loss=mse", "split.pixels=unit"]))
    rotated = "split.shift.kind=rotate_random"
    parts = [_node(tiny(f"seeds=[{s}]", rotated, "split.shift.amount=180")).stream.train for s in (0, 1)]
    assert parts[0][1].content != parts[1][1].content


def test_a_softmax_over_the_classes_seen_so_far() -> None:
    """With all classes in every data set it is the shared one, bit for bit; else the rows of classes to come stay as drawn."""
    words = ("regimes=[sequential,lwf]", "seeds=1")
    plan, execution = executed(tiny(*words))
    other, seen = executed(tiny(*words, "split.heads=seen"))
    for mine, own in zip(plan.runs, other.runs, strict=True):
        weights = execution.results[mine.stages[-1]].weights
        assert all(torch.equal(w, weights[name]) for name, w in seen.results[own.stages[-1]].weights.items())
    for heads, touched in (("seen", [2, 4, 6, 8, 10]), ("own", [2, 4, 6, 8, 10])):
        config = tiny("regimes=[sequential]", *TASKS, f"split.heads={heads}")
        plan, execution = executed(config)
        drawn = initial_model(config, _node(config), torch.float32).state_dict()["head.weight"]
        for key, n in zip(plan.runs[0].stages, touched, strict=True):
            moved = (execution.results[key].weights["head.weight"] != drawn).any(1)
            assert moved.tolist() == [c < n for c in range(10)]


def test_a_head_for_each_data_set() -> None:
    """Stage 2 leaves the head of Dataset 1 alone; a sample is scored among the classes of its own data set."""
    config = tiny("regimes=[sequential,lwf]", *TASKS, "split.heads=own", "stopping.epochs=8")
    plan, execution = executed(config)
    first, second = (execution.results[key].weights["head.weight"] for key in plan.runs[0].stages[:2])
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2:4], second[2:4])
    last = plan.nodes[plan.runs[0].stages[-1]]
    weights = execution.results[last.key].weights
    own, shared = (
        score_stages(
            dataclasses.replace(config, split=dataclasses.replace(config.split, heads=heads)),
            [(last.stream, weights)],
            "test",
            CPU,
        )[0]
        for heads in ("own", "shared")
    )
    assert float(own["union/accuracy"] or 0) > 0.6 > float(shared["union/accuracy"] or 1)
    held = plan.nodes[plan.runs[1].stages[2]]
    assert held.heads == ((0, 1), (2, 3), (4, 5))
    for words, message in (
        (["split.heads=own"], r"^split\.heads=own: needs data sets without a common class"),
        (["split.heads=seen", "label_smoothing=0.1"], r"^split\.heads=seen: needs loss=cross_entropy"),
        (["split.heads=seen", "regimes=[ewc]"], r"^split\.heads=seen: is not defined for ewc"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(tiny(*words))


def test_lwf_compares_each_head_alone() -> None:
    """Over two heads the term is the mean of the divergences of their softmaxes; outputs outside do not matter."""
    before, now = torch.randn(1, 6, 5), torch.randn(1, 6, 5)

    def term(outputs: torch.Tensor, heads: tuple[tuple[int, ...], ...]) -> float:
        return float(OutputPenalty(lambda _: before, 1.0, 2.0, "cross_entropy", heads)(None, outputs, outputs))  # type: ignore[arg-type]

    both = term(now, ((0, 1), (2, 3)))
    assert both == pytest.approx((term(now, ((0, 1),)) + term(now, ((2, 3),))) / 2)
    changed = now.clone()
    changed[..., 4] += 9
    assert term(changed, ((0, 1), (2, 3))) == pytest.approx(both)
    assert term(changed, ()) != pytest.approx(term(now, ()))


def test_lwf_over_the_new_classes_holds_them_down() -> None:
    """The teacher gives a new class 0, so the term is the divergence over earlier classes less the log of their share."""
    before, now = torch.randn(1, 6, 5, dtype=torch.float64), torch.randn(1, 6, 5, dtype=torch.float64)

    def term(seen: tuple[int, ...], taught: tuple[int, ...] | None) -> float:
        penalty = OutputPenalty(lambda _: before, 1.0, 2.0, "cross_entropy", (seen,), taught)  # type: ignore[arg-type]
        return float(penalty(None, now, now))  # type: ignore[arg-type]

    share = (now[..., :4] / 2).softmax(-1)[..., :2].sum(-1)
    assert term((0, 1, 2, 3), (0, 1)) == pytest.approx(term((0, 1), None) - float(share.log().mean()))
    words = ("regimes=[lwf,{lwf:{new_classes:true}}]", *TASKS)
    plan, execution = executed(tiny(*words, "split.heads=seen"))
    plain, held = (execution.results[run.stages[1]].weights["head.bias"] for run in plan.runs)
    assert float(held[2:4].mean()) < float(plain[2:4].mean()), "biases of the new classes"
    with pytest.raises(ConfigError, match=r"^regime\.lwf\.new_classes=true: needs split\.heads=seen"):
        resolve(tiny(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.clip=0"], r"^optimizer\.clip=0\.?0?: must be > 0"),
        (["optimizer.clip=1", "trainer=gpu", "trainer.precision=16-mixed"], r"^optimizer\.clip=1\.0: would clip"),
        (["label_smoothing=0.1", "loss=mse"], r"^label_smoothing=0\.1: needs loss=cross_entropy"),
        (["arch.dropout=1"], r"^arch\.dropout=1"),
        (["arch.activation=gelu"], r"^arch\.activation=gelu: must be relu or tanh"),
        (
            ["stopping=train_accuracy", "data=gaussian", "arch=linear", "loss=mse"],
            r"^stopping\.target=0\.99: is an accuracy",
        ),
        (["regimes=[{sequential:{lr_decay:0}}]"], r"^regime\.sequential\.lr_decay=0"),
    ],
)
def test_nonsense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(words)


def test_online_accuracy_scores_each_sample_before_its_update() -> None:
    """The first update scores the initial weights; a full batch scores the same samples once an epoch."""
    config = tiny("regimes=[combined]", "seeds=2", "online=true", "optimizer.batch_size=full", "stopping.epochs=1")
    plan, execution = executed(config)
    for key, node in plan.nodes.items():
        x, y = node.data.parts[0].inputs(), node.data.parts[0].y
        for part in node.data.parts[1:]:
            x, y = torch.cat([x, part.inputs()]), torch.cat([y, part.y])
        first = initial_model(config, node, torch.float32)
        assert execution.results[key].ledger.online == pytest.approx(float((first(x).argmax(-1) == y).double().mean()))
    learned = executed(tiny("regimes=[combined]", "seeds=1", "online=true", "stopping.epochs=20"))[1]
    assert float(next(iter(learned.results.values())).ledger.online or 0) > 0.5
    assert same_alone(tiny("regimes=[sequential,replay]", "seeds=2", "online=true"))
    assert next(iter(executed(tiny("regimes=[d1_only]", "seeds=1"))[1].results.values())).ledger.online is None
    with pytest.raises(ConfigError, match=r"^online=True: is an accuracy|^online=true: is an accuracy"):
        compose(["online=true", "data=gaussian", "arch=linear", "loss=mse"])


def test_the_hash_of_a_users_optimizer_does_not_depend_on_its_own_defaults() -> None:
    """The settings that came later are left out at the values that they had before, also by a class with others."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Warm(SgdConfig):
        warmup: int = 100

    given = {field.name: getattr(compose().optimizer, field.name) for field in dataclasses.fields(SgdConfig)}
    assert Warm(**given | {"warmup": 100}).content()["warmup"] == 100
    assert "warmup" not in Warm(**given | {"warmup": 0}).content()
