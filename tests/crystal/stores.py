"""The stores that crystals lie in, one of each kind."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.store import Backend

KINDS = ("memory", "jsonl", "sqlite", "postgres")
SHARED = ("sqlite", "postgres")
"""Those that several processes may write at once, at a speed that a test can wait for."""


def make(kind: str, place: str, namespace: str = "default") -> Backend:
    """Return a store; `place` is a folder, or the URL of a PostgreSQL database."""
    settings = Settings.load(synchronous="NORMAL")
    if kind == "memory":
        return MemoryBackend(namespace)
    if kind == "jsonl":
        return JSONLBackend(Path(place) / "memory.jsonl", namespace)
    if kind == "sqlite":
        return SQLiteBackend(Path(place) / "memory.db", namespace, settings=settings)
    return PostgresBackend(place, namespace, settings=settings)


@asynccontextmanager
async def opened(kind: str, place: str, namespace: str = "default") -> AsyncIterator[Backend]:
    """Open a store for the length of a block."""
    store = make(kind, place, namespace)
    try:
        yield store
    finally:
        await store.close()


async def snapshot(store: Backend) -> object:
    """Return all that a namespace holds, history included, and the last seq."""
    ids = [datum.id for datum in await store.list(limit=10_000)]
    stats = await store.stats()
    return stats.seq, stats.versions, {id: await store.history(id) for id in ids}
