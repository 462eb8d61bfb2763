"""A `kg` for every test."""

from __future__ import annotations

import pytest
from tests.cli.run_kg import Runner


@pytest.fixture
def kg() -> Runner:
    """Return what runs `kg`, in the empty home of the test."""
    return Runner()
