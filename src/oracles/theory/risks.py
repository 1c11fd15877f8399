"""Linear regression averaged over its data: expected risks of converged descent, and where they cross.

Setting of every function: x ~ N(0, I_d), y = w*.x + noise; stages trained to convergence (affine projections, see
linear.py); risk R = |w - w*|^2, which is twice the excess of half the squared error. Arguments, the same everywhere:

    dim      d, number of weights
    n1, n2   samples of Dataset 1 and Dataset 2; N = n1 + n2
    noise    s2, variance of the target's noise
    initial  |w0 - w1*|^2, squared error of the starting weights on Dataset 1's target
    shift    D2 = |w1* - w2*|^2, squared distance of the two targets; its direction isotropic or orthogonal to w0 - w1*
    judge    "d1" or "d2": the target that the risk is measured against

With noise the expectation is infinite for |n - d| <= 1, where every function raises ValueError; without noise it holds
at every n.
Sources: moments of the Wishart and inverse Wishart (Muirhead 1982, chapter 3); for one stage, Belkin, Hsu and Xu 2020
("Two models of double descent"), Breiman and Freedman 1983; for two, Evron et al. 2022 and Lin et al. 2023 ("Theory on
forgetting and generalization of continual learning"). Variances are infinite for |n - d| <= 3: no Monte Carlo there.
"""

from __future__ import annotations

import math
from typing import Literal

Judge = Literal["d1", "d2"]


def _require_finite(dim: int, n: int) -> None:
    if abs(n - dim) <= 1:
        raise ValueError(f"{n} samples: the expected risk is infinite within 1 of dim={dim}")


def kept_share(dim: int, n: int) -> float:
    """E|(I - P) e|^2 / |e|^2: the share of an error that n samples leave untouched, max(0, 1 - n/d)."""
    return max(0.0, 1.0 - n / dim)


def noise_risk(dim: int, n: int, noise: float) -> float:
    """What fitting noise adds, s2 E|X^+|^2: s2 n/(d-n-1) below n = d-1, s2 d/(n-d-1) above n = d+1.

    Raises for |n - d| <= 1 unless `noise` is 0.
    """
    if noise == 0 or n == 0:
        return 0.0
    _require_finite(dim, n)
    return noise * n / (dim - n - 1) if n < dim else noise * dim / (n - dim - 1)


def one_stage_risk(dim: int, n: int, *, noise: float, initial: float) -> float:
    """Risk after one stage: (1 - n/d) |e0|^2 + s2 n/(d-n-1) for n < d-1; s2 d/(n-d-1) for n > d+1."""
    return kept_share(dim, n) * initial + noise_risk(dim, n, noise)


def sequential_risk(
    dim: int, n1: int, n2: int, *, noise: float, initial: float, shift: float = 0.0, judge: Judge = "d2"
) -> float:
    """Risk after Dataset 1, then Dataset 2.

    On d2: (1 - n2/d)(R1 + D2) + s2 n2/(d-n2-1), R1 the risk after stage 1; s2 d/(n2-d-1) for n2 > d+1: Dataset 1 is
    erased, so n1 may then be anything, and the risk without shift is (N-d-1)/(n2-d-1) times the combined one. On d1: (1
    - n2/d) R1 + (n2/d) D2 + the same noise; D2 + s2 d/(n2-d-1) above.
    """
    intercept, slope = sequential_line(dim, n1, n2, noise=noise, initial=initial, judge=judge)
    return intercept + slope * shift


def sequential_line(
    dim: int, n1: int, n2: int, *, noise: float, initial: float, judge: Judge = "d2"
) -> tuple[float, float]:
    """(intercept, slope) of `sequential_risk` as a function of the shift D2; valid where it is."""
    kept = kept_share(dim, n2)
    fitted = noise_risk(dim, n2, noise)
    if kept > 0:  # else Dataset 1 is erased, even where its own risk is infinite
        fitted += kept * (kept_share(dim, n1) * initial + noise_risk(dim, n1, noise))
    return fitted, kept if judge == "d2" else 1.0 - kept


def shift_weight(dim: int, n_other: int, n_judged: int) -> float:
    """b1: the share of a target's shift that combined training keeps, judged on the data set of `n_judged` samples.

    E|S^-1 S_other delta|^2 = b1 |delta|^2 with S = S_other + S_judged Wishart matrices. S is independent of the matrix
    beta U = S^-1/2 S_other S^-1/2, whose second moments E[U A U] = (p+q) A + q tr(A) I are the solution of the two
    equations of E tr(S_other)^2 and E tr(S_other^2) (Muirhead 1982, sections 3.2 and 3.3). Solved in closed form, valid
    from dim = 1, with n the other, m the judged number and N = n + m:

        q = n m / (N (N-1) (N+2)),   p + 2q = n (n+2) / (N (N+2)),   b1 = p + 2q + q (d-1)(N+1)/(N-d-1)

    Tends to (n/N)^2 for large n, m. Needs N > d+1; at or below, see `combined_risk`.
    """
    total = n_other + n_judged
    mixed = n_other * n_judged / (total * (total - 1) * (total + 2))
    square = n_other * (n_other + 2) / (total * (total + 2))
    return square + mixed * (dim - 1) * (total + 1) / (total - dim - 1)


