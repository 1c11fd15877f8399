"""Regenerates golden.json from the results of the present code, in two minutes.   python -m tests.golden.regenerate

Only for a change that is meant to change results or hashes: the commit says which, and why.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.golden.laboratory import Laboratory, Run

GOLDEN = Path(__file__).with_name("golden.json")


def main() -> None:
    """The command."""
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        names, default_cells = laboratory.names(), laboratory.default_cells()
        laboratory.train()
        head = {
            "fingerprint": laboratory.fingerprint(),
            "default_grid": default_cells,
            "table": laboratory.table(),
            "names": names,
        }
        cells = laboratory.cells()
    GOLDEN.write_text("\n".join(lines(head, cells)) + "\n", encoding="utf-8")
    print(f"{sum(map(len, cells.values()))} runs of {len(cells)} cells in {GOLDEN}")


def lines(head: Mapping[str, object], cells: Mapping[str, Mapping[str, Run]]) -> Iterator[str]:
    """JSON with a line for each run, so that a difference between two versions names what differs."""
    yield "{"
    for key, value in head.items():
        yield f" {json.dumps(key)}: {json.dumps(value)},"
    yield ' "cells": {'
    for cell, runs in cells.items():
        yield f" {json.dumps(cell)}: {{"
        entries = [f"  {json.dumps(name)}: {json.dumps(dataclasses.asdict(run))}" for name, run in runs.items()]
        yield ",\n".join(entries)
        yield " }," if cell != list(cells)[-1] else " }"
    yield " }\n}"


if __name__ == "__main__":
    main()
