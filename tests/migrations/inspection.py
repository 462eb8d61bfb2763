"""How the tests of migrations look at a database, without the code that they test."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, NullPool, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from dgent.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def look(url: str, work: Callable[[Connection], T]) -> T:
    """Run work in a transaction of its own, on a plain engine in another thread."""
    if url.startswith("sqlite"):
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            return work(connection)

    async def run() -> T:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def execute(url: str, *statements: str) -> None:
    look(url, lambda connection: [connection.execute(text(statement)) for statement in statements])


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table but Alembic's."""

    def work(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
        names = set(inspect(connection).get_table_names()) - {"schema_version"}
        found = {name: connection.execute(text(f'SELECT * FROM "{name}"')).all() for name in sorted(names)}
        return {name: sorted(tuple(row) for row in table) for name, table in found.items() if table}

    return look(url, work)


def schema(url: str) -> dict[str, dict[str, Any]]:
    """Return what the database itself says of its tables, Alembic's left out."""
    return look(url, lambda connection: _schema(connection, None))


def without_a_value(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """Return the columns that tables gained which old rows, and programs of the version before, give no value."""
    return [
        f"{table}.{name}"
        for table in sorted(before.keys() & after.keys())
        for name, (_, nullable, default) in after[table]["columns"].items()
        if name not in before[table]["columns"] and not nullable and default is None
    ]


def schema_of_models(url: str) -> dict[str, dict[str, Any]]:
    """Return what a database of the same kind says of the tables of the models, made from them directly."""
    if url.startswith("sqlite"):
        engine = create_engine("sqlite://")
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            found = _schema(connection, None)
        engine.dispose()
        return found

    def work(connection: Connection) -> dict[str, dict[str, Any]]:
        connection.execute(text("CREATE SCHEMA models"))
        connection = connection.execution_options(schema_translate_map={None: "models"})
        Base.metadata.create_all(connection)
        found = _schema(connection, "models")
        connection.execute(text("DROP SCHEMA models CASCADE"))
        return found

    return look(url, work)


def _schema(connection: Connection, name: str | None) -> dict[str, dict[str, Any]]:
    look = inspect(connection)
    tables = [table for table in look.get_table_names(schema=name) if table != "schema_version"]
    return {
        table: {
            "columns": {
                column["name"]: (column["type"].compile(connection.dialect), column["nullable"], column["default"])
                for column in look.get_columns(table, schema=name)
            },
            "primary key": look.get_pk_constraint(table, schema=name),
            "foreign keys": sorted(
                (key["name"], key["constrained_columns"], key["referred_table"], key["options"])
                for key in look.get_foreign_keys(table, schema=name)
            ),
            "indexes": sorted(
                (index["name"], index["column_names"], index["unique"])
                for index in look.get_indexes(table, schema=name)
            ),
            "unique": sorted(
                (key["name"], key["column_names"]) for key in look.get_unique_constraints(table, schema=name)
            ),
            "checks": sorted(
                (key["name"], re.sub(r"\s+", " ", key["sqltext"]))
                for key in look.get_check_constraints(table, schema=name)
            ),
        }
        for table in tables
    }
