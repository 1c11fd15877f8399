"""`arch.weights`: every regime starts at the weights of a file, with a head of its own; cells are named by the content."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from src.config import compose, parse
from src.config.command import command
from src.config.serialize import to_mapping
from src.errors import ConfigError
from src.models.build import build_model
from tests.training.cells import executed, tiny


def saved(path: Path, n_outputs: int = 4) -> dict[str, torch.Tensor]:
    """The weights of a default network (64-64-K), saved."""
    weights = dict(build_model(compose().arch, (1, 8, 8), n_outputs, seed=77).state_dict())
    torch.save(weights, path)
    return weights


def test_every_regime_starts_at_the_file_with_a_fresh_head(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pt")
    config = tiny(f"arch.weights={tmp_path / 'w.pt'}", "regimes=[sequential,combined]", "seeds=2")
    heads = []
    for seed in (0, 1):
        model = build_model(config.arch, (1, 8, 8), 10, seed).state_dict()
        assert torch.equal(model["hidden_1.weight"], weights["hidden_1.weight"])
        plain = build_model(tiny().arch, (1, 8, 8), 10, seed).state_dict()
        assert torch.equal(model["head.weight"], plain["head.weight"])  # of the seed, as without the file
        heads.append(model["head.weight"])
    assert not torch.equal(*heads)
    plan, execution = executed(config)
    assert not execution.failures
    assert {run.regime.label for run in plan.runs} == {"sequential", "combined"}


def test_fresh_noise_of_shrink_and_perturb_is_not_the_file(tmp_path: Path) -> None:
    weights = saved(tmp_path / "w.pt")
    arch = tiny(f"arch.weights={tmp_path / 'w.pt'}").arch
    noise = build_model(arch, (1, 8, 8), 10, 0, address=("perturb", 1)).state_dict()
    assert not torch.equal(noise["hidden_1.weight"], weights["hidden_1.weight"])


def test_cells_are_named_by_the_content_of_the_file(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    saved(tmp_path / "c.pt", n_outputs=7)
    same, moved, other = (compose([f"arch.weights={tmp_path / name}.pt"]) for name in "abc")
    assert same.recipe() == moved.recipe() != other.recipe()
    assert "weights" not in compose().recipe()["arch"]  # hashes of cells without a file are as before
    assert same.axes()["arch"] == f"mlp({same.recipe()['arch']['weights'][:8]})"
    assert parse(to_mapping(same)) == same
    assert compose(shlex.split(command(same))[3:]).arch == same.arch


def test_torchvision_weights_fit_grey_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file of another script, or by torchvision's own name, from torch's cache of downloads."""
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = get_model("resnet18", weights=None, num_classes=1000).state_dict()
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(theirs, file)
    grey = None
    for given in (str(file), "DEFAULT", "IMAGENET1K_V1"):
        arch = compose(["arch=torchvision", "arch.model=resnet18", f"arch.weights={given}"]).arch
        assert str(arch.weights).startswith(f"{file}@")
        model = build_model(arch, (3, 32, 32), 10, seed=0).state_dict()
        assert torch.equal(model["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])
        grey = build_model(arch, (1, 32, 32), 10, seed=0).state_dict()["conv1.weight"]
    assert grey is not None
    assert torch.allclose(grey, theirs["conv1.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["arch.weights=absent.pt"], r"arch\.weights=absent\.pt: no such file"),
        (["arch.widths=[32]"], r"arch\.weights=.*does not fit.*hidden_1\.weight is \[64, 64\], here \[32, 64\]"),
        (["arch=torchvision", "arch.model=resnet18", "arch.weights=DEFALT"], r"no pretrained weights.*IMAGENET1K_V1"),
    ],
)
def test_refused(tmp_path: Path, overrides: list[str], problem: str) -> None:
    from src.cells.resolve import resolve

    saved(tmp_path / "w.pt")
    given = [f"arch.weights={tmp_path / 'w.pt'}"] if "weights" not in str(overrides) else []
    with pytest.raises(ConfigError, match=problem):
        resolve(compose([*overrides, *given]))
