"""A claim as a file: its sentence, the studies that test it, and the statements that decide it.

conf/claim/NAME.yaml holds one claim. A study is a grid of cells with regimes and seeds; a statement computes one value
per seed from its runs and predicts that value. docs/CLAIMS.md explains both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import yaml

from src.comparison.metrics import metric_terms
from src.config import parse_regime
from src.config.command import text_of
from src.config.plugins import Catalog, catalogs, named_plugins
from src.errors import ConfigError
from src.regimes.catalog import RegimeConfig
from src.typed import bounds, build, read_conf

Contrast = Literal["value", "difference", "between_cells", "trend", "everywhere"]
Predicted = Literal["positive", "negative", "non_inferior", "equivalent", "increasing", "decreasing"]

MIN_SEEDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One value per seed, and its prediction."""

    says: str
    """The statement in words."""
    contrast: Contrast = "difference"
    """How the value follows from `metric`. ``value``: the metric of regime `of`. ``difference``: minus that of regime
    `minus`. ``between_cells``: in the cells `at` minus that in the cells `minus_at`. ``trend``: along the axis `along`,
    or over the list of regimes `of`. ``everywhere``: the difference, cell by cell."""
    metric: str
    """A metric or sum of metrics (docs/CLAIMS.md)."""
    of: Any
    minus: Any = None
    minus_metric: str | None = None
    """The metric of regime `minus`, if different."""
    at: Any = field(default_factory=dict)
    """Only these cells, as {axis: value or list of values}."""
    minus_at: Any = field(default_factory=dict)
    along: str | None = None
    predicted: Predicted
    against: float = 0.0
    """The reference value of the prediction."""
    margin: float | None = field(default=None, metadata=bounds(gt=0))
    decides: bool = True
    """Whether the claim depends on the statement; otherwise it is only reported."""

    def regimes(self, catalog: Catalog) -> tuple[RegimeConfig, ...]:
        """The regimes `of`: one, or several in their order. `catalog`: that of the study."""
        entries = self.of if isinstance(self.of, (list, tuple)) else [self.of]
        return tuple(parse_regime(entry, 2, catalog) for entry in entries)

    def reference(self, catalog: Catalog) -> RegimeConfig | None:
        """The regime `minus`. `catalog`: that of the study."""
        return None if self.minus is None else parse_regime(self.minus, 2, catalog)

    @property
    def prediction(self) -> str:
        """The prediction as the tables display it."""
        null, margin = f"{self.against:g}", self.margin or 0.0
        return {
            "positive": f"> {null}",
            "negative": f"< {null}",
            "non_inferior": f">= {self.against - margin:g}",
            "equivalent": f"within {margin:g} of {null}",
            "increasing": "rises",
            "decreasing": "falls",
        }[self.predicted]


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A test of a claim: every combination of `axes` under `overrides`, each regime with each seed."""

    where: str
    """Name of the study: its data or setting."""
    expected: Literal["supported", "refuted"] = "supported"
    """The verdict that theory or earlier measurements expect; an expected refutation shows that a claim can fail."""
    on_demand: bool = False
    """Whether the study runs only if requested by name."""
    control: str = ""
    """Of a control (see `Control`): why the sentence is false here."""
    overrides: tuple[str, ...] = ()
    axes: Any = field(default_factory=dict)
    regimes: Any
    seeds: int = field(default=12, metadata=bounds(ge=1))
    statements: tuple[Statement, ...]

    @property
    def arguments(self) -> list[str]:
        """Overrides and axes as arguments of a sweep."""
        axes = (f"{key}={','.join(map(text_of, values))}" for key, values in self.axes.items())
        return [*self.overrides, *axes]

    @property
    def catalog(self) -> Catalog:
        """The regimes that the study may name: those of src, and of the ``plugins=[...]`` among its overrides."""
        return catalogs(named_plugins(self.overrides))["regime"]

    @property
    def coordinates(self) -> list[dict[str, Any]]:
        """The axis values of every cell, in the order of a sweep: the first axis slowest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def cells(self, at: Mapping[str, Any]) -> list[int]:
        """Indices of the cells that `at` selects."""
        return [k for k, cell in enumerate(self.coordinates) if all(cell[key] in listed(v) for key, v in at.items())]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """A setting that takes away what the sentence needs, so that its statements must not be supported there.

    It changes the first study of its claim; controls run with ``controls=true``.
    """

    where: str
    """Name of the control, shown in place of the data."""
    because: str
    """Why the sentence is false here."""
    settings: tuple[str, ...] = ()
    """Replace those of the study, as settings on the command line do."""
    regimes: Any = None
    """Null: those of the study."""
    statements: tuple[Statement, ...] = ()
    """Empty: those of the study that still apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence of the discussion or the literature."""

    id: str
    sentence: str
    source: str
    """Q, A1..A4 (the question and its answers) or a paper."""
    fails: str = ""
    """Where theory says that the sentence is false."""
    studies: tuple[Study, ...]
    controls: tuple[Control, ...] = ()
    strong: tuple[str, ...] = ()
    """Settings of its first study on real images, every regime tuned, in addition to `STRONG`;
    empty: there is none. Strong studies run with ``strong=true``."""