def combined_risk(
    dim: int, n1: int, n2: int, *, noise: float, initial: float, shift: float = 0.0, judge: Judge = "d2"
) -> float:
    """Risk of training on both data sets together.

    Without shift: `one_stage_risk` of N samples. With shift and N > d+1: b1 D2 + s2 d/(N-d-1), see `shift_weight`. With
    shift and N < d-1, n the other and m the judged number of samples, e the starting error on the judged target: (1 -
    N/d)|e|^2 + D2 (n/d)(d-n-1)/(d-N-1) + s2 N/(d-N-1). Derivation of the latter: |X^+ v|^2 = v'(XX')^-1 v with v =
    X_other delta on the other rows, whose block of (XX')^-1 is the inverse of a Schur complement ~ Wishart(d - m)
    independent of the part of X_other inside the judged rows' span. Raises for |N - d| <= 1 when there is shift or
    noise.
    """
    if shift == 0:
        total = n1 + n2
        return kept_share(dim, total) * initial + noise_risk(dim, total, noise)
    intercept, slope = combined_line(dim, n1, n2, noise=noise, initial=initial, judge=judge)
    return intercept + slope * shift


def combined_line(
    dim: int, n1: int, n2: int, *, noise: float, initial: float, judge: Judge = "d2"
) -> tuple[float, float]:
    """(intercept, slope) of `combined_risk` as a function of the shift D2; raises for |N - d| <= 1, noise or not."""
    total = n1 + n2
    _require_finite(dim, total)
    other, judged = (n1, n2) if judge == "d2" else (n2, n1)
    intercept = kept_share(dim, total) * initial + noise_risk(dim, total, noise)
    if total > dim:
        return intercept, shift_weight(dim, other, judged)
    slope = other / dim * (dim - other - 1) / (dim - total - 1)
    # w0 - w1* is what `initial` measures; judged on d2 the starting error is larger by the shift.
    return intercept, slope + (kept_share(dim, total) if judge == "d2" else 0.0)


def chunks_risk(dim: int, n_per_chunk: int, n_chunks: int, *, noise: float, initial: float) -> float:
    """Risk after k chunks of m fresh i.i.d. samples, one stage each.

    m < d-1: (1-m/d)^k |e0|^2 + s2 d/(d-m-1) [1 - (1-m/d)^k]; m > d+1: s2 d/(m-d-1) for every k >= 1.
    Source: the recursion R -> (1-m/d) R + s2 m/(d-m-1) of `sequential_risk`, summed.
    """
    kept = kept_share(dim, n_per_chunk)
    fitted = noise_risk(dim, n_per_chunk, noise)
    # The geometric sum of kept^j, exact too where kept is 0.
    return kept**n_chunks * initial + fitted * (1.0 - kept**n_chunks) / (1.0 - kept)


def forgetting_at_angle(angle: float, initial: float = 1.0) -> float:
    """Squared error on Dataset 1 after Dataset 2, for noiseless realisable data: cos^2 t sin^2 t, peak 1/4 at 45
    degrees.

    `angle` t (radians, 0 to pi/2) lies between the unit input of Dataset 1 and that of Dataset 2, or is the one
    principal angle between two input subspaces; `initial` is the squared part of w0 - w* in the span of both that is
    orthogonal to Dataset 1's inputs (the part along them is learnt in stage 1). Before stage 2 the error is 0, so this
    is forgetting.
    Source: Evron et al. 2022, section 4 (two projections in a plane).
    """
    return initial * (math.cos(angle) * math.sin(angle)) ** 2


def risk_difference(dim: int, n1: int, n2: int, *, noise: float, shift: float, initial: float = 0.0) -> float:
    """Sequential minus combined, risk on Dataset 2: negative where sequential wins. Valid where both risks are."""
    sequential = sequential_risk(dim, n1, n2, noise=noise, initial=initial, shift=shift)
    return sequential - combined_risk(dim, n1, n2, noise=noise, initial=initial, shift=shift)


def critical_shift(dim: int, n1: int, n2: int, *, noise: float, initial: float = 0.0) -> float:
    """The phase boundary: the D2 above which sequential wins on Dataset 2, for n1, n2 >= 1; 0 where it always wins.

    Both risks are straight lines in D2, so one value separates the two winners. n2 > d+1: s2 d [1/(n2-d-1) -
    1/(N-d-1)]/b1, b1 = `shift_weight`; as a function of n2 it peaks at n2 ~ d. For n2 < d-1 the crossing of the two
    lines; `initial` then counts only where n1 < d as well. It always exists, because combined keeps more of a shift
    than sequential: both keep what no sample of Dataset 2 sees, 1 - n2/d, and combined keeps some of the rest. Raises
    where a risk is infinite (N within 1 of d; with noise also n2, or n1 where n2 < d).
    """
    sequential_intercept, sequential_slope = sequential_line(dim, n1, n2, noise=noise, initial=initial)
    combined_intercept, combined_slope = combined_line(dim, n1, n2, noise=noise, initial=initial)
    return max(0.0, (sequential_intercept - combined_intercept) / (combined_slope - sequential_slope))
