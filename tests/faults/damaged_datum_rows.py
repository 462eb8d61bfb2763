"""Rows of agent memory changed past the library, one column at a time, on both databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy.engine import make_url

from dgent.testing.contract_base import patience

NAN, INFINITE = float("nan"), float("inf")
TABLES: Final = ("datums", "terms")
NO_TEXT: Final = b"k\xff"
"""Bytes that are no UTF-8."""


class Change(NamedTuple):
    """A column of one row, and what it holds from now on."""

    column: str
    value: Any
    as_text: bool = False  # SQLite keeps bytes as text where it is told so

    def __str__(self) -> str:
        return f"{self.column}={self.value!r:.20}{' as text' * self.as_text}"


EVERYWHERE: Final = [
    *(Change("id", other) for other in ("zzz", "", "A" * 600)),
    *(Change("version", other) for other in (9, -5, 0, 2**62)),
    *(Change("seq", other) for other in (999, -1, 0, 2**62)),
    *(Change("created_at", other) for other in (0.5, 1e308, -1e308, INFINITE, -INFINITE, 5e-324, 1e12, -1e12)),
    *(Change("stored_at", other) for other in (0.5, -1e308, -INFINITE)),
    *(Change("expires_at", other) for other in (1e12, 1e308, INFINITE)),
    *(Change("parent", other) for other in ("else", "", None)),
    *(Change("metadata", other) for other in ("{}", "", "no JSON", "[1]", '{"tags":5}', "null")),
    *(Change("content", other) for other in (b"", b"else", b"\xff\0", None)),
    *(Change("digest", other) for other in (b"", bytes(16), b"x" * 17)),
]
ON_SQLITE: Final = [
    *(Change(column, NO_TEXT, as_text=True) for column in ("id", "parent", "metadata")),
    *(Change(column, b"\xff\0") for column in ("id", "parent", "metadata", "created_at", "seq", "version")),
    *(Change(column, "text") for column in ("created_at", "stored_at", "seq", "version", "content", "digest")),
    *(Change(column, 7) for column in ("content", "digest")),
    Change("expires_at", "text"),
    Change("version", 1.5),
    Change("seq", 3.5),
]
ON_POSTGRES: Final = [*(Change(column, NAN) for column in ("created_at", "expires_at"))]


def changes(url: str) -> list[Change]:
    """Return what may happen to a row of this database."""
    return EVERYWHERE + (ON_POSTGRES if url.startswith("postgresql") else ON_SQLITE)


def execute(url: str, sql: str, *values: Any) -> list[Any]:
    """Run a statement past the library, and commit; `?` marks a value."""
    if url.startswith("postgresql"):
        with psycopg.connect(url.replace("+asyncpg", "")) as server:
            cursor = server.execute(sql.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []
    with closing(sqlite3.connect(make_url(url).database or "", timeout=patience(30))) as file, file:
        return file.execute(sql, values).fetchall()


def keep(url: str) -> None:
    """Keep a copy of every row, for `restore`."""
    for name in TABLES:
        execute(url, f"CREATE TABLE kept_{name} AS SELECT * FROM dgent_{name}")


def restore(url: str) -> None:
    """Put the rows back that were kept."""
    for name in TABLES:
        execute(url, f"DELETE FROM dgent_{name}")
        execute(url, f"INSERT INTO dgent_{name} SELECT * FROM kept_{name}")


def change(url: str, id: str, what: Change) -> None:
    """Change one column of the rows of an id."""
    new = "CAST(? AS TEXT)" if what.as_text else "?"
    execute(url, f"UPDATE dgent_datums SET {what.column} = {new} WHERE id = ?", what.value, id)
