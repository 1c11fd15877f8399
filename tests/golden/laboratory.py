"""Runs the golden cells by the command line, as a user does, and reads what lies on disk afterwards.

Nothing of the project is imported: the command, conf/ and the files of a run are its contracts, modules come and go.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.golden.cells import CELLS, CORNERS, DEFAULT_GRID, write_studies
from tests.golden.files import write_files

PROJECT = Path(__file__).resolve().parents[2]
HASH = re.compile(r"\b[0-9a-f]{16}\b")
ENGINE = "tests.golden.engine"
ONE_AFTER_ANOTHER = """
import json, runpy, sys
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["src/sweep.py", *words]
    try:
        runpy.run_module("src.sweep", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        codes.append(end.code or 0)
print(codes)
"""
"""Runs several ``python -m src.sweep`` in one process, whose workers load the libraries once; prints their exit codes."""


@dataclass(frozen=True)
class Run:
    """What is compared of one run: its hash, digests of the result and of the curves, and two metrics for other machines."""

    run: str
    result: str
    history: str
    accuracy: float | None
    loss: float | None


Cells = dict[str, dict[str, Run]]
"""Runs by cell hash and by folder, ``sequential-0``."""


class Laboratory:
    """A multirun folder of its own, with the files that the golden cells need."""

    def __init__(self, folder: Path) -> None:
        self._multirun, self._files, self._studies = folder / "multirun", folder / "data", folder / "conf"
        write_files(self._files)
        write_studies(self._studies)

    def train(self) -> None:
        """Trains the golden cells and the corners of the default grid, whose table is written as well."""
        corners = self._words("corners", *CORNERS, "trainer=cpu", "tracking=off")
        golden = self._words("golden", *self.studies)
        output = self._run("-c", ONE_AFTER_ANOTHER, json.dumps([corners, golden]))
        assert output.endswith("[0, 1]\n"), f"one golden cell diverges on purpose, nothing else fails:\n{output}"

    def names(self) -> dict[str, str]:
        """The name of every golden cell by its hash, as a dry run prints it."""
        lines = self.sweep("golden", *self.studies, "dry_run=true").splitlines()
        found = [(HASH.search(line), re.search(r"study=(\w+)", line)) for line in lines]
        return {hashed[0]: name[1] for hashed, name in found if hashed and name}

    def default_cells(self) -> list[str]:
        """The hashes of the default grid's cells, in order."""
        return list(dict.fromkeys(HASH.findall(self.sweep("default", *DEFAULT_GRID, "dry_run=true"))))

    @property
    def studies(self) -> list[str]:
        """The words of the command that trains every golden cell."""
        return ["--config-dir", str(self._studies), f"study={','.join(CELLS)}", f"hydra.sweeper.engine={ENGINE}"]

    def sweep(self, name: str, *words: str) -> str:
        """Runs ``python -m src.sweep -m`` with one worker, and returns what it printed."""
        return self._run("-m", "src.sweep", *self._words(name, *words))

    def _words(self, name: str, *words: str) -> list[str]:
        return ["-m", *words, f"multirun={self._multirun}", f"sweep={name}", "n_workers=1"]

    def _run(self, *arguments: str) -> str:
        """Runs Python in the project's folder, and returns what it printed."""
        dropped = ("PYTHONDONTWRITEBYTECODE", "HYDRA_FULL_ERROR")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        environment["DATA_ROOT"] = str(self._files)
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr}"
        return done.stdout

    def cells(self) -> Cells:
        """What was trained."""
        found: Cells = {}
        for path in self._results():
            found.setdefault(path.parent.parent.name, {})[path.parent.name] = read_run(path)
        return found

    def fingerprint(self) -> str:
        """The kind of machine that the results name."""
        (found,) = {read(path)["provenance"]["fingerprint"] for path in self._results()}
        return str(found)

    def table(self) -> str:
        """A digest of the corners' table: pairing, tests and intervals."""
        with (self._multirun / "corners" / "table.csv").open(encoding="utf-8", newline="") as file:
            return digest(list(csv.reader(file)))

    def _results(self) -> list[Path]:
        return sorted(self._multirun.glob("*/cells/*/*/result.json"))


def read(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict), path
    return content


def read_run(path: Path) -> Run:
    """What is compared of the run whose result.json is `path`."""
    body = read(path)
    metrics = body["result"]["metrics"]
    history = pq.read_table(path.with_name("history.parquet")).to_pydict()
    accuracy, loss = (metrics[f"test/union/{name}"] for name in ("accuracy", "loss"))
    return Run(body["run"], digest(body["result"]), digest(history), accuracy, loss)


def digest(content: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a plain value as canonical JSON, floats to their last bit."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
