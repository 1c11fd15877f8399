"""Variants from Python files outside src: `plugins=[my_lab.py]`. docs/EXTENDING.md has an example of each kind."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from src.data.sources.base import SourceConfig
from src.data.sources.catalog import SOURCES
from src.errors import ConfigError
from src.io import CONF_DIR, bytes_digest
from src.models.architecture import Architecture
from src.models.catalog import ARCHITECTURES
from src.models.custom import as_architecture
from src.optimizers import OPTIMIZERS, OptimizerConfig
from src.regimes.catalog import REGIMES
from src.regimes.checkpoint import split_pin
from src.stopping.catalog import STOPPING_RULES
from src.stopping.rule import StoppingRule

Catalog = Mapping[str, Any]
"""Name -> variant of one config group."""

KINDS: Mapping[str, tuple[str, Catalog, type]] = {
    "regime": ("REGIMES", REGIMES, FunctionType),
    "data": ("SOURCES", SOURCES, SourceConfig),
    "arch": ("ARCHITECTURES", ARCHITECTURES, Architecture),
    "stopping": ("STOPPING_RULES", STOPPING_RULES, StoppingRule),
    "optimizer": ("OPTIMIZERS", OPTIMIZERS, OptimizerConfig),
}
"""Config group -> the name of a plugin's dictionary, the catalog of src, and what a variant is or derives from."""
BUILT_IN = {group: catalog for group, (_, catalog, _) in KINDS.items()}
TRUSTED = "SWEEP_PLUGINS"
"""Environment variable: paths of plugins that may run though only a file of a shared folder names them."""
GIVEN = {
    "root": "${oc.env:DATA_ROOT,data}",
    "lr": 0.1,
    "batch_size": 64,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
}
"""Defaults of the settings that SourceConfig and OptimizerConfig leave open, unless a plugin has its own."""


def pin_plugins(given: object) -> tuple[str, ...]:
    """``path@digest`` of every plugin, from paths or such texts. Raises ConfigError if a file is missing or changed."""
    if not isinstance(given, (list, tuple)) or not all(isinstance(path, str) for path in given):
        raise ConfigError("plugins", given, "must be a list of Python files, e.g. plugins=[my_lab.py]")
    return tuple(_pin(path) for path in given)


