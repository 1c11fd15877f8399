"""The two kinds of storage a queue can have."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def storage(request: pytest.FixtureRequest) -> str | None:
    """The two kinds of storage a queue can have."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres"))
