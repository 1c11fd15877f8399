"""Counts what a cell trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import src.training.execute as execute_module
from src.config import Config
from src.training.plan import Node


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the trained groups."""
    sizes: list[int] = []
    whole = execute_module.fit

    def counted(config: Config, nodes: Sequence[Node], *rest: Any, **options: Any) -> Any:
        sizes.append(len(nodes))
        return whole(config, nodes, *rest, **options)

    monkeypatch.setattr(execute_module, "fit", counted)
    return sizes
