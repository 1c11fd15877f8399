"""`trainer.compile`: the same training up to rounding; refused where it saves less than it takes, or cannot be done.

Most tests compile without torch's code generator (`aot_eager`), which takes a tenth of the time and no C++ compiler.
"""

from __future__ import annotations

import copy
import errno
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import src.training.fit as fit_module
from src.cells.resolve import resolve
from src.config import Config, compose
from src.errors import ConfigError
from src.io import PROJECT
from src.training import compiling
from src.training.compiling import CompiledPass, check_pays, plain
from src.training.execute import Execution
from src.training.graph import choice
from src.training.plan import StagePlan
from src.training.result import StageResult
from tests.training.captures import CalledAgain
from tests.training.cells import CPU, differences, executed, planned, tiny, with_replicas
from tests.training.test_segments import left_and_gone_on

CNN = ("arch=cnn", "arch.widths=[4]", "optimizer.batch_size=7", "seeds=2", "regimes=[sequential]")
COMPILED = "trainer.compile=true"


@pytest.fixture
def _pays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However short the training is."""
    monkeypatch.setattr(compiling, "COMPILE_SECONDS", (0.0, 0.0))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch, _pays: None) -> None:
    function = torch.compile(plain, dynamic=False, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(compiling, "_compiled", lambda: function)


def n_compiled() -> int:
    return counters["stats"]["unique_graphs"]


def trained(*overrides: str) -> tuple[StagePlan, Execution]:
    plan, execution = executed(tiny(*overrides))
    assert not execution.failures
    return plan, execution


def in_order(plan: StagePlan, execution: Execution) -> list[StageResult]:
    return [execution.results[key] for run in plan.runs for key in run.stages]


def assert_close(one: StageResult, other: StageResult) -> None:
    """The same names, and values up to rounding."""
    assert list(one.weights) == list(other.weights)
    for name, tensor in one.weights.items():
        torch.testing.assert_close(other.weights[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch needs a C++ compiler")
@pytest.mark.usefixtures("_pays")
def test_compiled_training_is_the_plain_one_up_to_rounding_and_twice_the_same() -> None:
    words = (*CNN, "arch.dropout=0.3")
    plan, execution = trained(*words, COMPILED)
    plain_results = in_order(*trained(*words))
    for one, other in zip(plain_results, in_order(plan, execution), strict=True):
        assert_close(one, other)
    assert n_compiled() == 1, "whole batches of all models, stages and modes share the code"
    alone = executed(with_replicas(tiny(*words, COMPILED), 1), plan=plan)[1]
    for key in plan.nodes:
        assert differences(execution.results[key], alone.results[key]) == []


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "words",
    [
        ("arch=mlp", "optimizer=adam", "regimes=[ewc,lwf]"),
        (*CNN, "regimes=[{freeze: {first: 1}}]", "trainer.precision=64"),
    ],
)
def test_penalties_and_frozen_layers(words: tuple[str, ...]) -> None:
    plan, execution = trained("seeds=2", *words, COMPILED)
    for one, other in zip(in_order(*trained("seeds=2", *words)), in_order(plan, execution), strict=True):
        assert_close(one, other)
        assert other.ledger.engine == "loop"
    assert n_compiled() >= 1


@pytest.mark.usefixtures("_quick")
def test_statistics_of_normalisation() -> None:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    config = tiny(*CNN, "regimes=[combined]")
    nodes = list(planned(config).nodes.values())

    def fitted(config: Config) -> list[StageResult]:
        return fit_module.fit(config, nodes, [copy.deepcopy(nn.Sequential(*layers)) for _ in nodes], CPU)

    for one, other in zip(fitted(config), fitted(tiny(*CNN, "regimes=[combined]", COMPILED)), strict=True):
        assert_close(one, other)
    assert n_compiled() == 1


@pytest.mark.usefixtures("_quick")
def test_a_compiled_stage_is_another_one_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "UPDATES_AT_ONCE", 3)  # so that it is also interrupted within epochs
    config = tiny(*CNN, "arch.dropout=0.3", COMPILED)
    plan, whole = executed(config)
    assert not plan.nodes.keys() & planned(tiny(*CNN, "arch.dropout=0.3")).nodes.keys()
    again, n_left = left_and_gone_on(config, tmp_path, plan, 3)
    assert n_left > 1
    for key in plan.nodes:
        assert differences(whole.results[key], again.results[key]) == []


@pytest.mark.usefixtures("_quick")
def test_a_recorded_update_is_a_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorded(CalledAgain):
        """Whose replay does not look for waits: that changes what torch compiles."""

        def record(self, update: Callable[[], None]) -> Callable[[], None]:
            self.n_recorded += 1
            return update

    words = (*CNN, "stopping.epochs=6", COMPILED)
    plan, execution = trained(*words)
    made = Recorded()
    monkeypatch.setattr(choice, "capture_on", lambda _: made)
    _, graphed = trained(*words)
    for key in plan.nodes:
        one, other = execution.results[key], graphed.results[key]
        assert other.ledger.capture == "graph"
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
    assert n_compiled() == 1, "before the recording"
    assert made.branches.forked


@pytest.mark.usefixtures("_quick")
def test_more_kinds_of_network_than_torch_keeps_code_for() -> None:
    for width in range(1, 12):
        model, x = nn.Linear(2, width), torch.ones(3, 2)
        call = CompiledPass(3).of(model, x)
        assert call is compiling._compiled()
        torch.testing.assert_close(call(model, x), model(x))
    assert n_compiled() == 11


@pytest.mark.usefixtures("_quick")
def test_an_attempt_changes_neither_the_model_nor_any_generator() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x, before, state = torch.randn(3, 2), [t.clone() for t in model.state_dict().values()], torch.get_rng_state()
    compiled = CompiledPass(3)
    assert compiled.of(model, x[:2]) is plain, "the rest of an epoch"
    assert n_compiled() == 0
    compiled.of(model, x)
    assert n_compiled() == 1
    assert all(torch.equal(*pair) for pair in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


class Reading(nn.Module):
    """Its forward pass depends on a value, which no compiled code can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) if float(x.sum()) > 0 else self.head(-x)


