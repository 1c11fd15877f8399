"""A row agrees exactly as often as it should: exact rows by relative error, Monte-Carlo rows by z and one chi-square."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from src.oracles.rows import (
    Row,
    apart,
    chi_square,
    coverage_table,
    exact,
    joint_deviation,
    monte_carlo,
    never_rises,
    statements,
    uncovered,
)


def test_an_exact_row_is_as_good_as_its_worst_number() -> None:
    theory = np.array([[3.0, -4.0], [0.0, 1.0]])
    assert exact("w", "", theory, theory).passed
    off = theory.copy()
    off[1, 0] = 4.1e-6
    assert not exact("w", "", theory, off).passed
    assert exact("w", "", theory, off).score == pytest.approx(4.1e-6 / 4)
    assert exact("w", "", theory, off, tolerance=1e-5).passed
    off[1, 0] = np.nan
    assert not exact("w", "", theory, off).passed


def test_a_mean_is_judged_by_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(400) + 7
    assert monte_carlo("m", "", 7.0, values).passed
    assert not monte_carlo("m", "", 7.3, values).passed
    assert monte_carlo("m", "", 7.3, values).score == pytest.approx((values.mean() - 7.3) / values.std(ddof=1) * 20)


def test_rows_that_share_data_do_not_count_twice() -> None:
    """The joint deviation of correlated rows is chi-square with as many degrees of freedom as rows; their z^2 are not."""
    rng = np.random.default_rng(1)
    mixing = np.array([[1.0, 0.0, 0.0], [0.95, 0.3, 0.0], [0.9, 0.3, 0.3]])
    found = [joint_deviation([0, 0, 0], rng.standard_normal((60, 3)) @ mixing.T) for _ in range(400)]
    assert {freedom for _, freedom in found} == {3}
    assert kstest([value for value, _ in found], "chi2", args=(3,)).pvalue > 0.01


def test_the_chi_square_fails_on_either_side() -> None:
    assert chi_square([(10.0, 8), (3.0, 4)]).passed
    assert not chi_square([(60.0, 8), (3.0, 4)]).passed
    assert not chi_square([(0.01, 8), (0.01, 10)]).passed  # closer to theory than chance allows


def test_what_must_differ_passes_only_where_it_differs_as_theory_says() -> None:
    gaps = np.array([[0.3, 0.4], [0.0, 0.5]])
    assert apart("gap", "", gaps, gaps, least=0.5).passed
    assert not apart("gap", "", gaps, gaps, least=0.51).passed
    assert not apart("gap", "", gaps, 1.01 * gaps, least=0.1).passed


def test_what_never_rises_fails_at_one_step_of_one_seed() -> None:
    falling = np.array([[3.0, 2.0, 2.0], [5.0, 1.0, 0.5]])
    assert never_rises("L1", "", falling).passed
    falling[0, 2] = 2.001
    assert not never_rises("L1", "", falling).passed
    falling[0, 2] = np.nan
    assert not never_rises("L1", "", falling).passed


def test_a_statement_without_a_row_is_found() -> None:
    names = [start for _, starts in statements() for start in starts]
    rows = [
        Row(name=name, setting="", theory="", measured="", score=0.0, passed=k > 0, kind="exact")
        for k, name in enumerate(names)
    ]
    assert uncovered(rows) == []
    assert coverage_table(rows).splitlines()[2].endswith("| 2 | 1 |")  # "projection: chunked" begins like "projection:"
    assert uncovered(rows[:-1]) == [names[-1]]
