"""Compare the laboratory with exact formulas."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from src import cli
from src.terminal import console

if TYPE_CHECKING:
    from src.oracles.rows import Row

USAGE = """python -m src.oracles [write=PAGE.md] [boundary=PLOT.png]

Trains the linear lab for every formula of src/oracles/theory and prints theory, measurement and whether they agree;
exit code 1 if a row fails. `write`: also writes the table as a page. `boundary`: measures the phase boundary instead
and draws it."""
WIDTHS = (44, 46, 14, 24, 10, 4)


def main() -> None:
    """Runs the command."""
    options = cli.settings({"write": None, "boundary": None}, sys.argv[1:])
    started = time.perf_counter()
    if options["boundary"] is not None:
        sys.exit(boundary(Path(options["boundary"])))
    rows = show(every_row())
    seconds = time.perf_counter() - started
    failed = [row for row in rows if not row.passed]
    print(f"{len(rows)} rows, {len(failed)} failed, {seconds:.0f} s ({time.process_time():.0f} s of CPU time)")
    for row in failed:
        print(f"failed: {row.name}, {row.setting}: theory {row.theory}, measured {row.measured}")
    if options["write"] is not None:
        Path(options["write"]).write_text(page(rows, seconds, time.process_time()), encoding="utf-8")
    sys.exit(1 if failed else 0)


def every_row() -> Iterator[Row]:
    """Exact rows, Monte Carlo rows, and the claims that must be refuted."""
    from src.oracles import conditional, montecarlo, quadratics, studies

    return chain(conditional.rows(), quadratics.rows(), montecarlo.rows(), studies.rows())


def show(rows: Iterator[Row]) -> list[Row]:
    """Prints rows as they are computed, under a heading for each kind."""
    from src.oracles.rows import HEADINGS

    def line(cells: Sequence[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(cells, WIDTHS, strict=True))

    terminal = console()
    seen: list[Row] = []
    for row in rows:
        if not seen or seen[-1].kind != row.kind:
            terminal.print(f"\n{row.kind}", style="bold")
            terminal.print(line(HEADINGS), style="dim", soft_wrap=True)
        seen.append(row)
        terminal.print(line(row.cells), style=None if row.passed else "bold red", soft_wrap=True)
    return seen


def page(rows: Sequence[Row], seconds: float, cpu_seconds: float) -> str:
    """docs/ORACLES.md: what is checked, and the table."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from src.oracles import montecarlo
    from src.oracles.rows import CHI_SQUARE_LEVEL, HEADINGS, MAX_Z, TOLERANCE, coverage_table

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    by_kind = sorted(rows, key=lambda row: [r.kind for r in rows].index(row.kind))
    return environment.get_template("page.md.j2").render(
        n_rows=len(rows),
        n_failed=sum(not row.passed for row in rows),
        seconds=f"{seconds:.0f}",
        cpu_seconds=f"{cpu_seconds:.0f}",
        machine=platform.machine(),
        tolerance=f"{TOLERANCE:g}",
        seeds=f"{len(montecarlo.SEEDS)} seeds a cell, from {montecarlo.SEEDS[0]} on",
        max_z=f"{MAX_Z:g}",
        level=f"{CHI_SQUARE_LEVEL:g}",
        coverage=coverage_table(rows),
        headings=HEADINGS,
        groups=[(kind, list(group)) for kind, group in groupby(by_kind, key=lambda row: row.kind)],
    )


def boundary(path: Path) -> int:
    """Measures and draws the phase boundary; returns 1 if a certain cell has the wrong sign, otherwise 0."""
    from src.oracles.montecarlo import BOUNDARY, boundary_points
    from src.oracles.phase_diagram import draw, verdict

    terminal, found = console(), []
    for point in boundary_points():
        found.append(point)
        sign = "certain" if point.is_certain else "not certain"
        line = f"n2={point.n2:<4} D2={point.shift:<6g} {point.difference:+.4g} ± {point.error:.2g}"
        terminal.print(f"{line}  exact {point.exact:+.4g}  {sign}{'' if point.agrees else '  DISAGREES'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(BOUNDARY, found).savefig(path)
    terminal.print(f"{verdict(found)}; plot in {path}")
    return 0 if all(point.agrees for point in found) else 1


if __name__ == "__main__":
    cli.command(main, USAGE)
