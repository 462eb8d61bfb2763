"""A callback that raises hides no commit and skips no other callback: it is logged, and the caller is answered."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from dgent.bridge import TableAdapter, unit_of_work
from dgent.causal import AsyncLog, CommitEvent, Doorbell
from dgent.datum import Datum
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dgent.memory.change import Change
    from dgent.sql import Database

RAISED: list[type[BaseException]] = [RuntimeError, asyncio.CancelledError, SystemExit]
ENDS = SystemExit  # as KeyboardInterrupt, which no test may raise on its own loop


class Failing:
    """A listener that notes what it hears, and raises each time."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.heard: list[str] = []

    def __call__(self, change: Change) -> None:
        self.heard.append(f"{change.kind} {change.id}")
        raise self.error

    def ring(self, event: CommitEvent) -> None:
        self.heard.append(f"entry {event.seq}")
        raise self.error


def row(id: str) -> Datum:
    return Datum.create(id=id, data={"content_hash": "h", "summary": "s", "tags": [], "datum_id": id})


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_group_commit_answers_every_caller(
    database: Database, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    listener = Failing(error)
    memory = SqlBackend(database, "callbacks", on_change=listener)
    stored = await asyncio.gather(*(memory.put(Datum.create(b"x", id=f"k{n}")) for n in range(8)))
    assert [datum.version for datum in stored] == [1] * 8
    many = await memory.put_many([Datum.create(b"y", id=f"k{n}") for n in range(3)])
    assert [datum.version for datum in many] == [2] * 3
    assert await memory.delete("k0")
    assert await memory.purge("k1") == 2
    assert sorted(listener.heard[:8]) == [f"put k{n}" for n in range(8)]
    assert listener.heard[8:] == ["put k0", "put k1", "put k2", "delete k0", "purge k1"]
    assert caplog.text.count("a callback failed after a commit, which stands") == len(listener.heard)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_transaction_answers_and_tells_everybody(database: Database, error: type[BaseException]) -> None:
    listener, bell = Failing(error), Doorbell()
    memory = SqlBackend(database, "callbacks", on_change=listener)
    table = TableAdapter(Crystal, database, on_change=listener)
    log = AsyncLog(database, bell)
    bell.subscribe(listener.ring)
    last: list[str] = []
    bell.subscribe(lambda event: last.append(f"entry {event.seq}"))
    async with unit_of_work(database, memory, None, log) as tx:
        await tx.memory.put_many([Datum.create(b"x", id=id) for id in "ab"])
        await table.joined(tx._transaction).put_many([row("c"), row("d")])
        await tx.log.append_many("stream", "writer", [b"1", b"2"])
        async with unit_of_work(database, memory, None, log) as inner:
            await inner.memory.put(Datum.create(b"x", id="nested"))
        tx._transaction.after_commit(lambda: last.append("told"))
    assert listener.heard == ["put a", "put b", "put c", "put d", "entry 1", "entry 2", "put nested"]
    assert last == ["entry 1", "entry 2", "told"]
    assert {datum.id for datum in await memory.list()} == {"a", "b", "nested"}
    assert await table.count() == 2


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_table_over_a_hosts_sessions_answers(url: str, database: Database, error: type[BaseException]) -> None:
    listener = Failing(error)
    driver = "sqlite+aiosqlite" if url.startswith("sqlite") else "postgresql+asyncpg"
    engine = create_async_engine(make_url(url).set(drivername=driver))
    table = TableAdapter(Crystal, async_sessionmaker(engine), on_change=listener)
    stored = await table.put_many([row("a"), row("b")])
    assert [datum.id for datum in stored] == ["a", "b"]
    assert listener.heard == ["put a", "put b"]
    await engine.dispose()


@pytest.mark.parametrize("error", RAISED)
async def test_a_file_answers_whose_thread_calls_back(tmp_path: Path, error: type[BaseException]) -> None:
    """Not even what would end a program hides a commit there: the thread is none of the program's own."""
    listener = Failing(error)
    memory = JSONLBackend(tmp_path / "memory.jsonl", on_change=listener)
    assert [datum.version for datum in await memory.put_many([Datum.create(b"x", id=id) for id in "ab"])] == [1, 1]
    assert await memory.purge("a") == 1
    assert listener.heard == ["put a", "put b", "purge a"]
    await memory.close()


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_memory_answers(error: type[BaseException]) -> None:
    listener = Failing(error)
    memory = MemoryBackend(on_change=listener)
    assert [datum.version for datum in await memory.put_many([Datum.create(b"x", id=id) for id in "ab"])] == [1, 1]
    assert listener.heard == ["put a", "put b"]


async def test_what_ends_the_program_does_so_after_everybody_was_told() -> None:
    listener = Failing(ENDS)
    memory = MemoryBackend(on_change=listener)
    with pytest.raises(ENDS):
        await memory.put_many([Datum.create(b"x", id=id) for id in "ab"])
    assert listener.heard == ["put a", "put b"]
    assert await memory.count() == 2


def test_what_ends_the_program_ends_no_transaction_halfway(url: str) -> None:
    """SystemExit leaves the loop, as it does from any task; the commit stands, and everybody was told."""
    from .conftest import opened

    listener = Failing(ENDS)

    async def write() -> None:
        async with opened(url) as database:
            memory = SqlBackend(database, "callbacks", on_change=listener)
            async with unit_of_work(database, memory) as tx:
                await tx.memory.put_many([Datum.create(b"x", id=id) for id in "ab"])

    async def read() -> int:
        async with opened(url) as database:
            return await SqlBackend(database, "callbacks").count()

    with pytest.raises(ENDS):
        asyncio.run(write())
    assert listener.heard == ["put a", "put b"]
    assert asyncio.run(read()) == 2


def test_callbacks_of_another_thread_are_all_called() -> None:
    from dgent.runtime.callbacks import call_all

    heard: list[str] = []
    errors: list[BaseException] = []

    def each(name: str, error: type[BaseException]) -> Callable[[], Any]:
        def call() -> None:
            heard.append(name)
            raise error

        return call

    def run() -> None:
        try:
            call_all([each("a", KeyboardInterrupt), each("b", ValueError), each("c", SystemExit)])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert (heard, errors) == (["a", "b", "c"], [])
    with pytest.raises(KeyboardInterrupt):
        call_all([each("d", KeyboardInterrupt), each("e", SystemExit)])
    assert heard == ["a", "b", "c", "d", "e"]
