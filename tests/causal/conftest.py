"""A database of each kind with the tables of the causal substrate, for a synchronous program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.stores import sync_engine

from dgent.causal.hash_chain import AGENT_STORE, OWN, Format
from dgent.causal.log_tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """Where an empty database is, of each kind in turn: a path, or a URL."""
    return str(sqlite_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def engine(place: str) -> Iterator[Engine]:
    engine = sync_engine(place)
    with engine.begin() as connection:
        TABLES.prepare(connection)
    yield engine
    engine.dispose()


@pytest.fixture(params=[OWN, AGENT_STORE], ids=["own", "crate"])
def format(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    return found
