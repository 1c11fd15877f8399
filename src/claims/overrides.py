"""A study under the user's settings: `data=mnist split.size=5000` in place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import yaml

from src.claims.claims import MIN_SEEDS, Claim, Study, check_study, listed

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
