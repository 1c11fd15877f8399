"""A file with an nn.Module, as a user has it, is an architecture; what the laboratory cannot train is found first."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import pytest
import torch

from src.cells.resolve import resolve
from src.config import compose, parse
from src.config.command import command
from src.config.serialize import to_mapping
from src.errors import ConfigError
from src.models.build import build_model
from src.models.structure import prefers_stacking
from tests.training.cells import differences, executed, tiny, with_replicas

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional\n"
NET = """
class Net(nn.Module):
    def __init__(self, in_channels, num_classes, width: int = 8, rate: float = 0, sides=[1, 1]):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.drop = nn.Dropout(rate)
        self.pool = nn.AdaptiveAvgPool2d(sides)
        self.head = nn.Linear(width * sides[0] * sides[1], num_classes)

    def forward(self, x):
        return self.head(self.drop(self.pool(functional.relu(self.conv(x)))).flatten(1))
"""


def file_of(tmp_path: Path, code: str) -> str:
    (tmp_path / "my_net.py").write_text(HEAD + code)
    return f"plugins=[{tmp_path / 'my_net.py'}]"


def test_a_module_of_ones_own_trains_like_a_built_in(tmp_path: Path) -> None:
    """Its parameters are settings, of their annotated types; alone and in a group it has the same bits."""
    plugin = file_of(tmp_path, NET)
    config = tiny(plugin, "arch=Net", "arch.width=4", "arch.rate=0.25", "arch.sides=[2,2]", "seeds=2")
    model = build_model(config.arch, (1, 8, 8), 10, 0)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()}["head.weight"] == (10, 16)
    _, together = executed(config)
    _, alone = executed(with_replicas(config, 1))
    assert pickle.loads(pickle.dumps(config)) == config, "for the process that draws a report's cells"
    assert not together.failures
    assert together.results.keys() == alone.results.keys()
    assert all(not differences(result, alone.results[key]) for key, result in together.results.items())
    assert config.axes()["arch"] == "Net"
    assert parse(to_mapping(config)) == config
    assert compose(shlex.split(command(config))[3:]).arch == config.arch
    with pytest.raises(ConfigError, match=r"arch\.width=wide: must be a whole number"):
        compose([plugin, "arch=Net", "arch.width=wide"])


DEFAULTS = """
from dataclasses import dataclass

from torch import nn

from src.optimizers import OPTIMIZERS


def blended(in_features, num_classes, *, momentum: float = 0.25):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))


@dataclass(frozen=True, kw_only=True)
class Slow(OPTIMIZERS["sgd"]):
    lr: float = 0.002


ARCHITECTURES = {"blended": blended}
OPTIMIZERS = {"slow": Slow}
"""


def test_a_setting_of_a_plugin_has_its_own_default_whatever_its_name(tmp_path: Path) -> None:
    """Not that of the setting of this name in src."""
    config = compose([file_of(tmp_path, DEFAULTS), "arch=blended", "optimizer=slow"])
    assert config.arch.content()["momentum"] == 0.25
    assert (config.optimizer.lr, config.optimizer.batch_size) == (0.002, 64)


FROZEN = """
def row(in_features, num_classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, num_classes))
    net[1].requires_grad_(False)
    return net


def convolution(in_channels, num_classes):
    layers = nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    net = nn.Sequential(*layers)
    net[0].requires_grad_(False)
    return net


ARCHITECTURES = {"row": row, "convolution": convolution}
"""


@pytest.mark.parametrize(
    ("arch", "frozen", "head"), [("row", "1.weight", "3.weight"), ("convolution", "0.weight", "4.weight")]
)
def test_parameters_that_it_freezes_stay_as_they_are(tmp_path: Path, arch: str, frozen: str, head: str) -> None:
    regimes = "regimes=[sequential,ewc,{ewc:{full:true}},dash,shrink_perturb,{freeze:{pattern:weight}}]"
    config = tiny(file_of(tmp_path, FROZEN), f"arch={arch}", regimes, "seeds=1")
    initial = build_model(config.arch, (1, 8, 8), 10, 0).state_dict()
    _, execution = executed(config)
    assert not execution.failures
    for result in execution.results.values():
        assert torch.equal(result.weights[frozen], initial[frozen])
        assert not torch.equal(result.weights[head], initial[head])


def test_a_function_may_return_it(tmp_path: Path) -> None:
    code = (
        "def net(in_features, n_outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, n_outputs))\n"
    )
    config = tiny(file_of(tmp_path, code + "ARCHITECTURES = {'mine': net}\n"), "arch=mine", "seeds=1")
    assert not executed(config)[1].failures


def test_a_forward_pass_of_ones_own_is_not_stacked(tmp_path: Path) -> None:
    """A Sequential of Linear layers trains stacked only if its layers are called one after the other."""
    code = """
class Skip(nn.Sequential):
    def __init__(self, in_features, n_outputs):
        super().__init__(nn.Flatten(), nn.Linear(in_features, n_outputs))
    def forward(self, x):
        return -super().forward(x)
"""
    arch = tiny(file_of(tmp_path, code), "arch=Skip").arch
    model = build_model(arch, (1, 8, 8), 10, 0)
    assert not prefers_stacking(model)
    assert prefers_stacking(torch.nn.Sequential(*model))


BODY = """
class Net(nn.Module):
    def __init__(self, in_features, n_outputs):
        super().__init__()
        self.head = nn.Linear(in_features, n_outputs)
{init}
    def forward(self, x):
        x = x.flatten(1)
        return {returned}
"""


@pytest.mark.parametrize(
    ("init", "returned", "words"),
    [
        ("", "self.head(x), x", "returns tuple for two samples, not a tensor [2, 10]"),
        ("", "self.head(x)[:, :3]", "returns shape [2, 3] for two samples"),
        ("", "self.head(x[:, :7])", "fails on two samples of shape [1, 8, 8] (RuntimeError"),
        ("", "self.head(functional.dropout(x, 0.5, self.training))", "draws random numbers in training outside"),
        ("", "self.head(x if float(x.sum()) > 0 else -x)", "has a forward that asks for values"),
        ("", "self.head(functional.dropout(x, 0.5))", "returns different outputs for the same input"),
        ("        self.more = nn.LazyLinear(3)", "self.head(x)", "has lazy layers"),
        ("        self.head.requires_grad_(False)", "self.head(x)", "has no parameter to train"),
        (
            "        import random; nn.init.constant_(self.head.weight, random.random())",
            "self.head(x)",
            "starts from other weights at every call",
        ),
        ("        self.lock = __import__('threading').Lock()", "self.head(x)", "cannot be copied or built"),
    ],
)
def test_what_cannot_be_trained_is_named_first(tmp_path: Path, init: str, returned: str, words: str) -> None:
    plugin = file_of(tmp_path, BODY.format(init=init, returned=returned))
    with pytest.raises(ConfigError) as refusal:
        resolve(compose([plugin, "arch=Net", f"multirun={tmp_path}"]))
    assert str(refusal.value).startswith("arch=Net: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_parameter_that_nobody_gives_is_named(tmp_path: Path) -> None:
    code = "class Net(nn.Module):\n    def __init__(self, width, num_classes): super().__init__()\n"
    with pytest.raises(
        ConfigError, match=r"plugins=.*network Net needs a default for width; the data give .*in_channels"
    ):
        compose([file_of(tmp_path, code), "arch=Net"])
