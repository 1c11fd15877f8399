"""Claims that fail in theory: studies of conf/study where the verdict must be *refuted*, each next to one that
holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.comparison.predictions import PredictionVerdict, increasing_trend, judge_effect
from src.comparison.statistics import ALPHA, Floats
from src.comparison.units import format_effect, format_interval
from src.oracles.cell import lab, measure
from src.oracles.rows import Row
from src.oracles.theory import risks

ACCURACY = 1e-5
N_SEEDS = 12


def rows() -> Iterator[Row]:
    """All verdict rows."""
    yield combined_wins(45, "refuted")
    yield combined_wins(140, "supported")
    yield more_data_helps((4, 12, 16), "refuted")
    yield more_data_helps((30, 50, 100), "supported")
    yield more_different_forgets_more((45, 60, 75), "refuted")
    yield more_different_forgets_more((15, 30, 45), "supported")
    yield replay_preserves("replay_counterexample", "refuted")
    yield replay_preserves("linear_lab", "supported")


def _row(
    name: str, setting: str, expected: PredictionVerdict, found: PredictionVerdict, text: str, p: float | None
) -> Row:
    score = np.nan if p is None else p
    return Row(f"claim: {name}", setting, expected, f"{found}: {text}", score, found == expected, "verdict")


def _lead(name: str, setting: str, expected: PredictionVerdict, differences: Floats) -> Row:
    """A predicted positive mean of `differences` [seeds]."""
    found = judge_effect(differences, "positive")
    text = f"{format_effect(found.effect)} {format_interval(found.ci_low, found.ci_high)}, n = {found.n}"
    return _row(name, setting, expected, found.verdict, text, found.p)


def combined_wins(n: int, expected: PredictionVerdict) -> Row:
    """Sequential minus combined, excess risk on union: positive if combined wins."""
    overrides = (f"split.sizes=[{n},{n}]", "data.n_samples=600")
    config = lab(*overrides, regimes="sequential,combined", seeds=N_SEEDS, study="near_interpolation")
    cell = measure(config, accuracy=ACCURACY)
    found = [cell.metric(regime, "test/union/excess_risk") for regime in ("sequential", "combined")]
    combined = risks.combined_risk(100, n, n, noise=0.25, initial=1.0)
    sequential = risks.sequential_risk(100, n, n, noise=0.25, initial=1.0)
    setting = f"near_interpolation, n={n}+{n}, d=100: theory {sequential:.3g} - {combined:.3g}"
    return _lead("combined wins i.i.d.", setting, expected, found[0] - found[1])


def _trend(name: str, setting: str, expected: PredictionVerdict, values: Floats) -> Row:
    """A predicted rise over conditions, `values` [seeds, conditions]: refuted where a step falls significantly."""
    trend = increasing_trend(values)
    falls = min(trend.drop_p) <= ALPHA
    found: PredictionVerdict = "refuted" if falls else ("supported" if trend.p <= ALPHA else "inconclusive")
    means = ", ".join(f"{mean:.3g}" for mean in values.mean(axis=0))
    return _row(name, setting, expected, found, f"means {means}", min(trend.drop_p) if falls else trend.p)


def more_data_helps(sizes: tuple[int, ...], expected: PredictionVerdict) -> Row:
    """Minus the excess risk of one stage rises with its samples."""
    columns = []
    for n in sizes:
        overrides = (f"split.sizes=[{n},10]",)
        config = lab(*overrides, regimes="d1_only", seeds=N_SEEDS, study="double_descent")
        columns.append(-measure(config, accuracy=ACCURACY).metric("d1_only", "test/d1/excess_risk"))
    setting = f"double_descent, d=20, n={', '.join(map(str, sizes))}"
    return _trend("more data help", setting, expected, np.stack(columns, axis=1))


def more_different_forgets_more(angles: tuple[int, ...], expected: PredictionVerdict) -> Row:
    """Forgetting rises with the angle."""
    columns = []
    for angle in angles:
        config = lab(f"data.angle={angle}", regimes="sequential,d1_only", seeds=N_SEEDS, study="angle")
        cell = measure(config, accuracy=ACCURACY)
        after, before = (cell.metric(regime, "test/d1/excess_risk") for regime in ("sequential", "d1_only"))
        columns.append(after - before)
    setting = f"angle, {', '.join(map(str, angles))} degrees"
    return _trend("more different data are forgotten more", setting, expected, np.stack(columns, axis=1))


def replay_preserves(study: str, expected: PredictionVerdict) -> Row:
    """Sequential's excess risk on d1 minus replay's: positive if replay keeps Dataset 1 from being forgotten."""
    plain = ("split.sizes=[4,4]", "data.noise=0", "optimizer.lr=0.03", "stopping.tolerance=1e-5")
    overrides = () if study == "replay_counterexample" else plain
    config = lab(*overrides, regimes="sequential,{replay:{share:0.5}}", seeds=N_SEEDS, study=study)
    cell = measure(config, accuracy=None)  # updates replay different samples, so the mean Hessian does not set the rate
    assert not cell.unconverged, study
    labels = [regime.label for regime in config.regimes]
    found = [cell.metric(label, "test/d1/excess_risk") for label in labels]
    setting = study if study != "linear_lab" else "d=20, n=4+4, no noise"
    return _lead("replay preserves", setting, expected, found[0] - found[1])
