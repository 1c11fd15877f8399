"""How updates run on a device, and what may be continued or taken from the store under which choice."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

import src.training.execute as execute_module
from src.models.build import build_model
from src.training.control import NO_CONTROL
from src.training.devices import Device
from src.training.execute import Execution
from src.training.fit import fit
from src.training.graph import choice
from src.training.graph.choice import form_of, uncapturable
from src.training.result import ResumePoint
from src.training.starting import initial_model
from src.training.store.store import Store
from tests.training.captures import CalledAgain
from tests.training.cells import CPU, executed, planned, tiny


def test_dropout_several_devices_and_an_own_optimizer_are_not_recorded() -> None:
    config = tiny()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert uncapturable(config, model, CPU) is None
    assert "dropout" in str(uncapturable(config, torch.nn.Sequential(torch.nn.Dropout(0.1)), CPU))
    assert "trainer.devices=2" in str(uncapturable(config, model, dataclasses.replace(CPU, world=2)))

    class Own(type(config.optimizer).__mro__[1]):  # type: ignore[misc]
        build = type(config.optimizer).build

    own = Own(**{f.name: getattr(config.optimizer, f.name) for f in dataclasses.fields(config.optimizer)})
    assert "optimizer=sgd" in str(uncapturable(dataclasses.replace(config, optimizer=own), model, CPU))


def test_a_graph_runs_each_models_own_convolutions_and_stacks_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "capture_on", lambda _: CalledAgain())
    gpu, found = Device(torch.device("cuda"), torch.float32), {}
    for arch, graph in itertools.product(("cnn", "mlp"), ("off", "auto")):
        config = tiny(f"arch={arch}", "arch.widths=[4]", f"trainer.graph={graph}", "trainer.precision=bf16-mixed")
        model = build_model(config.arch, (1, 8, 8), 10, 0)
        form = form_of(config, model, (1, 8, 8), gpu)
        assert (form.reason, form.capture is None) == ((choice.OFF, True) if graph == "off" else (None, False))
        found[arch, graph] = form.is_stacked, form.layout(model)
    assert found == {
        ("cnn", "off"): (True, torch.contiguous_format),
        ("cnn", "auto"): (False, torch.channels_last),
        ("mlp", "off"): (True, torch.contiguous_format),
        ("mlp", "auto"): (True, torch.contiguous_format),
    }


def test_a_stage_trained_kernel_by_kernel_is_not_taken_for_one_of_a_graph() -> None:
    _, execution = executed(tiny("seeds=1", "regimes=[combined]"))
    (result,) = execution.results.values()
    cpu = result.ledger
    auto, off = tiny(), tiny("trainer.graph=off")
    for ledger, fits_auto, fits_off in [
        (cpu, True, True),
        (dataclasses.replace(cpu, device="cuda", capture="graph"), True, False),
        (dataclasses.replace(cpu, device="cuda", capture="eager", capture_reason="dropout"), True, False),
        (dataclasses.replace(cpu, device="cuda", capture="eager", capture_reason=choice.OFF), False, True),
        (dataclasses.replace(cpu, device="cuda"), False, True),
    ]:
        assert choice.is_trained_by(ledger, ledger.device, auto.trainer.graph) is fits_auto, ledger
        assert choice.is_trained_by(ledger, ledger.device, off.trainer.graph) is fits_off, ledger
    assert not choice.is_trained_by(cpu, "cuda", "auto")


def test_a_checkpoint_of_a_graph_is_continued_as_a_graph_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("seeds=1", "regimes=[combined]", "stopping.epochs=6")
    plan, store = planned(config), Store(tmp_path)
    (node,) = plan.nodes.values()

    def checkpoint() -> ResumePoint:
        models = [initial_model(config, node, torch.float32)]
        (result,) = fit(config, [node], models, CPU)
        assert result.resume_point is not None
        return result.resume_point

    store.put_resume_point(node.key, checkpoint())
    assert b'"capture"' not in store.resume_path(node.key).read_bytes().replace(b"\\", b""), "the format of a CPU"
    monkeypatch.setattr(choice, "capture_on", lambda _: CalledAgain())
    point = dataclasses.replace(checkpoint(), device="cuda")
    store.put_resume_point(node.key, point)
    monkeypatch.setattr(execute_module, "fingerprint", lambda _: point.machines[0])
    found = []
    for graph in ("auto", "off"):
        asked = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, graph=graph))
        gpu = Device(torch.device("cuda"), torch.float32)
        executor = execute_module._Executor(asked, plan, Execution(store), gpu, NO_CONTROL)
        found.append([(one.capture, one.capture_reason) for one in executor._resume_points([node]).values()])
    assert found == [[("graph", "")], []]
    assert caplog.text.count("1 stages start over") == 1
    assert choice.capture_in_all(point, ("graph", "")) == ("graph", "")
    assert choice.capture_in_all(point, ("eager", "streamed")) == ("eager", "after it was resumed: streamed")
    streamed = dataclasses.replace(point, capture="eager", capture_reason="streamed")
    assert choice.capture_in_all(streamed, ("graph", "")) == ("eager", "before it was resumed: streamed")
