"""The laboratory beside exact answers.   python -m src.oracles [write=docs/ORACLES.md] [boundary=docs/boundary.png]

Trains the linear lab on every formula of src/oracles/theory and prints theory, measurement and whether they agree; exit code 1 if a
row fails. `write`: the table as a page. `boundary`: the picture of who wins where, instead of the table.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from src import cli as entry

if TYPE_CHECKING:
    from src.oracles.rows import Row

USAGE = "python -m src.oracles [write=PAGE.md] [boundary=PICTURE.png]"


def main() -> None:
    """The command."""
    chosen = entry.settings({"write": None, "boundary": None}, f"{USAGE}\n{__doc__}")
    started = time.perf_counter()
    if chosen["boundary"] is not None:
        sys.exit(picture(Path(chosen["boundary"])))
    rows = show(every_row())
    seconds = time.perf_counter() - started
    failed = [row for row in rows if not row.passed]
    print(f"{len(rows)} rows, {len(failed)} failed, {seconds:.0f} s ({time.process_time():.0f} s of CPU time)")
    for row in failed:
        print(f"failed: {row.name}, {row.setting}: theory {row.theory}, measured {row.measured}")
    if chosen["write"] is not None:
        Path(chosen["write"]).write_text(page(rows, seconds, time.process_time()), encoding="utf-8")
    sys.exit(1 if failed else 0)


def every_row() -> Iterator[Row]:
    """Exact rows, Monte Carlo, and the claims that must come out refuted."""
    from src.oracles import conditional, montecarlo, quadratics, studies

    return chain(conditional.rows(), quadratics.rows(), montecarlo.rows(), studies.rows())


def show(rows: Iterator[Row]) -> list[Row]:
    """Prints rows as they come, those of one kind under one heading."""
    from rich.console import Console

    from src.oracles.rows import HEADINGS

    console = Console(highlight=False, soft_wrap=True)
    seen: list[Row] = []
    widths = (44, 46, 14, 24, 10, 4)
    for row in rows:
        if not seen or seen[-1].kind != row.kind:
            console.print(f"\n{row.kind}", style="bold")
            console.print(
                "  ".join(text.ljust(width) for text, width in zip(HEADINGS, widths, strict=True)), style="dim"
            )
        seen.append(row)
        line = "  ".join(text.ljust(width) for text, width in zip(row.cells, widths, strict=True))
        console.print(line, style=None if row.passed else "bold red", markup=False)
    return seen


def page(rows: Sequence[Row], seconds: float, cpu_seconds: float) -> str:
    """docs/ORACLES.md: what is checked, and the table."""
    from src.oracles import coverage, montecarlo
    from src.oracles.rows import CHI_SQUARE_LEVEL, HEADINGS, MAX_Z, TOLERANCE

    n_failed = sum(not row.passed for row in rows)
    seeds = f"{len(montecarlo.SEEDS)} seeds a cell, from {montecarlo.SEEDS[0]} on"
    text = f"""# The laboratory beside exact answers

Written by `python -m src.oracles write=docs/ORACLES.md` (`make oracles` prints the same): {len(rows)} rows, {n_failed} failed,
{seconds:.0f} s ({cpu_seconds:.0f} s of CPU time) on {platform.machine()}, one thread.

Linear regression by full-batch descent has closed answers (`src/oracles/theory`, with their sources). Every row trains it through
the plan, the stages, the stopping rules, the penalties and the evaluation that networks use (`study=linear_lab`), and puts
the result beside theory. Results are kept in memory instead of files, but for the rows that name result.json.

- **exact**: on the samples at hand, no average; the largest error of any number must be at most {TOLERANCE:g} of the largest.
- **Monte Carlo**: means over independent draws ({seeds}; no two cells share a seed), |z| < {MAX_Z:g} in each row. Risks have no
  variance within 3 of n = d, so n1, n2 and N are at least 4 away wherever they count. One chi-square over all rows, p between
  {CHI_SQUARE_LEVEL:g} and 1 - {CHI_SQUARE_LEVEL:g}: rows of one cell share data, so each cell enters with Hotelling's T^2, which
  allows for that; differences of two rows are left out of it, as they follow from them.
- **verdict**: claims that theory says fail (conf/study), where the machinery must answer *refuted*, each beside a case where
  the same claim holds. The number is the p-value that decides.

Descent takes momentum where a Hessian is ill-conditioned: it moves in the same row space, to the same limit. `make mutate`
plants errors in split, plan, stopping, penalties and evaluation, and shows which rows notice.

## What is covered

{coverage.table(rows)}
Beside the rows: the phase boundary is measured by `python -m src.oracles boundary=docs/boundary.png` (exit code 1 if a certain
cell has the wrong sign) and its exact values are in tests/oracles/theory/test_boundary.py (critical shift at d=20, n1=400, s=1: 1.175 for
n2 = 1, then 1.52, 5.45, 22.1, 5.57, 1.21, .327 for 5, 15, 22, 25, 40, 100). The statistics (sign-flip test, intervals, Holm,
equivalence, A/A) are checked in tests/comparison/test_statistics.py and test_false_alarms.py ([STATISTICS.md](STATISTICS.md)).
"""
    for kind in dict.fromkeys(row.kind for row in rows):
        text += f"\n## {kind[0].upper()}{kind[1:]}\n\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}\n"
        for row in rows:
            if row.kind == kind:
                text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row.cells)} |\n"
    return text


def picture(path: Path) -> int:
    """Measures and draws the phase boundary; the exit code says whether every certain cell agrees."""
    from rich.console import Console

    from src.oracles.boundary import SETTING, points
    from src.oracles.phase_diagram import draw, verdict

    console, found = Console(highlight=False), []
    for point in points():
        found.append(point)
        sign = "certain" if point.is_certain else "not certain"
        line = f"n2={point.n2:<4} D2={point.shift:<6g} {point.difference:+.4g} ± {point.error:.2g}"
        console.print(f"{line}  exact {point.exact:+.4g}  {sign}{'' if point.agrees else '  DISAGREES'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(SETTING, found).savefig(path)
    console.print(f"{verdict(found)}; picture in {path}")
    return 0 if all(point.agrees for point in found) else 1


if __name__ == "__main__":
    main()
