"""The table of claims: on the terminal, as Markdown, and as claims.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.claims.contrasts import Finding, Settled
from src.comparison.verdicts import format_p
from src.io import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"supported": "green", "refuted": "red", "equivalent": "cyan", "inconclusive": "yellow"}
HEADS = ("claim", "data", "predicted", "effect", "95 % interval", "n", "p", "verdict")


def entry(settled: Settled, data: str, command: str) -> dict[str, Any]:
    """One object of claims.json: the figures of the statement that decides, and all statements below it.

    `data`: where it was settled; `command`: what settles it again.
    """
    decided = settled.decided_by
    return {
        "id": settled.claim.id,
        "data": data,
        "place": settled.study.place,
        "sentence": settled.claim.sentence,
        "source": settled.claim.source,
        "predicted": f"{decided.says} {decided.prediction}",
        "effect": decided.effect,
        "ci_low": decided.ci_low,
        "ci_high": decided.ci_high,
        "p": decided.p,
        "n": decided.n,
        "verdict": settled.verdict,
        "expected": settled.study.expected,
        "as_expected": settled.as_expected,
        "reason": decided.reason,
        "remarks": list(settled.remarks),
        "command": command,
        "statements": [dataclasses.asdict(finding) for finding in settled.findings],
    }


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of an earlier command with those settled now in their place, sorted by claim."""

    def name(one: dict[str, Any]) -> tuple[str, str, str]:
        return one["id"], one["place"], one["data"]

    by_name = {name(one): one for one in [*old, *new]}
    return [by_name[key] for key in sorted(by_name)]


def write(folder: Path, entries: Sequence[dict[str, Any]]) -> list[str]:
    """claims.json and claims.md in `folder`, earlier entries kept; returns their names."""
    path = folder / "claims.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    everything = merged(old, entries)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(everything, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / "claims.md", markdown(everything).encode())
    return [path.name, "claims.md"]


def number(value: float | None) -> str:
    """Three significant figures with a sign; a dash for what could not be measured."""
    return "-" if value is None else f"{value:+.3g}"


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]"


def markdown(entries: Sequence[dict[str, Any]]) -> str:
    """One row a claim, one under it for each statement where it has several."""
    rows: list[tuple[str, ...]] = [HEADS, ("---", "---", "---", "---:", "---", "---:", "---:", "---")]
    for one in entries:
        several = len(one["statements"]) > 1
        told = "" if one["as_expected"] else f" (expected: {one['expected']})"
        if not several:
            rows.append(
                (f"**{one['id']}**", one["data"], *_cells(one, one["predicted"]), f"**{one['verdict']}**{told}")
            )
            continue
        rows.append((f"**{one['id']}**", one["data"], "all of:", "", "", "", "", f"**{one['verdict']}**{told}"))
        for statement in one["statements"]:
            beside = "" if statement["decides"] else " (beside)"
            predicted = f"{statement['says']} {statement['prediction']}"
            rows.append(("", "", *_cells(statement, predicted), f"{statement['verdict']}{beside}"))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def _cells(one: dict[str, Any], predicted: str) -> tuple[str, ...]:
    figures = (number(one["effect"]), interval(one["ci_low"], one["ci_high"]), str(one["n"]), format_p(one["p"]))
    return (predicted, *figures)


def terminal_table(settled: Sequence[tuple[Settled, str]]) -> Table:
    """The same for the terminal: (what was settled, its data)."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=[""])
    for head in HEADS:
        table.add_column(head, justify="right" if head in ("effect", "n", "p") else "left", overflow="fold")
    for one, data in settled:
        word = f"[{COLOURS[one.verdict]}]{one.verdict}[/]"
        word += "" if one.as_expected else f" (expected: {one.study.expected})"
        if len(one.findings) == 1:
            table.add_row(f"[bold]{one.claim.id}[/]", data, *_figures(one.findings[0]), word)
            continue
        table.add_row(f"[bold]{one.claim.id}[/]", data, "all of:", "", "", "", "", word)
        for finding in one.findings:
            verdict = finding.verdict if finding.decides else f"{finding.verdict} (beside)"
            table.add_row("", "", *_figures(finding), f"[dim]{verdict}[/]")
    return table


def _figures(finding: Finding) -> tuple[str, ...]:
    return (
        f"{finding.says} {finding.prediction}",
        number(finding.effect),
        interval(finding.ci_low, finding.ci_high).replace("[", r"\["),
        str(finding.n),
        format_p(finding.p),
    )
