"""The phase boundary: where the sign of sequential minus combined changes, in linear regression judged on Dataset 2.

Both risks are straight lines in D2 = |w1* - w2*|^2, so one value of D2 separates the two winners. Arguments as in
risks.py.
"""

from __future__ import annotations

from src.oracles.theory.risks import combined_line, combined_risk, sequential_line, sequential_risk
from src.oracles.theory.validity import require_counts


def risk_difference(dim: int, n1: int, n2: int, *, noise: float, shift: float, initial: float = 0.0) -> float:
    """Sequential minus combined, risk on Dataset 2: negative where sequential wins. Valid where both risks are."""
    sequential = sequential_risk(dim, n1, n2, noise=noise, initial=initial, shift=shift)
    return sequential - combined_risk(dim, n1, n2, noise=noise, initial=initial, shift=shift)


def critical_shift(dim: int, n1: int, n2: int, *, noise: float, initial: float = 0.0) -> float:
    """The D2 above which sequential wins on Dataset 2, for n1, n2 >= 1; 0 where it wins at every shift.

    n2 > d+1: s2 d [1/(n2-d-1) - 1/(N-d-1)]/b1, b1 = `shift_weight`; as a function of n2 it peaks at n2 ~ d. For n2 <
    d-1 the crossing of the two lines; `initial` then counts only where n1 < d as well. It always exists, because
    combined keeps more of a shift than sequential: both keep what no sample of Dataset 2 sees, 1 - n2/d, and combined
    keeps some of the rest. Raises where a risk is infinite (N within 1 of d; with noise also n2, or n1 where n2 < d).
    """
    require_counts(1, n1=n1, n2=n2)
    sequential_intercept, sequential_slope = sequential_line(dim, n1, n2, noise=noise, initial=initial)
    combined_intercept, combined_slope = combined_line(dim, n1, n2, noise=noise, initial=initial)
    return max(0.0, (sequential_intercept - combined_intercept) / (combined_slope - sequential_slope))
