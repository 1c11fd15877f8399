"""A claim of the thread as a file: its sentence, where it is put to the test, and the statements that settle it.

conf/claim/NAME.yaml holds one claim. A study is a grid of cells with regimes and seeds; a statement turns its runs into one
number per seed and says beforehand what that number should be. docs/CLAIMS.md explains both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import yaml

from src.comparison.metrics import parse_metric
from src.config import CONF_DIR, parse_regime
from src.errors import ConfigError, did_you_mean
from src.regimes.config import RegimeConfig
from src.typed import bounds, build

Contrast = Literal["value", "difference", "between_cells", "trend", "everywhere"]
Predicted = Literal["positive", "negative", "non_inferior", "equivalent", "increasing", "decreasing"]
Place = Mapping[str, Any]
"""A cell's place in the grid of its study: axis to value."""

LEAST_SEEDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One number per seed, and what it should be.

    `contrast` says how the number comes about from `metric` (an expression of metrics, docs/CLAIMS.md): ``value`` of the
    regime `of`; ``difference`` to the regime `minus` (its `minus_metric`, unless that is the same); ``between_cells``: of
    the cells `at`, less that of the cells `minus_at`; ``trend`` along the axis `along`, or over the list of regimes `of`;
    ``everywhere``: the difference, cell by cell. `at`: only these cells, as {axis: value or list of values}.
    """

    says: str
    contrast: Contrast
    metric: str
    of: Any
    minus: Any
    minus_metric: str | None
    at: Any
    minus_at: Any
    along: str | None
    predicted: Predicted
    against: float
    """What the number is compared with."""
    margin: float | None = field(metadata=bounds(gt=0))
    decides: bool
    """Whether the claim rests on it; others are reported beside it."""

    @property
    def regimes(self) -> tuple[RegimeConfig, ...]:
        """Whose metric it is: one, or several in their order."""
        entries = self.of if isinstance(self.of, (list, tuple)) else [self.of]
        return tuple(parse_regime(entry, 2) for entry in entries)

    @property
    def reference(self) -> RegimeConfig | None:
        """The regime that is subtracted."""
        return None if self.minus is None else parse_regime(self.minus, 2)

    @property
    def prediction(self) -> str:
        """What is predicted, as it is shown."""
        null, margin = f"{self.against:g}", self.margin or 0.0
        return {
            "positive": f"> {null}",
            "negative": f"< {null}",
            "non_inferior": f">= {self.against - margin:g}",
            "equivalent": f"within {margin:g} of {null}",
            "increasing": "rises",
            "decreasing": "falls",
        }[self.predicted]


STATEMENT_DEFAULTS: dict[str, Any] = {
    "contrast": "difference",
    "minus": None,
    "minus_metric": None,
    "at": {},
    "minus_at": {},
    "along": None,
    "against": 0.0,
    "margin": None,
    "decides": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Where a claim is put to the test: every combination of the `axes` under `overrides`, each regime at each seed.

    `place`: its name. `expected`: what theory or earlier measurement expects of the claim there; a study that is expected
    to refute it shows that the laboratory can disagree. `on_demand`: only run when it is asked for by its place.
    """

    place: str
    expected: Literal["supported", "refuted"]
    on_demand: bool
    overrides: tuple[str, ...]
    axes: Any
    regimes: Any
    seeds: int = field(metadata=bounds(ge=1))
    statements: tuple[Statement, ...]

    @property
    def arguments(self) -> list[str]:
        """Overrides and axes as the command line of a sweep has them."""
        return [
            *self.overrides,
            *(f"{key}={','.join(hydra_text(value) for value in values)}" for key, values in self.axes.items()),
        ]

    @property
    def places(self) -> list[Place]:
        """The place of every cell, in the order in which a sweep lists them: the first axis slowest."""
        return [
            dict(zip(self.axes, values, strict=True)) for values in itertools.product(*map(tuple, self.axes.values()))
        ]

    def cells(self, at: Mapping[str, Any]) -> list[int]:
        """Numbers of the cells that `at` selects."""
        return [k for k, place in enumerate(self.places) if all(place[key] in _listed(v) for key, v in at.items())]


