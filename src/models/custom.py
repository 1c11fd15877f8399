"""A network of the user's own as it is: a class or function that returns an `nn.Module` becomes an architecture."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from src.errors import ConfigError
from src.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

OUTPUTS = ("n_outputs", "num_outputs", "n_classes", "num_classes", "classes", "out_features")
"""Names of a parameter that is the number of outputs."""
PLAIN = (int, float, bool, str)


def given_by_data(input_shape: tuple[int, ...], n_outputs: int) -> Mapping[str, Any]:
    """What the laboratory passes to a parameter of such a name."""
    inputs: dict[str, Any] = {
        "input_shape": input_shape,
        "in_features": prod(input_shape),
        "n_inputs": prod(input_shape),
    }
    if len(input_shape) == 3:
        inputs |= {"in_channels": input_shape[0], "n_channels": input_shape[0], "image_size": input_shape[1]}
    return inputs | dict.fromkeys(OUTPUTS, n_outputs)


KNOWN = given_by_data((1, 1, 1), 1).keys()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnArch(Architecture):
    """A network of the user's own: parameters that the data do not give are its settings."""

    needs_images: ClassVar[bool] = False
    factory: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        for own in dataclasses.fields(self):  # lists, as YAML gives them, have no hash
            if isinstance(value := getattr(self, own.name), list):
                object.__setattr__(self, own.name, tuple(value))

    def __reduce__(self) -> tuple[Any, ...]:
        """The class is made at run time: a pickle names its factory, in the plugin's module, in place of it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _rebuilt, (type(self).__name__, type(self).factory, own)

    def check_data(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        if (problem := problem_of(self, input_shape, n_outputs)) is not None:
            raise ConfigError("arch", self.name, problem)

    def network(self, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
        factory, known = type(self).factory, given_by_data(input_shape, n_outputs)
        given = {name: known[name] for name in inspect.signature(factory).parameters if name in known}
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("name", "weights")}
        module: nn.Module = factory(**given, **own)
        return module


def _rebuilt(name: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> Architecture:
    return as_architecture(name, factory)(**settings)


@cache
def as_architecture(name: str, factory: Callable[..., Any]) -> type[Architecture]:
    """The architecture whose networks `factory` returns. Raises TypeError for a parameter without a value."""
    fields: list[tuple[str, Any, Any]] = []
    hints = _hints(factory.__init__ if inspect.isclass(factory) else factory)
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in KNOWN:
            continue
        if parameter.default is parameter.empty:
            raise TypeError(f"needs a default for {parameter.name}; the data give {', '.join(sorted(KNOWN))} alone")
        if parameter.name in ("name", "weights"):
            raise TypeError(f"has a parameter {parameter.name}, a name that every architecture uses; rename it")
        default = parameter.default
        hint = next((kind for kind in (hints.get(parameter.name), type(default)) if kind in PLAIN), Any)
        fields.append((parameter.name, hint, tuple(default) if isinstance(default, list) else default))
    own = {"factory": staticmethod(factory), "__doc__": factory.__doc__}
    return dataclasses.make_dataclass(name, fields, bases=(OwnArch,), frozen=True, kw_only=True, namespace=own)


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations may name what exists for type checkers alone; defaults have a type too
        return {}


@cache
def problem_of(arch: Architecture, input_shape: tuple[int, ...], n_outputs: int) -> str | None:
    """Why the laboratory cannot train the network, with the fix, or None: found by building it and calling it once."""
    import torch
    from torch import nn

    from src.models.build import drawing, without_memory
    from src.models.structure import has_dropout

    def built() -> Any:
        with drawing(0):
            return arch.network(input_shape, n_outputs)

    try:
        model = built()
        if not isinstance(model, nn.Module):
            return f"returns {type(model).__name__}, not an nn.Module; return the network"
        if any(isinstance(each, nn.parameter.UninitializedParameter) for each in model.parameters()):
            return "has lazy layers, whose shapes are unknown before the first batch; use plain ones"
        if not any(each.requires_grad for each in model.parameters()):
            return "has no parameter to train"
        initial = [each.detach().clone() for each in model.parameters()]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            x = torch.randn(2, *input_shape)
            trained = [model.train()(x) for _ in range(2)]
            outputs, again = (model.eval()(x) for _ in range(2))
    except Exception as error:  # the user's code raises anything
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        return f"fails on two samples of shape {list(input_shape)} ({reason}); mend the network or choose other data"
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, n_outputs):
        found = f"shape {list(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        takes = f"a parameter {OUTPUTS[0]} or {OUTPUTS[3]}"
        return f"returns {found} for two samples, not a tensor [2, {n_outputs}]; {takes} has the number of outputs"
    if not torch.equal(outputs, again):
        return "returns different outputs for the same input in evaluation mode; draw random numbers in training alone"
    if not (torch.equal(*trained) or has_dropout(model)):
        return "draws random numbers in training outside of modules such as nn.Dropout, where they cannot be seeded"
    pairs = zip(initial, built().parameters(), strict=True)
    if not all(torch.equal(first, second) for first, second in pairs):
        return "starts from other weights at every call; draw them from torch's default generator, which is seeded"
    try:
        copy.deepcopy(model)
        with without_memory():
            without_values = arch.network(input_shape, n_outputs).to("meta").train()
    except Exception as error:
        return f"cannot be copied or built without memory ({type(error).__name__}: {error}); keep __init__ to layers"
    try:
        with torch.no_grad():
            without_values(torch.empty(2, *input_shape, device="meta"))  # as the cost of training is counted
    except Exception as error:
        return f"has a forward that asks for values ({str(error)[:300]}); take torch.where in place of branches on them"
    return None
