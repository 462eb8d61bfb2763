"""A table of entries, the statements on it, and what the tests of PostgreSQL ask again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, delete, insert, select, update

from dgent.exceptions import Conflict
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.statement import Statement
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dgent.sql.postgres.database import PostgresDatabase

HANG = patience(20.0)
"""Seconds after which something counts as hung; nothing here is near it."""

table = Table("entry", MetaData(), Column("id", Text, primary_key=True), Column("value", Integer, nullable=False))
add = Statement(insert(table), "id value")
get = Statement(select(table.c.value).where(table.c.id == bindparam("key")), "key")
bump = Statement(update(table).where(table.c.id == bindparam("key")).values(value=table.c.value + 1), "key")
remove = Statement(delete(table), "")
ids = Statement(select(table.c.id).order_by(table.c.id), "")


def opened(url: str, **settings: Any) -> PostgresDatabase:
    return open_database(Settings.load(database_url=url, **settings))  # type: ignore[return-value]


def put_each(connection: Connection, items: list[tuple[str, int]]) -> list[Exception | None]:
    """Insert each; a negative value is refused without touching the database."""
    results: list[Exception | None] = []
    for id, value in items:
        if value < 0:
            results.append(Conflict(f"{id} is negative"))
        else:
            add.run(connection, id, value)
            results.append(None)
    return results


def add_one(id: str, connection: Connection) -> int:
    return add.run(connection, id, 1)


async def held(database: PostgresDatabase) -> list[str]:
    return [row[0] for row in await database.read(ids.rows)]


async def rows_of(url: str) -> list[str]:
    """Look from outside."""
    connection = await asyncpg.connect(url, timeout=HANG)
    try:
        return [row[0] for row in await connection.fetch("SELECT id FROM entry ORDER BY id")]
    finally:
        await connection.close()


async def create(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=HANG)
    await connection.execute("CREATE TABLE entry (id text PRIMARY KEY, value integer NOT NULL)")
    await connection.close()


def nothing_lent(database: PostgresDatabase) -> bool:
    home = database._loop_state
    return home is None or home.readers.lent == home.writers.lent == 0
