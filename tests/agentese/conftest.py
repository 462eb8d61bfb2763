from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dgent import migrations
from dgent.agentese import AGENT_TABLES, Resolver, Umwelt
from dgent.bridge import TableRegistry
from dgent.datum import Datum
from dgent.exceptions import DgentError
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.models import Citizen, Crystal
from dgent.settings import Settings
from dgent.sql import open_database

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from dgent.store import DgentProtocol


class Watched:
    """A store that counts what is asked of it; what it can do is told without asking."""

    def __init__(self, store: DgentProtocol) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if callable(found):
            self.calls.append(name)
        return found


class House:
    """A resolver over a watched memory with one datum, `d1`, and tables with one crystal, `c1`, and a citizen."""

    def __init__(self, runner: asyncio.Runner, path: Path) -> None:
        self._runner = runner
        loaded = Settings.load(database_url=f"sqlite:///{path}", synchronous="NORMAL")
        self.run(migrations.upgrade(loaded))
        self.database = open_database(loaded)
        self.memory = Watched(MemoryBackend())
        self.tables = TableRegistry(self.database)
        for model in AGENT_TABLES:
            self.tables.register(model, **({"hidden": ("traits",)} if model is Citizen else {}))
        self.resolver = Resolver(self.memory, self.tables)  # type: ignore[arg-type]
        self.run(self.fill())

    async def fill(self) -> None:
        await self.memory.put(Datum.create(b'{"n": 1}', id="d1", created_at=1.0, tags=["t"]))
        async with self.database.transaction() as transaction:
            transaction.session.add(Crystal(id="c1", content_hash="0" * 64, summary="the map", tags=["maps"]))
            transaction.session.add(Citizen(id="z1", name="Caroline", traits={"secret": "yes"}))
        self.memory.calls.clear()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def resolve(self, path: Any, umwelt: Umwelt | None = None, /, **arguments: Any) -> Any:
        return self.run(self.resolver.resolve(path, umwelt, **arguments))

    def outcome(self, path: Any, umwelt: Umwelt | None = None, /, **arguments: Any) -> Any:
        """Return the value, or the typed error; any other error fails the test."""
        try:
            return self.resolve(path, umwelt, **arguments)
        except DgentError as error:
            return error

    def close(self) -> None:
        self.run(self.database.close())


@pytest.fixture
def house(sqlite_path: Path) -> Iterator[House]:
    with asyncio.Runner() as runner:
        built = House(runner, sqlite_path)
        try:
            yield built
        finally:
            built.close()
