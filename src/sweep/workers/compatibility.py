"""Who may work on a sweep: whoever runs the code of the command that started it, on libraries of the same versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import ConfigError

SOURCES = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn", "optuna")
"""Those that figures, or the queue's tables, depend on."""


def code_here() -> dict[str, Any]:
    """A digest of these sources, and the versions that they run on; a build's own suffix (``+cu130``) is left out."""
    content = hashlib.blake2b(digest_size=8)
    for path in sorted(SOURCES.rglob("*.py")):
        content.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {"code": content.hexdigest(), "versions": {"python": python, **versions}}


def refuse_other_code(sweep: str, about: Mapping[str, Any]) -> None:
    """Raises ConfigError, with what differs, where this is not the code that the sweep was started with.

    `about`: the content of the sweep's queue.json.
    """
    here = code_here()
    theirs = about.get("versions", {})
    differing = [
        f"{name} {theirs.get(name, '?')} (here {mine})"
        for name, mine in here["versions"].items()
        if theirs.get(name) != mine
    ]
    if differing:
        problem = f"was started with {', '.join(differing)}: figures could differ; make setup in the same checkout"
        raise ConfigError("sweep", sweep, problem)
    if about.get("code") != here["code"]:
        problem = (
            "was started with other sources than these; bring both to one commit and give the sweep's command again"
        )
        raise ConfigError("sweep", sweep, problem)
