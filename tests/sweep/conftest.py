"""The two kinds of storage a queue can have, and Hydra as a command starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir

from src.io import CONF_DIR


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    """Hydra, by which command lines are read."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


@pytest.fixture(params=["journal", pytest.param("postgres", marks=pytest.mark.server)])
def storage(request: pytest.FixtureRequest) -> str | None:
    """The two kinds of storage a queue can have."""
    return None if request.param == "journal" else str(request.getfixturevalue("postgres"))
