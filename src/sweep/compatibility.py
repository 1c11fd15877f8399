"""Which workers may join a sweep: those at the commit of the command that started it, on libraries of the same
versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn", "optuna")
"""Packages that results, or the study's format, depend on."""


def code_here() -> dict[str, Any]:
    """The commit of this checkout and the versions of the libraries, without a build's suffix (``+cu130``)."""
    python = ".".join(platform.python_version_tuple()[:2])
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {"commit": _commit(), "versions": {"python": python, **versions}}


def check_compatibility(sweep: str, queue: Mapping[str, Any]) -> None:
    """Raises ConfigError where the commit or the libraries differ from those in `queue`, the content of queue.json."""
    here = code_here()
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
        raise ConfigError("sweep", sweep, problem)


def _commit() -> str | None:
    """None where the project is not a git checkout of its own."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        root, commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit if Path(root) == PROJECT else None
