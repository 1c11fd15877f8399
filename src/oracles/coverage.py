"""Which rows check which theoretical statement; a statement without rows is an error."""

from __future__ import annotations

from collections.abc import Sequence

from src.oracles.rows import Row

STATEMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("w ← (I - P) w + X⁺y on the same samples: sequential two projections in turn, combined one", ("projection:",)),
    ("risk of one stage, n < d-1 and n > d+1", ("one stage",)),
    ("sequential judged on Dataset 2, and Dataset 1 erased where n2 > d+1", ("sequential on d2",)),
    ("sequential judged on Dataset 1", ("sequential on d1",)),
    ("combined, i.i.d. and shifted, on Dataset 2 and on Dataset 1", ("combined on d2", "combined on d1")),
    ("i.i.d., n2 > d+1: risks as (N-d-1) : (n2-d-1), so 3 at n=14+28", ("sequential - combined on d2",)),
    (
        "with noise near N = d combined loses (.625 : 2.60 at n=45+45, d=100), past it it wins (.874 : .641 at 70+70)",
        ("sequential - combined on d2", "claim: combined wins"),
    ),
    ("chunks in sequence", ("chunks in sequence", "projection: chunked")),
    ("forgetting cos² t sin² t, peak at 45 degrees", ("forgetting against the angle", "claim: more different")),
    ("too low a rate leaves (1 - ηλ)^T", ("too low a rate",)),
    ("negative control: warm start = cold start = shrink-perturb", ("negative control",)),
    ("combined optimum of quadratic losses; average of the optima", ("combined optimum", "average of the optima")),
    (
        "EWC with the full H1 and matched weight is combined, with its diagonal it is not",
        ("ewc with the full H1 = combined", "ewc with the diagonal of H1 - combined", "penalty: ewc"),
    ),
    ("LwF with squared loss is an average of weights", ("penalty: lwf",)),
    (
        "path of stage 2 o2 + exp(-s H2)(o1 - o2); its distance to the combined optimum, 0 for multiples of I",
        ("path of stage 2", "the path misses", "positive control: the path"),
    ),
    ("at the minimum of L2 + ρ L1, L1 does not increase with ρ", ("L1 at the minimum",)),
    ("replay of few samples can increase forgetting", ("claim: replay preserves",)),
    ("Var of the mean loss = Var(loss)/n, (|e|² + s²)²/(2n); slope -1 from 8 to 80", ("variance of a test loss",)),
    ("subsets of a pool of M: (S²/n)(1 - n/M)", ("variance of a subset's loss",)),
    ("noise of the gradient [(d+1)|e|² + d s²]/n; slope -1 from 10 to 100", ("noise of the gradient",)),
    ("label shift: change of the bias log π2 - log π1", ("label shift: change",)),
    ("an absent class: 1/p grows like ηt (1 + 1/m)", ("label shift: an absent class",)),
    ("one epoch of SGD, samples in blocks; long-run variance", ("order of samples", "long-run variance")),
    ("double descent: more data can hurt", ("claim: more data help",)),
    ("one chi-square over all Monte-Carlo rows", ("all Monte-Carlo rows",)),
)
"""(statement, prefixes of the names of its rows)."""


def uncovered(rows: Sequence[Row]) -> list[str]:
    """Prefixes that match no row."""
    starts = [start for _, names in STATEMENTS for start in names]
    return [start for start in starts if not any(row.name.startswith(start) for row in rows)]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of every statement with its number of rows and of passing rows."""
    assert not (missing := uncovered(rows)), missing
    lines = ["| theory | rows | pass |", "|---|---:|---:|"]
    for statement, names in STATEMENTS:
        own = [row for row in rows if row.name.startswith(names)]
        lines.append(f"| {statement.replace('|', chr(92) + '|')} | {len(own)} | {sum(row.passed for row in own)} |")
    return "\n".join(lines) + "\n"
