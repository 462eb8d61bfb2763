"""Databases of both kinds with every typed table in place."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dgent.models import Base
from dgent.settings import Settings
from dgent.sql import Database, open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def settings_of(url: str) -> Settings:
    return Settings.load(database_url=url, synchronous="NORMAL")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a database and make the typed tables."""
    database = open_database(settings_of(url))
    try:
        await database.write(Base.metadata.create_all)
        yield database
    finally:
        await database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """Return the URL of a database without a row."""
    if request.param == "sqlite":
        return f"sqlite:///{sqlite_path}"
    return str(request.getfixturevalue("migrated_postgres_url"))


@pytest_asyncio.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Return a database with the typed tables."""
    async with opened(url) as database:
        yield database


@pytest_asyncio.fixture
async def sqlite_database(sqlite_path: Path) -> AsyncIterator[Database]:
    """Return a SQLite database with the typed tables, where the kind makes no difference."""
    async with opened(f"sqlite:///{sqlite_path}") as database:
        yield database
