"""The table of claims: claims.json, and the same rows as Markdown and on the terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.comparison.text_table import TextTable
from src.comparison.units import format_effect, format_interval, format_p
from src.io import write_atomically

if TYPE_CHECKING:  # loads torch, which a report's own process does without
    from src.claims.verdicts import ClaimVerdict

COLOURS = {"supported": "green", "refuted": "red", "equivalent": "cyan", "inconclusive": "yellow"}
HEADS = ("claim", "data", "predicted", "effect", "95 % interval", "n", "p", "verdict")
ALIGN = "lllrrrrl"


def claim_entry(judged: ClaimVerdict, data: str, command: str) -> dict[str, Any]:
    """One object of claims.json: the values of the decisive statement, then all statements.

    Args:
        data: the data set or study that the verdict is about.
        command: reproduces the verdict.
    """
    decisive = judged.decisive
    return {
        "id": judged.claim.id,
        "data": data,
        "place": judged.study.where,
        "sentence": judged.claim.sentence,
        "source": judged.claim.source,
        "predicted": f"{decisive.says} {decisive.prediction}",
        **{key: getattr(decisive, key) for key in ("effect", "ci_low", "ci_high", "p", "n")},
        "verdict": judged.verdict,
        "expected": "not supported, as a control" if judged.study.control else judged.study.expected,
        "as_expected": judged.as_expected,
        "reason": decisive.reason,
        "remarks": list(judged.remarks),
        "command": command,
        "statements": [dataclasses.asdict(statement) for statement in judged.statements],
    }


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of earlier commands, replaced by the new ones of the same claim, study and data; sorted by claim."""
    by_key = {(entry["id"], entry["place"], entry["data"]): entry for entry in [*old, *new]}
    return [by_key[key] for key in sorted(by_key)]


def write(folder: Path, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Updates claims.json and claims.md in `folder`; returns their names."""
    path = folder / "claims.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    everything = merged(old, entries)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(everything, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / "claims.md", claims_table(everything).markdown().encode())
    return [path.name, "claims.md"]


def claims_table(entries: Sequence[Mapping[str, Any]]) -> TextTable:
    """One row per claim; a claim of several statements has a row for each of them below."""
    rows = []
    for entry in entries:
        expected = "" if entry["as_expected"] else f" (expected: {entry['expected']})"
        name, verdict = (f"**{entry['id']}**", entry["data"]), f"**{entry['verdict']}**{expected}"
        if len(entry["statements"]) == 1:
            rows.append((*name, entry["predicted"], *value_texts(entry), verdict))
            continue
        rows.append((*name, "all of:", "", "", "", "", verdict))
        for one in entry["statements"]:
            suffix = "" if one["decides"] else " (not deciding)"
            rows.append(("", "", f"{one['says']} {one['prediction']}", *value_texts(one), f"{one['verdict']}{suffix}"))
    return TextTable(heads=HEADS, rows=tuple(rows), align=ALIGN)


def value_texts(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Effect, interval, n and p; three significant digits, "-" for undefined values."""
    interval = format_interval(entry["ci_low"], entry["ci_high"])
    return (format_effect(entry["effect"]), interval, str(entry["n"]), format_p(entry["p"]))


def verdict_style(text: str) -> str:
    """Terminal style of a cell of the column "verdict"."""
    is_claim = text.startswith("**")
    return COLOURS[text.removeprefix("**").partition("**")[0]] if is_claim else "dim"