def listed(value: Any) -> Sequence[Any]:
    """A value or list of values as a list."""
    return value if isinstance(value, list) else [value]


def load_claim(name: str, plugins: Sequence[str] = ()) -> Claim:
    """The claim of conf/claim/NAME.yaml. Raises ConfigError naming key, value and fix.

    `plugins`: an override ``plugins=[...]`` of all studies, whose regimes they may then name.
    """
    return parse_claim(read_conf("claim", name), plugins)


def parse_claim(given: Any, plugins: Sequence[str] = ()) -> Claim:
    """A claim from plain YAML, checked. Raises ConfigError."""
    key = f"claim.{given['id']}" if isinstance(given, Mapping) and "id" in given else "claim"
    claim = build(Claim, given, key)
    if not claim.studies:
        raise ConfigError(f"{key}.studies", [], "must list the studies of the claim, at least one")
    if plugins:
        studies = tuple(replace(study, overrides=(*study.overrides, *plugins)) for study in claim.studies)
        claim = replace(claim, studies=studies)
    for study in claim.studies:
        check_study(study, f"{key}({study.where})")
    return claim


def check_study(study: Study, key: str) -> None:
    """Raises ConfigError if the study's grid or statements contradict each other."""
    if not isinstance(study.axes, Mapping) or not all(isinstance(v, list) and v for v in study.axes.values()):
        raise ConfigError(f"{key}.axes", study.axes, "must map each axis to the list of its values")
    if not isinstance(study.regimes, list) or not study.regimes:
        raise ConfigError(f"{key}.regimes", study.regimes, "must list regimes, as in conf/config.yaml")
    if not study.statements:
        raise ConfigError(f"{key}.statements", [], "must list the statements of the study, at least one")
    if study.seeds < MIN_SEEDS:
        raise ConfigError(f"{key}.seeds", study.seeds, f"a claim needs at least {MIN_SEEDS} seeds")
    regimes = {parse_regime(entry, 2, study.catalog) for entry in study.regimes}
    for statement in study.statements:
        for setting, value, problem in _contradictions(statement, study, regimes):
            raise ConfigError(f"{key}.statements.{setting}", value, problem)


def _contradictions(one: Statement, study: Study, regimes: set[RegimeConfig]) -> Iterator[tuple[str, Any, str]]:
    """(setting, its value, problem and fix) of everything that is wrong with a statement."""
    own = one.regimes(study.catalog)
    for regime in (*own, one.reference(study.catalog)):
        if regime is not None and regime not in regimes:
            yield "of", regime.label, "is not among the regimes of the study; add it there"
    for text in (one.metric, one.minus_metric):
        metric_terms(text or one.metric)  # raises ConfigError
    for which, chosen in (("at", one.at), ("minus_at", one.minus_at)):
        if not isinstance(chosen, Mapping):
            yield which, chosen, "must map axes to values"
        for axis, value in chosen.items():
            if axis not in study.axes:
                yield which, axis, f"is no axis of the study; known: {list(study.axes)}"
            for item in listed(value):
                if item not in study.axes[axis]:
                    yield f"{which}.{axis}", item, f"is not on the axis; known: {study.axes[axis]}"
    required = {
        "minus": one.contrast in ("difference", "everywhere"),
        "minus_at": one.contrast == "between_cells",
        "margin": one.predicted in ("non_inferior", "equivalent"),
    }
    for name, is_required in required.items():
        if is_required and not (value := getattr(one, name)):
            yield name, value, f"{one.contrast}, {one.predicted}: must be given"
    is_trend, has_several = one.contrast == "trend", len(own) > 1
    if is_trend != (one.predicted in ("increasing", "decreasing")):
        yield "predicted", one.predicted, "increasing and decreasing require contrast: trend"
    if one.contrast == "everywhere" and one.predicted != "non_inferior":
        yield "predicted", one.predicted, "contrast: everywhere requires non_inferior"
    if is_trend and (has_several == (one.along is not None) or one.along not in (None, *study.axes)):
        yield "along", one.along, f"name one of {list(study.axes)}, or list several regimes in `of`"
    if has_several and not is_trend:
        yield "of", one.of, "several regimes require contrast: trend"


