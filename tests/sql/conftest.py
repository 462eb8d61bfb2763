"""A PostgreSQL database with a table of entries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.sql.entry_table import HANG, create, nothing_lent, opened

from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.sql.postgres.database import PostgresDatabase


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    """Return a database that must have all its connections back when the test ends."""
    await create(postgres_url)
    async with asyncio.timeout(HANG):
        database = opened(postgres_url, connect_timeout=patience(2))
        yield database
        assert nothing_lent(database), "a connection is still checked out"
        await database.close()
