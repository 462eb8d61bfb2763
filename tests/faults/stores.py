"""The stores that are put to the test."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.sql.sqlite.engine import create_sync_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Engine

    from dgent.store import Backend


def make(kind: str, path: Path, **named: Any) -> Backend:
    """Return a store of a kind at a path."""
    if kind == "sqlite":
        return SQLiteBackend(path, **named)
    return JSONLBackend(path, **named) if kind == "jsonl" else MemoryBackend(**named)


@asynccontextmanager
async def opened(kind: str, path: Path, **named: Any) -> AsyncIterator[Backend]:
    """Open a store for the length of a block."""
    store = make(kind, path, **named)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def sqlite(path: Path, **settings: Any) -> AsyncIterator[SQLiteBackend]:
    """Open a SQLite store with these settings for the length of a block."""
    store = SQLiteBackend(path, settings=Settings.load(**settings))
    try:
        yield store
    finally:
        await store.close()


def sync_engine(place: str, **settings: Any) -> Engine:
    """Return the engine of a synchronous program; `place` is a path, or the URL of a PostgreSQL database."""
    if place.startswith("postgresql"):
        return create_engine(make_url(place).set(drivername="postgresql+psycopg"), hide_parameters=True)
    return create_sync_engine(Path(place), Settings.load(**settings))