STRONG = (
    "data=fashion_mnist",
    "arch=cnn",
    "arch.widths=[8,16]",
    "split.size=1000",
    "split.val=0.02",
    "split.test=0.05",
    "stopping=epochs",
    "stopping.epochs=10",
    "optimizer.batch_size=32",
    "tune=equal",
    "tune.trials=16",
    "tune.seeds=2",
    'tune.space="{optimizer.lr: tag(log,interval(3e-3,0.3)), lr_factor: tag(log,interval(0.1,3))}"',
    "trainer.curve_points=1",
)
"""What strong studies have in common: photographs of clothes, a convolutional network, and every regime at settings of
its own, by equally many trials on validation data. A claim about Dataset 2, or about what learning it costs, chooses
them by Dataset 2.

The space is narrow: of 8 points in the default one, none had both rates in the range where this network learns."""


def key_of(setting: str) -> str:
    """The key of ``+key=value``."""
    return setting.lstrip("+").partition("=")[0]


def override_study(study: Study, settings: Sequence[str]) -> tuple[Study, list[str]]:
    """The study under settings that replace its own, and the statements that no longer apply, in words.

    Several values for an axis of the study become its values; a single value removes the axis, and with it the
    statements about other values. Another choice of a group also drops the settings of the study's own choice.
    """
    given = {key_of(setting): setting.partition("=")[2] for setting in settings}
    axes, fixed = {}, {}
    for key, values in study.axes.items():
        new = yaml.safe_load(f"[{given[key]}]") if key in given else []
        if len(new) > 1:
            axes[key] = new
        elif _is_replaced(key, given):
            fixed[key] = new[0] if new else None
        else:
            axes[key] = values
    statements, dropped = [], []
    for one in study.statements:
        selected = [item for chosen in (one.at, one.minus_at) for item in chosen.items()]
        exist = all(
            all(v in axes[axis] for v in listed(value)) if axis in axes else fixed[axis] in listed(value)
            for axis, value in selected
        )
        if one.along in fixed or not exist:
            dropped.append(one.says)
            continue
        at, minus_at = ({axis: v for axis, v in chosen.items() if axis in axes} for chosen in (one.at, one.minus_at))
        statements.append(replace(one, at=at, minus_at=minus_at))
    kept = [override for override in study.overrides if not _is_replaced(key_of(override), given)]
    added = [setting for setting in settings if key_of(setting) not in axes]
    changed = replace(study, axes=axes, overrides=(*kept, *added), statements=tuple(statements))
    return changed, dropped


def control_studies(claim: Claim) -> list[Study]:
    """The claim's controls as studies: its first study, changed. Raises ConfigError if one has no statement."""
    studies = []
    for control in claim.controls:
        base = claim.studies[0]
        study = replace(
            base,
            where=control.where,
            control=control.because,
            regimes=control.regimes or base.regimes,
            statements=control.statements or base.statements,
        )
        study, _ = override_study(study, control.settings)
        check_study(study, f"claim.{claim.id}({study.where})")
        studies.append(study)
    return studies


def strong_studies(claim: Claim) -> list[Study]:
    """The claim's strong study, if any: its first study under `STRONG` and its settings. Raises ConfigError."""
    if not claim.strong:
        return []
    own = [key_of(setting) for setting in claim.strong]
    settings = [setting for setting in STRONG if not _is_replaced(key_of(setting), own)] + list(claim.strong)
    study, _ = override_study(replace(claim.studies[0], where="strong", seeds=MIN_SEEDS), settings)
    check_study(study, f"claim.{claim.id}(strong)")
    return [study]


def _is_replaced(key: str, given: Iterable[str]) -> bool:
    """Whether a given key sets `key` itself, another choice of its group, or a part of its value."""
    return any(
        key == name or key.startswith(f"{name}.") or ("." in key and name.startswith(f"{key}.")) for name in given
    )
