"""A file of weights in place of stage 1: identified by its content, refused with the reason if it does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src.config import compose, parse, parse_regime, run_hash
from src.config.command import command
from src.config.serialize import to_mapping
from src.data.split import StreamFactory
from src.errors import ConfigError
from src.models.build import build_model
from src.regimes.checkpoint import pin, read, split_pin
from src.training.compatibility import check_cell
from tests.training.cells import executed, planned, tiny


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """A state dict of the default network (64-64-10)."""
    return dict(build_model(compose().arch, (1, 8, 8), 10, seed=77).state_dict())


def regime(name: str, path: Path) -> str:
    return f"regimes=[{{{name}:{{checkpoint:'{path}'}}}}]"


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
@pytest.mark.parametrize(
    "name", ["sequential", "replay", "freeze", "ewc", "lwf", "l2_sp", "warm_start", "shrink_perturb"]
)
def test_the_file_replaces_stage_1(name: str, suffix: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """No update is made on Dataset 1; at every seed, the next stage starts from exactly the weights of the file."""
    path = tmp_path / f"old.{suffix}"
    torch.save(weights, path) if suffix != "safetensors" else save_file(weights, path)
    plan, execution = executed(tiny(regime(name, path), "seeds=2"))
    assert not execution.failures
    for run in plan.runs:
        first, second = (execution.results[key] for key in run.stages)
        assert (first.ledger.updates, first.ledger.samples) == (0, 0)
        assert all(torch.equal(first.weights[n], weights[n]) for n in weights)
        assert second.ledger.updates > 0


def test_a_run_is_named_by_the_content_of_its_file(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The same file elsewhere gives the same label, run and stages; other weights under the same name do not."""
    here, there = tmp_path / "a.pt", tmp_path / "moved" / "b.pt"
    there.parent.mkdir()
    torch.save(weights, here)
    shutil.copy(here, there)
    one, other = (compose([regime("sequential", path)]).regimes[0] for path in (here, there))
    assert one.label == other.label
    assert "/" not in one.label
    assert run_hash("c", one, 0) == run_hash("c", other, 0)
    stages = [planned(tiny(regime("sequential", path), "seeds=1")).runs[0].stages for path in (here, there)]
    assert stages[0] == stages[1]
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, here)
    changed = compose([regime("sequential", here)]).regimes[0]
    assert changed.label != one.label
    assert run_hash("c", changed, 0) != run_hash("c", one, 0)
    assert planned(tiny(regime("sequential", here), "seeds=1")).runs[0].stages[1] != stages[0][1]


def test_a_saved_configuration_holds_on_to_the_content(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Config, saved mapping and the reproducing command are the same regime; a changed file is refused, not mixed in."""
    path = tmp_path / "old.pt"
    torch.save(weights, path)
    config = compose([regime("freeze", path)])
    import shlex

    assert parse(to_mapping(config)) == config
    assert compose(shlex.split(command(config))[3:]).regimes == config.regimes
    saved = to_mapping(config)
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, path)
    with pytest.raises(ConfigError, match="by now"):
        parse(saved)


def test_a_network_with_other_names_is_matched_by_position(tmp_path: Path) -> None:
    """An nn.Sequential without names is accepted with a warning if its shapes agree in order."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    path = tmp_path / "mine.pt"
    torch.save(model.state_dict(), path)
    own = build_model(compose().arch, (1, 8, 8), 10, seed=0).state_dict()
    with pytest.warns(UserWarning, match=r"1\.weight as hidden_1\.weight"):
        found = read(pin(str(path), "k"), own)
    assert torch.equal(found["head.weight"], model[3].weight)


def test_training_continues_from_a_torchvision_network(tmp_path: Path) -> None:
    """torchvision's resnet18, saved by another script, matches arch=torchvision by name, running statistics included."""
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=10).state_dict(), tmp_path / "r.pth")
    config = compose([regime("sequential", tmp_path / "r.pth"), "arch=torchvision", "arch.model=resnet18"])
    from src.data.source import make_source

    images = make_source(torch.zeros(1000, 3, 32, 32, dtype=torch.uint8), torch.arange(1000) % 10, tuple("abcdefghij"))
    check_cell(config, StreamFactory(config.split, images))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"hidden_1.weight": torch.zeros(3, 3)},
            r"lacks hidden_1\.bias.*hidden_1\.weight is \[3, 3\], here \[64, 64\]",
        ),
        ({"epoch": 3}, "no state dict"),
        ({"fc.weight": torch.zeros(3)}, r"lacks hidden_1\.weight .* and 1 more"),
        (nn.Linear(2, 2), "plain weights"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).state_dict(),
            r"by their order: 1\.weight as hidden_1\.weight, \.\.\.; hidden_1\.weight is \[32, 64\], here \[64, 64\]",
        ),
    ],
)
def test_an_incompatible_file_is_refused_before_training(content: object, problem: str, tmp_path: Path) -> None:
    """One line with what is missing, unknown or of another shape."""
    from src.cells.resolve import resolve

    path = tmp_path / "odd.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=problem) as raised:
        resolve(compose([regime("sequential", path)]))
    assert str(raised.value).startswith("regime.sequential.checkpoint=")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_weights_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Absent, of another kind, damaged, or not finite."""
    own = {name: tensor.to("meta") for name, tensor in weights.items()}
    with pytest.raises(ConfigError, match="no such file"):
        pin(str(tmp_path / "absent.pt"), "k")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ConfigError, match="unknown kind"):
        pin(str(tmp_path / "a.onnx"), "k")
    for name in ("b.pt", "b.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(ConfigError, match=r"plain weights|no safetensors"):
            read(str(tmp_path / name), own)
    torch.save({**weights, "head.bias": torch.full((10,), float("nan"))}, tmp_path / "nan.pt")
    with pytest.raises(ConfigError, match="not finite"):
        read(str(tmp_path / "nan.pt"), own)
    assert split_pin("dir@home/a.pt") == ("dir@home/a.pt", None)


def test_a_file_has_no_optimizer_state(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Continuing with momentum that the file does not have is refused."""
    torch.save(weights, tmp_path / "old.pt")
    with pytest.raises(ConfigError, match="reset_optimizer"):
        parse_regime({"sequential": {"checkpoint": str(tmp_path / "old.pt"), "reset_optimizer": False}}, 2)


