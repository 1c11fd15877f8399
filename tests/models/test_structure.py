"""Layers come in order with all parameters once; the engine rule and the properties of training follow from the model."""

import itertools

import pytest
import torch
from torch import nn

from src.models.architecture import Architecture
from src.models.build import build_meta_model
from src.models.cnn import CnnArch
from src.models.linear import LinearArch
from src.models.mlp import MlpArch
from src.models.resnet18 import Resnet18Arch
from src.models.structure import has_batchnorm, has_dropout, layers, memory_layout, prefers_stacking
from src.models.torchvision import TorchvisionArch


def linear() -> LinearArch:
    return LinearArch(name="linear", bias=True, init="default")


def mlp(*widths: int) -> MlpArch:
    return MlpArch(name="mlp", widths=widths, depth=None)


def named(model: str) -> TorchvisionArch:
    return TorchvisionArch(name="torchvision", model=model)


CNN = CnnArch(name="cnn", widths=(16, 32))
RESNET = Resnet18Arch(name="resnet18")
NAMED = ["mobilenet_v3_small", "densenet121", "vit_b_16", "swin_t", "convnext_tiny", "squeezenet1_0", "vgg11"]


def test_layers_are_in_order_input_first() -> None:
    assert layers(build_meta_model(mlp(8, 4), (1, 8, 8), 10)) == [
        ("hidden_1", ["hidden_1.weight", "hidden_1.bias"]),
        ("hidden_2", ["hidden_2.weight", "hidden_2.bias"]),
        ("head", ["head.weight", "head.bias"]),
    ]
    assert [path for path, _ in layers(build_meta_model(CNN, (1, 8, 8), 10))] == ["conv_1", "conv_2", "head"]
    assert len(layers(build_meta_model(linear(), (1, 8, 8), 10))) == 1


@pytest.mark.parametrize("arch", [linear(), mlp(8, 8), CNN, RESNET, *map(named, NAMED)], ids=str)
def test_every_parameter_is_in_one_layer_and_the_last_layer_gives_the_outputs(arch: Architecture) -> None:
    model = build_meta_model(arch, (3, 64, 64), 7)
    parameters = dict(model.named_parameters())
    names = list(itertools.chain.from_iterable(names for _, names in layers(model)))
    assert sorted(names) == sorted(parameters)
    _, last = layers(model)[-1]
    assert {parameters[name].shape[0] for name in last} == {7}


@pytest.mark.parametrize(
    ("arch", "shape", "expected"),
    [
        (linear(), (1, 8, 8), True),
        (linear(), (100,), True),
        (linear(), (1, 28, 28), False),
        (mlp(64), (1, 8, 8), True),
        (mlp(128, 128), (1, 8, 8), True),
        (mlp(256, 256), (1, 8, 8), False),
        (mlp(256, 256), (1, 28, 28), False),
        (CNN, (1, 8, 8), False),
        (RESNET, (1, 8, 8), False),
    ],
    ids=str,
)
def test_stacking_is_for_small_stacks_of_linear_layers(
    arch: Architecture, shape: tuple[int, ...], expected: bool
) -> None:
    assert prefers_stacking(build_meta_model(arch, shape, 10)) is expected


@pytest.mark.parametrize(("arch", "stacked"), [(mlp(256, 256), True), (CNN, True), (RESNET, False)], ids=str)
def test_on_a_gpu_every_row_of_known_layers_is_stacked(arch: Architecture, stacked: bool) -> None:
    assert prefers_stacking(build_meta_model(arch, (3, 32, 32), 10), "cuda") is stacked


def test_one_other_module_sends_a_model_to_the_loop() -> None:
    assert prefers_stacking(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    for other in (nn.Dropout(), nn.BatchNorm1d(4), nn.Sigmoid()):
        assert not prefers_stacking(nn.Sequential(nn.Linear(4, 4), other, nn.Linear(4, 2)))
    assert not prefers_stacking(nn.Sequential(nn.Flatten()))


def noisy_in_training(model: nn.Module) -> bool:
    """Whether two passes over the same batch differ: the behaviour that has_dropout predicts."""
    model.train()
    x = torch.ones(4, 3, 64, 64)
    return not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    "model", ["mobilenet_v3_small", "efficientnet_b0", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t"]
)
def test_dropout_is_found_where_training_is_noisy(model: str) -> None:
    from src.models.build import build_model

    network = build_model(named(model), (3, 64, 64), 7, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert has_dropout(network) is noisy_in_training(network)


@pytest.mark.parametrize(
    ("arch", "dropout", "batchnorm"),
    [
        (mlp(8), False, False),
        (CNN, False, False),
        (RESNET, False, True),
        (named("mobilenet_v3_small"), True, True),
        (named("vgg11"), True, False),
        (named("convnext_tiny"), True, False),  # stochastic depth
        (named("densenet121"), False, True),
        (named("vit_b_16"), False, False),
    ],
    ids=str,
)
def test_dropout_and_batch_normalisation_are_known(arch: Architecture, dropout: bool, batchnorm: bool) -> None:
    model = build_meta_model(arch, (3, 64, 64), 7)
    assert (has_dropout(model), has_batchnorm(model)) == (dropout, batchnorm)


def test_dropout_of_rate_zero_is_none() -> None:
    assert not has_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))
    assert has_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
    assert has_dropout(nn.MultiheadAttention(4, 2, dropout=0.1))


@pytest.mark.parametrize(
    ("arch", "side", "expected"),
    [
        (CNN, 8, torch.channels_last),
        (RESNET, 32, torch.channels_last),
        (RESNET, 28, torch.channels_last),
        (RESNET, 16, torch.contiguous_format),
        (RESNET, 8, torch.contiguous_format),
        (mlp(8), 28, torch.contiguous_format),
        (named("mobilenet_v3_small"), 128, torch.channels_last),  # its 1x1 convolutions of pooled maps do not count
    ],
)
def test_channels_lie_together_unless_maps_become_tiny(
    arch: Architecture, side: int, expected: torch.memory_format
) -> None:
    model = build_meta_model(arch, (3, side, side), 10).train()
    next(model.modules()).training = False  # a mixture, as frozen normalisation layers make
    modes = [module.training for module in model.modules()]
    assert memory_layout(model, (3, side, side), torch.device("cpu")) == expected
    assert memory_layout(model, (3, side, side), torch.device("cuda")) == torch.contiguous_format
    assert memory_layout(model, (3, side, side), torch.device("cuda"), is_bf16=True) == expected
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
