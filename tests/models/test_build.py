"""A network depends on (arch, shapes, seed) alone; its shapes and parameter counts are those of its formula."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from src.models.architecture import Architecture
from src.models.build import build_meta_model, build_model
from src.models.cnn import CnnArch
from src.models.linear import LinearArch
from src.models.mlp import MlpArch
from src.models.resnet18 import Resnet18Arch
from src.models.torchvision import TorchvisionArch
from src.seeds import derive


def linear(bias: bool = True) -> LinearArch:
    return LinearArch(name="linear", bias=bias, init="default")


def mlp(*widths: int, depth: int | None = None) -> MlpArch:
    return MlpArch(name="mlp", widths=widths, depth=depth)


def cnn(*widths: int) -> CnnArch:
    return CnnArch(name="cnn", widths=widths)


def named(model: str) -> TorchvisionArch:
    return TorchvisionArch(name="torchvision", model=model)


RESNET = Resnet18Arch(name="resnet18")
DIGIT, GREY, COLOUR, FEATURES = (1, 8, 8), (1, 28, 28), (3, 32, 32), (20,)
CASES: list[tuple[Architecture, tuple[int, ...], int]] = [
    *itertools.product([linear(), linear(bias=False), mlp(16), mlp(8, depth=3)], [DIGIT, COLOUR, FEATURES], [1, 10]),
    *itertools.product([cnn(4, 8)], [DIGIT, GREY, COLOUR, (3, 9, 14)], [10]),
    *itertools.product([RESNET], [DIGIT, COLOUR], [10]),
    *itertools.product([named("mobilenet_v3_small"), named("shufflenet_v2_x0_5")], [GREY, COLOUR], [3]),
    (named("resnet18"), GREY, 10),
]
SMALL = [linear(), mlp(16), cnn(4, 8), named("squeezenet1_1")]


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("arch", "shape", "n_outputs"), CASES, ids=str)
def test_outputs_have_one_column_per_output_and_every_parameter_gets_a_gradient(
    arch: Architecture, shape: tuple[int, ...], n_outputs: int
) -> None:
    model = build_model(arch, shape, n_outputs, seed=0).train()
    outputs = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert outputs.shape == (3, n_outputs)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert [value.shape for value in build_meta_model(arch, shape, n_outputs).state_dict().values()] == [
        value.shape for value in model.state_dict().values()
    ]


@pytest.mark.parametrize(
    ("arch", "shape", "n_outputs", "expected"),
    [
        (linear(), DIGIT, 10, 64 * 10 + 10),
        (linear(bias=False), FEATURES, 1, 20),
        (mlp(64), DIGIT, 10, 64 * 64 + 64 + 64 * 10 + 10),
        (mlp(32, 16), COLOUR, 5, 3072 * 32 + 32 + 32 * 16 + 16 + 16 * 5 + 5),
        (cnn(16, 32), GREY, 10, 9 * 16 + 16 + 9 * 16 * 32 + 32 + 32 * 7 * 7 * 10 + 10),
        (cnn(4), (3, 9, 14), 2, 9 * 3 * 4 + 4 + 4 * 4 * 7 * 2 + 2),
        # torchvision's 11,689,512, with a 3x3 stem for the 7x7 one and 10 classes for 1,000
        (RESNET, COLOUR, 10, 11_689_512 - 64 * 3 * (49 - 9) - 513 * 990),
        (RESNET, GREY, 10, 11_689_512 - 64 * (3 * 49 - 9) - 513 * 990),
        (named("resnet18"), (3, 224, 224), 1000, 11_689_512),
        (named("googlenet"), (3, 64, 64), 1000, 6_624_904),
    ],
    ids=str,
)
def test_the_number_of_parameters_is_that_of_the_formula(
    arch: Architecture, shape: tuple[int, ...], n_outputs: int, expected: int
) -> None:
    assert n_parameters(build_meta_model(arch, shape, n_outputs)) == expected


def test_depth_repeats_a_single_width() -> None:
    deep, listed = (build_model(arch, DIGIT, 10, seed=3) for arch in (mlp(12, depth=3), mlp(12, 12, 12)))
    assert torch.equal(weights_of(deep), weights_of(listed))


@pytest.mark.parametrize("arch", SMALL, ids=str)
def test_equal_seeds_give_equal_weights_and_different_ones_different_weights(arch: Architecture) -> None:
    drawn = [weights_of(build_model(arch, COLOUR, 10, seed=seed)) for seed in (0, 1, 2, 0)]
    assert torch.equal(drawn[0], drawn[3])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn[:3], 2))
    again = weights_of(build_model(arch, COLOUR, 10, seed=0, address=("perturb", 1)))
    assert not torch.equal(drawn[0], again)


@pytest.mark.parametrize("arch", SMALL, ids=str)
def test_no_random_state_of_the_process_is_touched_nor_matters(arch: Architecture) -> None:
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    first = weights_of(build_model(arch, COLOUR, 10, seed=5))
    build_meta_model(arch, COLOUR, 10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    torch.manual_seed(12)
    assert torch.equal(first, weights_of(build_model(arch, COLOUR, 10, seed=5)))


@pytest.mark.parametrize("arch", SMALL, ids=str)
def test_every_precision_starts_at_the_same_point(arch: Architecture) -> None:
    single = build_model(arch, COLOUR, 10, seed=0)
    double = build_model(arch, COLOUR, 10, seed=0, dtype=torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert torch.equal(weights_of(single), weights_of(double))
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(weights_of(single), weights_of(build_model(arch, COLOUR, 10, seed=0)))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(default)


def test_another_process_draws_the_same_weights() -> None:
    program = (
        "import torch; torch.manual_seed(99); torch.rand(7);"
        "from src.models.mlp import MlpArch; from src.models.build import build_model;"
        "model = build_model(MlpArch(name='mlp', widths=(16,), depth=None), (1, 8, 8), 10, 4);"
        "print(repr([p.double().sum().item() for p in model.parameters()]))"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    here = [p.double().sum().item() for p in build_model(mlp(16), DIGIT, 10, 4).parameters()]
    assert there == repr(here)


def test_a_linear_layer_starts_where_torch_starts_it_under_the_derived_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(7, "init"))
        reference = nn.Linear(20, 3)
    model = build_model(linear(), FEATURES, 3, seed=7)
    assert torch.equal(weights_of(model), weights_of(reference))
    assert float(reference.weight.detach().abs().max()) <= 1 / math.sqrt(20)


def test_a_grey_image_is_seen_as_three_equal_colours() -> None:
    grey, colour = (build_model(named("resnet18"), (c, 32, 32), 10, seed=2).double().eval() for c in (1, 3))
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-6)


def test_the_resnet_of_small_images_halves_its_maps_three_times_only() -> None:
    model = build_model(RESNET, COLOUR, 10, seed=0).eval()
    sides: list[int] = []
    model.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    model(torch.zeros(1, *COLOUR))
    assert sides == [4]  # torchvision's own stem would leave one pixel


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_heads_return_logits_alone(model: str) -> None:
    outputs = build_meta_model(named(model), (3, 96, 96), 4).train()(torch.empty(2, 3, 96, 96, device="meta"))
    assert outputs.shape == (2, 4)