def _pin(given: str) -> str:
    path, known = split_pin(given)
    try:
        found = bytes_digest(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError("plugins", path, f"{error.strerror}; give the path of a Python file") from error
    if known is not None and known != found:
        raise ConfigError("plugins", path, f"has changed: its digest is {found}, not {known}; name it without @{known}")
    return f"{path}@{found}"


def digests(plugins: Iterable[str]) -> list[str]:
    """The contents of pinned plugins, whatever their paths and order."""
    return sorted(plugin.rpartition("@")[2] for plugin in plugins)


@functools.cache
def catalogs(plugins: tuple[str, ...]) -> Mapping[str, Catalog]:
    """Every variant that a configuration may name, by config group: those of src and of the pinned `plugins`."""
    merged: dict[str, dict[str, Any]] = {group: dict(catalog) for group, catalog in BUILT_IN.items()}
    for plugin in plugins:
        for group, variants in _load(plugin).items():
            for name, variant in variants.items():
                if name in merged[group]:
                    problem = f"{group}={name} exists already; choose another name"
                    raise ConfigError("plugins", split_pin(plugin)[0], problem)
                merged[group][name] = variant
    return merged


@functools.cache
def _load(plugin: str) -> Mapping[str, Catalog]:
    """The variants that a pinned plugin defines, by config group. Runs the file once per process."""
    path, digest = split_pin(plugin)
    spec = importlib.util.spec_from_file_location(f"plugin_{digest}", path)
    if spec is None or spec.loader is None:
        raise ConfigError("plugins", path, "is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the names in their annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        problem = f"cannot be loaded ({type(error).__name__}: {error}); run python {path} to see where"
        raise ConfigError("plugins", path, problem) from error
    found = {group: getattr(module, name) for group, (name, _, _) in KINDS.items() if hasattr(module, name)}
    if not found and (networks := _networks(module)):
        found = {"arch": networks}
    if not found:
        names = ", ".join(name for name, _, _ in KINDS.values())
        problem = f"defines none of {names}, and no nn.Module; define one, e.g. REGIMES = {{...}}"
        raise ConfigError("plugins", path, problem)
    if isinstance(found.get("arch"), Mapping):
        found["arch"] = {name: _as_architecture(path, name, variant) for name, variant in found["arch"].items()}
    for group, variants in found.items():
        _check(path, group, variants)
    return found


def _networks(module: ModuleType) -> dict[str, Any]:
    """The networks that a file without dictionaries defines, by the names of their classes."""
    torch = sys.modules.get("torch")  # a file that defines one has imported it
    own = (each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__)
    return {each.__name__: each for each in own if torch is not None and issubclass(each, torch.nn.Module)}


def _as_architecture(path: str, name: object, variant: Any) -> Any:
    """A class or function that returns an nn.Module as an architecture; anything else as it is."""
    torch = sys.modules.get("torch")
    is_network = inspect.isclass(variant) and torch is not None and issubclass(variant, torch.nn.Module)
    if not (is_network or isinstance(variant, FunctionType)):
        return variant
    try:
        return as_architecture(str(name), variant)
    except TypeError as error:
        raise ConfigError("plugins", path, f"network {name} {error}") from error


def _check(path: str, group: str, variants: object) -> None:
    """Raise ConfigError unless `variants` maps names to variants of the group."""
    catalog, _, base = KINDS[group]
    if not isinstance(variants, Mapping):
        raise ConfigError("plugins", path, f"{catalog} must be a dictionary from names to variants")
    for name, variant in variants.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise ConfigError("plugins", path, f"{catalog} has the name {name!r}; use letters, digits and _")
        problem = _problem_of_regime(variant) if base is FunctionType else _problem_of_class(variant, base)
        if problem is not None:
            raise ConfigError("plugins", path, f"{catalog}[{name!r}] {problem}")


def _problem_of_regime(variant: object) -> str | None:
    if not isinstance(variant, FunctionType):
        return "must be a function from the number of data sets to a list of stages"
    missing = [knob for knob, default in knobs_of(variant).items() if default is inspect.Parameter.empty]
    return f"needs a default for {', '.join(missing)}" if missing else None


def _problem_of_class(variant: Any, base: type) -> str | None:
    if not inspect.isclass(variant) or not issubclass(variant, base):
        return f"must be a class that derives from {base.__module__}.{base.__name__}"
    if inspect.isabstract(variant):
        abstract = sorted(
            name for name in dir(variant) if getattr(getattr(variant, name), "__isabstractmethod__", False)
        )
        return f"must define {', '.join(abstract)}"
    if inspect.get_annotations(variant) and "__dataclass_fields__" not in variant.__dict__:
        return "must be a dataclass: write @dataclass(frozen=True, kw_only=True) above it"
    assert dataclasses.is_dataclass(variant), "its base is one"
    given = {"name", *(f.name for f in dataclasses.fields(base) if f.name in GIVEN)}
    fields = [f for f in dataclasses.fields(variant) if f.name not in given]
    missing = [f.name for f in fields if f.default is dataclasses.MISSING]
    return f"needs a default for {', '.join(missing)}" if missing else None


def require_trusted(given: object, multirun: Path) -> None:
    """Raises ConfigError if a file of `multirun`, which others may write, names a plugin that the user has not named.

    Plugins are trusted that this command or the one that started it names, that `TRUSTED` lists, or that lie in this
    checkout outside of `multirun`.
    """
    trusted = os.environ.get(TRUSTED, "").split(os.pathsep)
    for plugin in given if isinstance(given, (list, tuple)) else ():
        path = Path(split_pin(str(plugin))[0]).resolve()
        in_checkout = path.is_relative_to(CONF_DIR.parent) and not path.is_relative_to(multirun.resolve())
        if not in_checkout and str(path) not in trusted:
            problem = f"a file of {multirun} names it, and it would run here; if you trust it, add plugins=[{path}]"
            raise ConfigError("plugins", str(path), f"{problem} to this command, or set {TRUSTED}={path}")


def named_plugins(overrides: Sequence[str]) -> tuple[str, ...]:
    """The pinned files that the last ``plugins=[...]`` among `overrides` names. Raises ConfigError as `pin_plugins`."""
    texts = [text for text in overrides if text.lstrip("+").startswith("plugins=")]
    if not texts:
        return ()
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return pin_plugins(OverridesParser.create().parse_override(texts[-1]).value())


def offer_plugins(overrides: Sequence[str]) -> None:
    """Make the variants of ``plugins=[...]`` among `overrides` choices of Hydra's groups, before it composes."""
    plugins = named_plugins(overrides)
    if not plugins:
        return
    from hydra.core.config_store import ConfigStore

    named = [str(Path(split_pin(plugin)[0]).resolve()) for plugin in plugins]
    known = os.environ.get(TRUSTED, "").split(os.pathsep)
    os.environ[TRUSTED] = os.pathsep.join(dict.fromkeys(filter(None, [*known, *named])))  # workers inherit it
    for group, catalog in catalogs(plugins).items():
        for name in catalog.keys() - BUILT_IN[group].keys():
            node = {"name": name, **_defaults_of(catalog[name])}
            ConfigStore.instance().store(group=group, name=name, node=node)


def _defaults_of(variant: Any) -> dict[str, Any]:
    """The settings of a variant with their defaults."""
    if not isinstance(variant, type):
        return knobs_of(variant)
    fields = [f for f in dataclasses.fields(variant) if f.name != "name"]
    settings = {f.name: GIVEN[f.name] if f.default is dataclasses.MISSING else f.default for f in fields}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


@functools.cache
def knobs_of(regime: Callable[..., Any]) -> dict[str, Any]:
    """The knobs of a regime with their defaults."""
    parameters = inspect.signature(regime).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