@pytest.mark.usefixtures("_quick")
def test_a_network_that_cannot_be_compiled_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^trainer\.compile=true: torch cannot compile this network \(.+; set it to"
    ) as error:
        CompiledPass(3).of(Reading(), torch.ones(3, 2))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_pays")
def test_a_compiler_that_fails_ends_the_cell_before_its_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Callable[..., object]:
        raise RuntimeError("No working C++ compiler found\nin PATH")

    function = torch.compile(plain, dynamic=False, fullgraph=True, backend=broken)
    monkeypatch.setattr(compiling, "_compiled", lambda: function)
    made: list[object] = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_: made.append(None))
    with pytest.raises(ConfigError, match=r"No working C\+\+ compiler found in PATH"):
        executed(tiny(*CNN, COMPILED))
    assert not made


@pytest.mark.usefixtures("_quick")
def test_memory_that_is_too_small_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compiling, "_compiled", lambda: full)
    _, execution = executed(tiny(*CNN, COMPILED))
    assert execution.out_of_memory


class Counting(nn.Module):
    """It counts its calls, so that each takes code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.n_calls = nn.Linear(2, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return self.head(x) * self.n_calls


@pytest.mark.usefixtures("_quick")
def test_a_network_that_is_compiled_at_every_call_is_refused_before_the_first_update() -> None:
    model = Counting()
    with pytest.raises(ConfigError, match=r"^trainer\.compile=true: torch cannot compile this network \(.*recompile"):
        CompiledPass(3).of(model, torch.ones(3, 2))
    assert model.n_calls == 0


@pytest.mark.usefixtures("_quick")
def test_a_full_disk_is_not_the_networks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiling, "_compiled", lambda: full)
    with pytest.raises(OSError, match="No space left"):
        CompiledPass(3).of(nn.Linear(2, 2), torch.ones(3, 2))


def checked(*words: str) -> None:
    cells = [resolve(tiny(*CNN, COMPILED, *each.split())) for each in words]
    check_pays([(cell.config, cell.streams) for cell in cells])


def test_short_training_is_refused_with_the_estimate() -> None:
    line = (
        r"^trainer\.compile=true: compiling takes about \S+ s, and the \d+ updates of this command would save \S+ s \("
    )
    with pytest.raises(ConfigError, match=line):
        checked("")
    checked("arch.widths=[64] stopping.epochs=1000000")  # long enough
    checked("", "arch.widths=[64] stopping.epochs=1000000")  # they share the command
    check_pays([])


def test_training_that_tunes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = resolve(
        tiny(*CNN, COMPILED, "tune=equal", "tune.trials=16", "tune.space='{optimizer.lr: interval(0.01,0.1)}'")
    )
    plain = resolve(tiny(*CNN, COMPILED))
    n = {}
    monkeypatch.setattr(compiling, "FLOPS_PER_SECOND", 1e30)
    for name, one in (("tuned", cell), ("plain", plain)):
        with pytest.raises(ConfigError) as error:
            check_pays([(one.config, one.streams)])
        n[name] = int(re.findall(r"the (\d+) updates", str(error.value))[0])
    assert n["tuned"] == n["plain"] * (2 + cell.config.tune.n_runs) // 2


def test_a_new_cell_is_refused_by_its_command_and_one_that_was_begun_is_not(tmp_path: Path) -> None:
    words = [COMPILED, "split.size=60", "stopping.epochs=1", "tracking=off", f"multirun={tmp_path}", "sweep=s"]

    def run(entry: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", entry, *words, *more]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    for entry in ("src.sweep", "src.train"):
        done = run(entry)
        assert done.returncode == 2
        assert re.match(r"error: trainer\.compile=true: compiling takes about .* s", done.stderr)
    assert not (tmp_path / "s" / "cells").exists()
    resolve(compose(words)).folder.mkdir(parents=True)
    done = run("src.sweep", "dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