CLASSES = tuple("0123456789")


def test_rows_of_a_head_go_to_the_classes_of_their_names(tmp_path: Path) -> None:
    """23 classes become 26, in small: rows by name, the others as freshly drawn, at every seed; the rest of the file."""
    old = dict(build_model(compose().arch, (1, 8, 8), 4, seed=77).state_dict())
    path = tmp_path / "old.pt"
    torch.save(old, path)
    given = f"regimes=[{{sequential:{{checkpoint:{{path:'{path}',classes:[7,zebra,'2',9]}}}}}}]"
    plan, execution = executed(tiny(given, "seeds=2"))
    assert not execution.failures
    heads = []
    for run in plan.runs:
        first = execution.results[run.stages[0]].weights
        fresh = build_model(compose().arch, (1, 8, 8), 10, run.seed).state_dict()
        assert torch.equal(first["hidden_1.weight"], old["hidden_1.weight"])
        for name in ("head.weight", "head.bias"):
            for row, label in enumerate(CLASSES):
                taken = {"7": 0, "2": 2, "9": 3}.get(label)
                assert torch.equal(first[name][row], fresh[name][row] if taken is None else old[name][taken])
        heads.append(first["head.weight"])
    assert not torch.equal(*heads)


def test_an_empty_list_of_classes_takes_the_backbone_alone(tmp_path: Path) -> None:
    """Also from a file without a head. Files that differ in their classes alone are different regimes."""
    weights = dict(build_model(compose().arch, (1, 8, 8), 4, seed=77).state_dict())
    own = build_model(compose().arch, (1, 8, 8), 10, seed=5).state_dict()
    for content in (weights, {name: t for name, t in weights.items() if not name.startswith("head")}):
        torch.save(content, tmp_path / "old.pt")
        found = read(pin({"path": str(tmp_path / "old.pt"), "classes": []}, "k"), own, class_names=CLASSES)
        assert torch.equal(found["hidden_1.bias"], weights["hidden_1.bias"])
        assert torch.equal(found["head.weight"], own["head.weight"])
    torch.save(weights, tmp_path / "old.pt")
    texts = [pin({"path": str(tmp_path / "old.pt"), "classes": names}, "k") for names in ([], list("0123"))]
    labels = [parse_regime({"sequential": {"checkpoint": text}}, 2).label for text in texts]
    assert len(set(labels)) == 2
    assert pin(texts[1], "k") == texts[1]
    config = compose([f"regimes=[{{lwf:{{checkpoint:{{path:'{tmp_path}/old.pt',classes:['a b','x,\"y']}}}}}}]"])
    import shlex

    assert parse(to_mapping(config)) == config
    assert compose(shlex.split(command(config))[3:]).regimes == config.regimes


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (None, r"head\.weight is \[4, 64\], here \[10, 64\].*name them: checkpoint:\{path:FILE,classes:\[\.\.\.\]\}"),
        (["7", "2"], r"checkpoint\.classes=.*names 2 classes, but the file's head has 4 outputs"),
        (list("abcd"), r"checkpoint\.classes=.*none of them is a class of the data \(0, 1, 2, 3, \.\.\.\)"),
        (["7", "7", "2", "3"], r"checkpoint\.classes=.*names a class twice"),
    ],
)
def test_a_head_that_does_not_fit_says_how(classes: list[str] | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(build_model(compose().arch, (1, 8, 8), 4, seed=0).state_dict(), path)
    given = str(path) if classes is None else {"path": str(path), "classes": classes}
    own = {name: t.to("meta") for name, t in build_model(compose().arch, (1, 8, 8), 10, seed=0).state_dict().items()}
    with pytest.raises(ConfigError, match=problem):
        read(pin(given, "regime.sequential.checkpoint"), own, "regime.sequential.checkpoint", CLASSES)
