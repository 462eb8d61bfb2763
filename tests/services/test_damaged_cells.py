"""A cell of a row that its type cannot be is `Corrupt`, whoever reads the row; SQLite keeps any value in any column."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from dgent.exceptions import Corrupt
from dgent.models import Crystal
from dgent.services import Brain
from dgent.storage import StorageProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CELLS = {"created_at": "yesterday", "tags": "{not json", "updated_at": 7}


@pytest.fixture
async def storage(sqlite_path: Path) -> AsyncIterator[StorageProvider]:
    async with await StorageProvider.from_config(data_dir=sqlite_path.parent) as storage:
        await storage.run_migrations()
        await Brain(storage).capture("one", id="r1")
        await Brain(storage).capture("two", id="r2")
        yield storage


@pytest.mark.parametrize("column", CELLS)
async def test_a_cell_that_its_type_cannot_be_is_corrupt_to_whoever_reads_it(
    storage: StorageProvider, sqlite_path: Path, column: str
) -> None:
    with sqlite3.connect(sqlite_path) as connection:
        connection.execute(f"UPDATE brain_crystals SET {column} = ? WHERE id = 'r1'", (CELLS[column],))
    connection.close()
    with pytest.raises(Corrupt, match="holds what its column cannot"):
        await Brain(storage).search()
    with pytest.raises(Corrupt, match="holds what its column cannot"):
        await Brain(storage).heal()
    with pytest.raises(Corrupt, match="holds what its column cannot"):
        async with storage.transaction() as tx:
            await tx.session.scalars(select(Crystal))
    with pytest.raises(Corrupt):
        await storage.table(Crystal).get("r1")
    assert await storage.table(Crystal).get("r2") is not None
