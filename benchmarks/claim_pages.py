"""Writes what docs/ and conf/claim say of the claims' results, from the claims.json of a run.

    make claims && make claims ARGS=controls=true && make claims STRONG=1
    python -m benchmarks.claim_pages multirun/claims/claims.json

docs/claims.json receives the results and keeps those of studies that the run did not contain; docs/RESULTS.md and docs/CLAIMS.md receive
their tables between markers, and every file of conf/claim its "Expected" lines. tests/claims compares all of them with docs/claims.json.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.claims.claims import Claim, load_claim
from src.claims.table import claims_table, merged, value_texts
from src.comparison.text_table import TextTable
from src.io import CONF_DIR
from src.typed import conf_names

DOCS = CONF_DIR.parent / "docs"
KEPT = (
    "id",
    "data",
    "place",
    "predicted",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "n",
    "verdict",
    "expected",
    "as_expected",
)
OF_A_STATEMENT = ("says", "prediction", "decides", "verdict", "effect", "ci_low", "ci_high", "p", "n")
WIDTH = 118

Entry = Mapping[str, Any]


def pages(entries: Sequence[Entry]) -> dict[Path, str]:
    """The content of every page and claim file, given the results. Raises ValueError for a page without its markers."""
    controls = {
        claim.id: [control.where for control in claim.controls] for claim in map(load_claim, conf_names("claim"))
    }
    of_controls = [entry for entry in entries if entry["place"] in controls[entry["id"]]]
    of_strong = [entry for entry in entries if entry["place"] == "strong"]
    others = [entry for entry in entries if entry not in of_controls and entry not in of_strong]
    results, claims = DOCS / "RESULTS.md", DOCS / "CLAIMS.md"
    found = {
        results: _between(
            _between(results.read_text(encoding="utf-8"), "claims", claims_table(others).markdown()),
            "strong",
            _strong_table(others, of_strong).markdown(),
        ),
        claims: _between(claims.read_text(encoding="utf-8"), "controls", _controls_table(of_controls).markdown()),
    }
    for name in conf_names("claim"):
        path = CONF_DIR / "claim" / f"{name}.yaml"
        lines = _expected(load_claim(name), [entry for entry in others if entry["id"] == name])
        before, _, rest = path.read_text(encoding="utf-8").partition("# Expected: ")
        found[path] = before + lines + rest[rest.index("\nid: ") + 1 :]
    return found


def summary(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The results without the values of single seeds, for the studies and controls that the claims have today."""
    known = {
        (claim.id, where)
        for claim in map(load_claim, conf_names("claim"))
        for where in (
            *(study.where for study in claim.studies),
            *(control.where for control in claim.controls),
            *["strong"][: len(claim.strong)],
        )
    }
    return [
        {
            **{key: entry[key] for key in KEPT},
            "statements": [{key: one[key] for key in OF_A_STATEMENT} for one in entry["statements"]],
        }
        for entry in entries
        if (entry["id"], entry["place"]) in known
    ]


def _between(page: str, name: str, table: str) -> str:
    """The page with the table between its markers."""
    start, end = f"<!-- {name}: written by benchmarks.claim_pages -->\n", f"<!-- end of {name} -->\n"
    before, is_there, rest = page.partition(start)
    _, is_closed, after = rest.partition(end)
    if not (is_there and is_closed):
        raise ValueError(f"the page lacks the lines {start.strip()} and {end.strip()}")
    return before + start + table + end + after


def _strong_table(others: Sequence[Entry], of_strong: Sequence[Entry]) -> TextTable:
    """One row for each claim with a strong study: its first study's verdict, and that of the strong one."""
    found = {entry["id"]: entry for entry in of_strong}
    rows = []
    for claim in filter(lambda claim: claim.strong, map(load_claim, conf_names("claim"))):
        first = next(e for e in others if (e["id"], e["place"]) == (claim.id, claim.studies[0].where))
        cells = [claim.id, first["verdict"], _effects(first)]
        strong = found.get(claim.id)
        rows.append((*cells, "not run", "") if strong is None else (*cells, strong["verdict"], _effects(strong)))
    heads = ("claim", "on digits", "effects", "on photographs, tuned", "effects")
    return TextTable(heads=heads, rows=tuple(rows), align="lllll")


def _effects(entry: Entry) -> str:
    """The deciding statements of an entry."""
    return "; ".join(_found(one, entry["verdict"]) for one in entry["statements"] if one["decides"])


def _controls_table(entries: Sequence[Entry]) -> TextTable:
    """One row for each control, with its deciding statements."""
    rows = []
    for entry in entries:
        because = next(one.because for one in load_claim(entry["id"]).controls if one.where == entry["place"])
        rows.append((entry["id"], f"{entry['place']}: {because}", _effects(entry), entry["verdict"]))
    return TextTable(heads=("claim", "control", "effects", "verdict"), rows=tuple(rows), align="llll")


def _found(statement: Entry, verdict: str) -> str:
    """A statement's effect and interval, and its verdict if it is not the claim's."""
    effect, interval, _, _ = value_texts(statement)
    return f"{effect} {interval}" + ("" if statement["verdict"] == verdict else f" ({statement['verdict']})")


def _expected(claim: Claim, entries: Sequence[Entry]) -> str:
    """The comment of a claim's file, in lines of at most 118 characters."""
    order = [study.where for study in claim.studies]
    parts = []
    for entry in sorted(entries, key=lambda entry: order.index(entry["place"])):
        found = ", ".join(_found(one, entry["verdict"]) for one in entry["statements"] if one["decides"])
        parts.append(f"{entry['place']}: {entry['verdict']}, {found}")
    if not parts:
        return "# Expected: not recorded, because it runs on demand\n"
    text = f"# Expected: {'; '.join(parts)}. Effects [95 % interval] of {claim.studies[0].seeds} seeds."
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="# ", break_on_hyphens=False)) + "\n"


def main(path: Path) -> None:
    recorded = DOCS / "claims.json"
    old, new = (json.loads(one.read_text(encoding="utf-8")) for one in (recorded, path))
    entries = summary(merged(old, new))
    recorded.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    for page, text in pages(entries).items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
