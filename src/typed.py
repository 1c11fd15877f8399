"""Turns plain mappings into typed, frozen dataclasses; every mistake is one line that names the key, value and fix."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from src.errors import ConfigError, did_you_mean, require_utf8
from src.io import CONF_DIR

T = TypeVar("T")
COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
}
UNIONS = (Union, types.UnionType)


def bounds(**limits: float) -> dict[str, float]:
    """Limits (`ge`, `gt`, `le`, `lt`) of a number, or of a list's numbers, as metadata that `build` checks."""
    assert limits.keys() <= COMPARISONS.keys(), limits
    return limits


@functools.cache
def hints_of(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields or a function's parameters, cached: looking up their names is slow."""
    return typing.get_type_hints(cls)


def build(cls: type[T], given: object, key: str) -> T:
    """An instance of the dataclass `cls` from the mapping `given`; `key` is its key in the config, e.g. ``split``.

    Raises ConfigError on an unknown or missing key, a wrong type, or a number out of its bounds.
    """
    prefix = f"{key}." if key else ""
    if not isinstance(given, Mapping):
        raise ConfigError(key, given, "must be a group of settings, not a single value")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise ConfigError(f"{prefix}{name}", given[name], f"unknown key; {did_you_mean(str(name), list(fields))}")
    hints = hints_of(cls)  # type: ignore[arg-type]
    values = {}
    for name, f in fields.items():
        has_default = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        if name not in given and has_default:  # the dataclass fills it in
            continue
        if name not in given or given[name] == "???":  # OmegaConf's mark of a value that must be given
            raise ConfigError(f"{prefix}{name}", "", "is missing; give it a value")
        values[name] = convert(hints[name], given[name], f"{prefix}{name}", dict(f.metadata))
    return cls(**values)


def conf_names(group: str) -> list[str]:
    """The names of the files in conf/GROUP/, sorted."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def read_conf(group: str, name: str) -> Any:
    """The content of conf/GROUP/NAME.yaml. Raises ConfigError if there is no such file, or if its id is another one."""
    path = CONF_DIR / group / f"{name}.yaml"
    if not path.exists():
        problem = f"there is no conf/{group}/{name}.yaml; {did_you_mean(name, conf_names(group))}"
        raise ConfigError(group, name, problem)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(content, Mapping) and content.get("id", name) != name:
        raise ConfigError(f"{group}.id", content["id"], f"the file is called {name}.yaml; give both one name")
    return content


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting in nested mappings."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def dotted_keys(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings: of every group and every setting."""
    for key, value in mapping.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{prefix}{key}.")


def as_dict(value: Any) -> Any:
    """`dataclasses.asdict` of settings without its copies, which take most of its time: values are never modified."""
    kind: Any = type(value)
    if (names := _field_names(kind)) is not None:
        return {name: as_dict(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_dict, value))
    if isinstance(value, dict):
        return {key: as_dict(item) for key, item in value.items()}
    return value


def content(settings: Any, later: Collection[str] | None = None, of: type | None = None) -> dict[str, Any]:
    """Settings as plain values for a hash, without those of the names `later` (None: any) at their field's default.

    Such fields came later, and what was finished before them keeps its address. `of`: the class whose defaults these
    are, of settings that may be a user's subclass; by default their own.
    """
    fields = {f.name: f.default for f in dataclasses.fields(of or settings) if later is None or f.name in later}
    unset = {name for name, default in fields.items() if getattr(settings, name) == default}
    return {name: value for name, value in as_dict(settings).items() if name not in unset}


@functools.cache
def _field_names(cls: Any) -> tuple[str, ...] | None:
    """None if the class is no dataclass."""
    return tuple(f.name for f in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else None


def build_variant(catalog: Mapping[str, type[T]], given: object, key: str) -> T:
    """An instance of the variant that `given["name"]` names in the catalog."""
    if not isinstance(given, Mapping) or "name" not in given:
        raise ConfigError(key, given, f"must name one of the files of conf/{key}/")
    name = given["name"]
    if name not in catalog:
        raise ConfigError(f"{key}.name", name, f"unknown; {did_you_mean(str(name), list(catalog))}")
    return build(catalog[name], given, key)


def _describe(hint: Any) -> str:
    """A type in words."""
    origin = get_origin(hint)
    if origin in UNIONS:
        return " or ".join(_describe(option) for option in get_args(hint))
    if origin is Literal:
        return " or ".join(str(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list, each item {_describe(get_args(hint)[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def convert(hint: Any, value: object, key: str, limits: Mapping[str, float]) -> Any:
    """`value` as the type `hint`; whole numbers pass as numbers, nothing else is coerced."""
    if get_origin(hint) in UNIONS:
        hint = next((option for option in get_args(hint) if _fits(option, value)), hint)
    origin = get_origin(hint)
    if not _fits(hint, value):
        problem = f"must be {_describe(hint)}"
        if origin is Literal and isinstance(value, str):
            problem += f"; {did_you_mean(value, [str(option) for option in get_args(hint)])}"
        raise ConfigError(key, value, problem)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, key)  # type: ignore[arg-type]
    if origin is tuple:
        assert isinstance(value, (list, tuple))
        return tuple(convert(get_args(hint)[0], item, key, limits) for item in value)
    if hint is float:
        value = float(value)  # type: ignore[arg-type]
        if not math.isfinite(value):
            raise ConfigError(key, str(value), "must be a finite number")
    if isinstance(value, str):
        require_utf8(key, value, "this text", "rename the file or folder")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not all(COMPARISONS[name][1](value, limit) for name, limit in limits.items()):
        wanted = " and ".join(f"{COMPARISONS[name][0]} {limit:g}" for name, limit in limits.items())
        raise ConfigError(key, value, f"must be {wanted}")
    return value


def _fits(hint: Any, value: object) -> bool:
    """Whether `value` has the shape of `hint`, before its content is checked."""
    origin = get_origin(hint)
    if origin in UNIONS:
        return any(_fits(option, value) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(get_args(hint)[0], item) for item in value)
    if hint is Any or dataclasses.is_dataclass(hint):  # `build` checks the content
        return True
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)
