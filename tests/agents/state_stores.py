"""Stores that a state is kept in, one for each kind, and what a state looks like in each."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from dgent.agents import StateFunctor
from dgent.bridge import TableAdapter
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.models import Base, JSONList, VersionMixin
from dgent.settings import Settings
from dgent.sql import open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KINDS = ("memory", "jsonl", "sqlite", "postgres", "sqlite table", "postgres table")
SHARED = ("jsonl", "sqlite", "postgres", "sqlite table", "postgres table")
"""Those that several processes may write at once."""


@dataclass
class Tally:
    """How much was added, and what."""

    n: int = 0
    seen: list[int] = field(default_factory=list)


class TallyRow(VersionMixin, Base):
    """The same as a row."""

    __tablename__ = "test_tallies"
    metadata = MetaData()

    id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    seen: Mapped[list[int]] = mapped_column(JSONList, default=list)


class Kept:
    """A store of one kind, and functors whose state lies in it."""

    def __init__(self, kind: str, store: Any) -> None:
        self.kind, self.store = kind, store

    def functor(self, namespace: str = "tally", **named: Any) -> StateFunctor[Any]:
        if isinstance(self.store, TableAdapter):
            return StateFunctor.from_table_adapter(self.store, TallyRow(id=namespace, n=0, seen=[]), **named)
        return StateFunctor(Tally, self.store, Tally(), namespace, **named)

    async def stored(self, functor: StateFunctor[Any]) -> bytes | None:
        datum = await self.store.get(functor.memory.id)
        return None if datum is None else datum.content


@asynccontextmanager
async def kept_in(kind: str, place: str) -> AsyncIterator[Kept]:
    """Open a store; `place` is a folder, or the URL of a PostgreSQL database."""
    settings = Settings.load(synchronous="NORMAL")
    if kind.endswith("table"):
        url = place if kind.startswith("postgres") else f"sqlite:///{Path(place) / 'tables.db'}"
        database = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
        try:
            await database.write(TallyRow.metadata.create_all)
            yield Kept(kind, TableAdapter(TallyRow, database))
        finally:
            await database.close()
        return
    store: Any = {
        "memory": MemoryBackend,
        "jsonl": lambda: JSONLBackend(Path(place) / "memory.jsonl"),
        "sqlite": lambda: SQLiteBackend(Path(place) / "memory.db", settings=settings),
        "postgres": lambda: PostgresBackend(place, settings=settings),
    }[kind]()
    try:
        yield Kept(kind, store)
    finally:
        await store.close()


def add(x: int, state: Any) -> tuple[int, Any]:
    """Return the sum so far, and the state with one more, changed in place."""
    state.n += x
    state.seen = [*state.seen, x]
    return state.n, state


def summary(state: Any) -> tuple[int, list[int]]:
    return state.n, list(state.seen)