STUDY_DEFAULTS: dict[str, Any] = {"expected": "supported", "on_demand": False, "overrides": [], "axes": {}, "seeds": 12}


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence of the thread. `source`: Q, A1..A4 or a paper. `fails`: where theory says that it is false."""

    id: str
    sentence: str
    source: str
    fails: str
    studies: tuple[Study, ...]


def hydra_text(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{hydra_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


# ------------------------------------------------------------------------------------------------ files


def claim_ids() -> list[str]:
    """The claims there are, in the order of their names."""
    return sorted(path.stem for path in (CONF_DIR / "claim").glob("*.yaml"))


def load_claim(name: str) -> Claim:
    """The claim of conf/claim/NAME.yaml, typed and checked. Raises ConfigError naming key, value and fix."""
    path = CONF_DIR / "claim" / f"{name}.yaml"
    if not path.exists():
        raise ConfigError("claim", name, f"there is no conf/claim/{name}.yaml; {did_you_mean(name, claim_ids())}")
    claim = parse_claim(yaml.safe_load(path.read_text(encoding="utf-8")))
    if claim.id != name:
        raise ConfigError("claim.id", claim.id, f"the file is called {name}.yaml; give both one name")
    return claim


def parse_claim(given: Any) -> Claim:
    """A claim from plain YAML; what a study or statement leaves out has its default."""
    key = f"claim.{given['id']}" if isinstance(given, Mapping) and "id" in given else "claim"
    studies = given.get("studies") if isinstance(given, Mapping) else None
    if not isinstance(studies, list) or not studies:
        raise ConfigError(f"{key}.studies", studies, "must list the studies of the claim, at least one")
    filled = []
    for study in studies:
        statements = study.get("statements") if isinstance(study, Mapping) else None
        if not isinstance(statements, list) or not statements:
            raise ConfigError(f"{key}.statements", statements, "must list the statements of a study, at least one")
        both = [{**STATEMENT_DEFAULTS, **one} if isinstance(one, Mapping) else one for one in statements]
        filled.append({**STUDY_DEFAULTS, **study, "statements": both})
    claim = build(Claim, {"fails": "", **given, "studies": filled}, key)
    for study in claim.studies:
        check_study(study, f"{key}({study.place})")
    return claim


def check_study(study: Study, key: str) -> None:
    """Refuses a study whose grid or statements contradict themselves."""
    if not isinstance(study.axes, Mapping) or not all(isinstance(v, list) and v for v in study.axes.values()):
        raise ConfigError(f"{key}.axes", study.axes, "must map each axis to the list of its values")
    if not isinstance(study.regimes, list) or not study.regimes:
        raise ConfigError(f"{key}.regimes", study.regimes, "must list regimes, as in conf/config.yaml")
    known = {parse_regime(entry, 2) for entry in study.regimes}
    if study.seeds < LEAST_SEEDS:
        raise ConfigError(f"{key}.seeds", study.seeds, f"a claim is settled with at least {LEAST_SEEDS} seeds")
    for statement in study.statements:
        _check_statement(statement, study, known, f"{key}.statements")


def _check_statement(one: Statement, study: Study, known: set[RegimeConfig], key: str) -> None:
    for regime in (*one.regimes, *([one.reference] if one.reference else [])):
        if regime not in known:
            raise ConfigError(f"{key}.of", regime.label, "is not among the regimes of the study; add it there")
    for text in (one.metric, *([one.minus_metric] if one.minus_metric else [])):
        parse_metric(text)
    for which in ("at", "minus_at"):
        chosen = getattr(one, which)
        if not isinstance(chosen, Mapping):
            raise ConfigError(f"{key}.{which}", chosen, "must map axes to values")
        for axis, value in chosen.items():
            if axis not in study.axes:
                raise ConfigError(f"{key}.{which}", axis, f"is no axis of the study; {list(study.axes)}")
            absent = [item for item in _listed(value) if item not in study.axes[axis]]
            if absent:
                raise ConfigError(f"{key}.{which}.{axis}", absent[0], f"is not on the axis; it has {study.axes[axis]}")
    is_trend = one.contrast == "trend"
    asks = {
        "minus": one.contrast in ("difference", "everywhere"),
        "minus_at": one.contrast == "between_cells",
        "margin": one.predicted in ("non_inferior", "equivalent"),
    }
    for name, asked in asks.items():
        if asked and not getattr(one, name):
            raise ConfigError(f"{key}.{name}", getattr(one, name), f"{one.contrast}, {one.predicted}: must be given")
    if is_trend != (one.predicted in ("increasing", "decreasing")):
        raise ConfigError(f"{key}.predicted", one.predicted, "increasing and decreasing go with contrast: trend")
    if one.contrast == "everywhere" and one.predicted != "non_inferior":
        raise ConfigError(f"{key}.predicted", one.predicted, "contrast: everywhere asks for non_inferior")
    several = len(one.regimes) > 1
    if is_trend and (several == (one.along is not None) or (one.along is not None and one.along not in study.axes)):
        raise ConfigError(f"{key}.along", one.along, f"name one of {list(study.axes)}, or list several regimes in `of`")
    if several and not is_trend:
        raise ConfigError(f"{key}.of", one.of, "several regimes go with contrast: trend")


# ------------------------------------------------------------------------------------------------ elsewhere


def elsewhere(study: Study, overrides: Sequence[str]) -> tuple[Study, list[str]]:
    """The study under further settings of the user's, which replace its own; and the statements that this leaves out.

    Several values for an axis of the study are its new values; one value takes the axis away. Another choice of a group
    also drops the settings that belong to the study's own choice. A statement about what is gone is left out.
    """
    given = {text.lstrip("+").partition("=")[0]: text.partition("=")[2] for text in overrides}
    new_values = {key: yaml.safe_load(f"[{text}]") for key, text in given.items() if key in study.axes}
    axes, gone = {}, {}
    for key, values in study.axes.items():
        if len(new_values.get(key, ())) > 1:
            axes[key] = new_values[key]
        elif _touched(key, given):
            gone[key] = new_values[key][0] if key in new_values else None
        else:
            axes[key] = values
    statements, left_out = [], []
    for one in study.statements:
        asked = [item for chosen in (one.at, one.minus_at) for item in chosen.items()]
        there = all(
            all(v in axes[axis] for v in _listed(value)) if axis in axes else gone[axis] in _listed(value)
            for axis, value in asked
        )
        if one.along in gone or not there:
            left_out.append(one.says)
            continue
        at, minus_at = ({axis: v for axis, v in chosen.items() if axis in axes} for chosen in (one.at, one.minus_at))
        statements.append(replace(one, at=at, minus_at=minus_at))
    kept = tuple(text for text in study.overrides if not _touched(text.lstrip("+").partition("=")[0], given))
    single = tuple(text for text in overrides if text.lstrip("+").partition("=")[0] not in axes)
    changed = replace(study, axes=axes, overrides=(*kept, *single), statements=tuple(statements))
    return changed, left_out


def _touched(key: str, given: Mapping[str, str]) -> bool:
    """Whether a setting of the user's replaces `key`: the same one, another choice of its group, or a part of its value."""
    return any(
        key == name or key.startswith(f"{name}.") or ("." in key and name.startswith(f"{key}.")) for name in given
    )
