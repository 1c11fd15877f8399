"""A sweep's folder, ``multirun/<sweep>``: paths of its cells, queue, logs and live processes.

A worker may join a sweep if it is at the commit of the command that started it, on libraries of the same versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import Config
from src.config.serialize import config_text, read_config
from src.errors import ConfigError
from src.io import PROJECT, read_json, read_json_or, write_atomically
from src.locks import locked

GRID = "grid"
"""Takes the place of a search's id for the cells of a grid."""

RECORDED = "recorded.json"
"""Of runs that another trainer made: their regimes in the order of differences, the baseline, the settings of
tracking."""

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn", "optuna")
"""Packages that results, or the study's format, depend on."""


@dataclass(frozen=True)
class SweepFolder:
    """``multirun/<sweep>``. Its paths are relative, so the folder can move; only queue.json names its queue."""

    multirun: Path
    sweep: str

    @property
    def root(self) -> Path:
        return self.multirun / self.sweep

    @property
    def processes(self) -> Path:
        return self.root / "processes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def cell(self, cell_hash: str) -> Path:
        """The folder of one cell and its runs."""
        return self.root / "cells" / cell_hash

    @property
    def has_cells(self) -> bool:
        """Whether a command has written cells here."""
        return (self.root / "cells").is_dir()

    def stop(self, cell_hash: str) -> Path:
        """The file whose presence stops a cell."""
        return self.cell(cell_hash) / ".stop"

    @property
    def first(self) -> Path:
        """The file that names the cell which runs next."""
        return self.root / "first"

    def has_cell(self, cell_hash: str) -> bool:
        """Whether the cell's configuration is here."""
        return (self.cell(cell_hash) / "cell.yaml").exists()

    def search(self, search_id: str) -> Path:
        """Folder of a search's definition, table and plot."""
        return self.root / "searches" / search_id

    @property
    def searches(self) -> list[str]:
        """The ids of the sweep's searches, oldest command first."""
        found = sorted((self.root / "searches").glob("*/search.json"), key=lambda path: path.stat().st_mtime)
        return [path.parent.name for path in found]

    def write_queue(self, storage: str | None) -> dict[str, Any]:
        """Writes queue.json and returns its content: the folder's random id, the storage, and the versions of this
        code.

        `storage` has no password; None stands for a journal file here. The study holds the id too, so that a worker
        notices a study that serves another folder of that name.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "queue.json.lock"):  # two commands that start at once must agree on the id
            known = read_json_or(self.root / "queue.json")
            folder_id = self.root / "queue.id"  # survives the loss of queue.json
            kept = folder_id.read_text(errors="replace") if folder_id.exists() else ""
            known_id = known.get("id") or (kept if re.fullmatch("[0-9a-f]{16}", kept) else secrets.token_hex(8))
            content = {"id": known_id, "storage": storage, **code_here()}
            if kept != known_id:
                write_atomically(folder_id, known_id)
            if content != known:
                write_atomically(self.root / "queue.json", json.dumps(content, indent=2) + "\n")
        return content

    def read_queue(self) -> dict[str, Any]:
        """The content of queue.json. Raises ConfigError where there is no such sweep, or where the file is damaged."""
        path = self.root / "queue.json"
        try:
            content = read_json(path)
            if not {"id", "storage"} <= content.keys():
                raise ValueError("it lacks the id or the storage")
        except ValueError as error:
            fix = "repeat the sweep's command, which writes it again"
            raise ConfigError("sweep", self.sweep, f"{path} is damaged ({error}); {fix}") from error
        except FileNotFoundError:
            if (self.root / RECORDED).exists():
                problem = "has runs that another trainer made, so there is no queue and no network here; see src.report"
                raise ConfigError("sweep", self.sweep, problem) from None
            if self.has_cells:
                problem = f"{path} is missing; repeat the sweep's command, which writes it again"
                raise ConfigError("sweep", self.sweep, problem) from None
            raise self.absent() from None
        return content

    def absent(self) -> ConfigError:
        """The error where there is no such sweep."""
        found = sorted(
            {path.parent.name for kind in ("queue.json", "cells") for path in self.multirun.glob(f"*/{kind}")}
        )
        known = f"sweeps here: {', '.join(found)}" if found else "it holds no sweep; start one with src.sweep"
        return ConfigError("sweep", self.sweep, f"there is no such sweep under multirun={self.multirun}; {known}")

    def write_cell(self, cell_hash: str, config: Config) -> None:
        """Writes the configuration that the cell's next worker runs."""
        content, path = config_text(config).encode(), self.cell(cell_hash) / "cell.yaml"
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content, durable=False)

    def read_cell(self, cell_hash: str) -> Config:
        """The configuration that the cell's next worker runs; `multirun` is where the folder is now."""
        return read_config(self.cell(cell_hash) / "cell.yaml", self.multirun)


def code_here() -> dict[str, Any]:
    """The commit of this checkout and the versions of the libraries, without a build's suffix (``+cu130``)."""
    python = ".".join(platform.python_version_tuple()[:2])
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {"commit": _commit(), "versions": {"python": python, **versions}}


def check_compatibility(folder: SweepFolder) -> None:
    """Raises ConfigError where the commit or the libraries here differ from those in the sweep's queue.json."""
    here, queue = code_here(), folder.read_queue()
    theirs = queue.get("versions", {})
    differing = [
        f"{name} {theirs.get(name, '?')} (here {version})"
        for name, version in here["versions"].items()
        if theirs.get(name) != version
    ]
    commit = queue.get("commit")
    if commit and here["commit"] and commit != here["commit"]:
        differing.insert(0, f"commit {commit[:12]} (here {here['commit'][:12]})")
    if differing:
        problem = f"was started with {', '.join(differing)}; check out the same commit and run make setup"
        raise ConfigError("sweep", folder.sweep, problem)


def _commit() -> str | None:
    """None where the project is not a git checkout of its own."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        root, commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit if Path(root) == PROJECT else None
