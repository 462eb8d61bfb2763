"""ORM sessions on SQLite: which thread a statement runs on, whose turn it is; no way there changes the laws."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import InvalidRequestError, OperationalError
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.exceptions import StorageError, StorageTimeout
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dgent.sql import Transaction

HANG = patience(20.0)
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT max(i) FROM n"


def put(id: str) -> Datum:
    return Datum(id, b"x", 1.0)


async def ids(store: SQLiteBackend) -> set[str]:
    return {datum.id for datum in await store.list(limit=1000)}


async def in_transaction(store: SQLiteBackend, id: str) -> None:
    async with store.database.transaction() as tx:
        await store.joined(tx).put(put(id))


async def warm(store: SQLiteBackend) -> None:
    """Open what the first transaction opens: from the second on one can begin on the caller's thread."""
    async with store.database.transaction() as tx:
        await tx.session.execute(text("CREATE TABLE IF NOT EXISTS pair (n INTEGER PRIMARY KEY, side TEXT)"))


async def listening(tx: Transaction) -> list[str]:
    """Make a function `here(value)` for SQL; return the names of the threads that run it."""
    ran: list[str] = []

    def here(value: Any) -> Any:
        ran.append(threading.current_thread().name)
        return value

    connection = await tx.session.connection()
    (await connection.get_raw_connection()).driver_connection.create_function("here", 1, here)  # type: ignore[union-attr]
    return ran


@pytest.fixture
async def store(sqlite_path: Path) -> AsyncIterator[SQLiteBackend]:
    async with sqlite(sqlite_path, busy_timeout=patience(2)) as store:
        await store.prepare()
        await warm(store)
        yield store


class TestThreads:
    async def test_what_is_short_runs_on_the_callers_thread_and_the_rest_on_the_writers(
        self, store: SQLiteBackend
    ) -> None:
        async with store.database.transaction() as tx:
            ran = await listening(tx)
            for statement in ("INSERT INTO pair VALUES (here(1), 'a')", "SELECT here(n) FROM pair"):
                await tx.session.execute(text(statement))
            assert set(ran) == {"MainThread"}
            ran.clear()
            for statement in (
                "UPDATE pair SET n = here(n)",
                "DELETE FROM pair WHERE here(n) = 0",
                "INSERT INTO pair SELECT here(n + 1), side FROM pair",
                f"INSERT INTO pair VALUES (here(7), '{'x' * 70_000}')",
            ):
                await tx.session.execute(text(statement))
            await tx.session.execute(text("INSERT INTO pair VALUES (here(8), :side)"), {"side": "x" * 70_000})
            await tx.session.execute(text("INSERT INTO pair VALUES (here(:n), 'many')"), [{"n": 10}, {"n": 11}])
            assert set(ran) == {"dgent-write-membrane.db"}
            assert len(ran) == 7
        assert await store.database.read(lambda c: c.execute(text("SELECT count(*) FROM pair")).scalar()) == 6

    async def test_a_long_query_is_given_up_there_and_done_again_without_undoing_anything(
        self, store: SQLiteBackend
    ) -> None:
        """Interrupting a statement that writes would undo the whole transaction; a query's leaves it as it was."""
        async with store.database.transaction() as tx:
            await store.joined(tx).put(put("a"))
            await tx.session.execute(text("INSERT INTO pair VALUES (1, 'a')"))
            ran = await listening(tx)
            counted = f"SELECT here(i) FROM ({COUNTING.format(500_000).replace('max(i)', 'max(i) AS i')})"
            assert (await tx.session.execute(text(counted))).scalar_one() == 500_000
            assert ran == ["dgent-write-membrane.db"]
            assert (await tx.session.execute(text("SELECT side FROM pair"))).scalars().all() == ["a"]
        assert await ids(store) == {"a"}

    async def test_a_statement_without_end_is_ended(self, sqlite_path: Path) -> None:
        async with sqlite(sqlite_path, command_timeout=0.1) as store:
            await store.prepare()
            await warm(store)
            for endless in (COUNTING.format(2**60), f"INSERT INTO pair SELECT *, 'a' FROM ({COUNTING.format(2**60)})"):
                with pytest.raises(StorageTimeout, match="command_timeout"):
                    async with store.database.transaction() as tx:
                        await tx.session.execute(text(endless))
            await in_transaction(store, "a")
            assert await ids(store) == {"a"}

    async def test_after_an_error_that_undid_all_nothing_commits_by_itself(self, sqlite_path: Path) -> None:
        """Mutant: the connection used on was in autocommit, and the second INSERT was there for good."""
        async with sqlite(sqlite_path, command_timeout=0.1) as store:
            await store.prepare()
            await warm(store)
            with pytest.raises(StorageError):  # noqa: PT012  # the transaction is what fails
                async with store.database.transaction() as tx:
                    await tx.session.execute(text("INSERT INTO pair VALUES (1, 'a')"))
                    endless = f"INSERT INTO pair SELECT *, 'a' FROM ({COUNTING.format(2**60)})"
                    with pytest.raises(OperationalError):
                        await tx.session.execute(text(endless))
                    await tx.session.execute(text("INSERT INTO pair VALUES (2, 'b')"))
            assert await store.database.read(lambda c: c.execute(text("SELECT n FROM pair")).all()) == []

    async def test_a_stream_is_read_while_it_is_asked_for_and_holds_on_to_nothing(self, store: SQLiteBackend) -> None:
        """Mutant: a stream left unread kept its snapshot, and every later transaction met SQLITE_BUSY."""
        rows = [{"n": n, "side": "a"} for n in range(5000)]
        async with store.database.transaction() as tx:
            await tx.session.execute(text("INSERT INTO pair VALUES (:n, :side)"), rows)
            result = await tx.session.stream(text("SELECT n FROM pair ORDER BY n"))
            assert [row.n async for row in result] == list(range(5000))
            left = await tx.session.stream(text("SELECT n FROM pair"))
            assert await left.fetchone() is not None
        await store.put(put("a"))
        await in_transaction(store, "b")
        assert await ids(store) == {"a", "b"}

    async def test_fetching_in_parts_gives_every_row_once(self, store: SQLiteBackend) -> None:
        async with store.database.transaction() as tx:
            rows = [{"n": n, "side": "a"} for n in range(10)]
            await tx.session.execute(text("INSERT INTO pair VALUES (:n, :side)"), rows)
            result = await tx.session.execute(text("SELECT n FROM pair ORDER BY n"))
            one = result.fetchone()
            assert one is not None
            assert [one.n, *(row.n for row in result.fetchmany(4)), *(row.n for row in result.fetchall())] == [
                *range(10)
            ]
            assert result.fetchone() is None


class TestTurns:
    async def test_a_session_keeps_its_turn_after_its_own_commit(self, store: SQLiteBackend) -> None:
        """Mutant: what it wrote then was another transaction, and the first half stayed when the second failed."""
        async with asyncio.timeout(HANG):
            async with store.database.transaction() as tx:
                await tx.session.execute(text("INSERT INTO pair VALUES (1, 'a')"))
                await tx.session.commit()
                behind = asyncio.create_task(store.put(put("behind")), context=Context())
                await tx.session.execute(text("INSERT INTO pair VALUES (2, 'b')"))
                assert await store.database.read(lambda c: c.execute(text("SELECT n FROM pair")).all()) == []
                assert not behind.done()
            await behind
        assert await store.database.read(lambda c: c.execute(text("SELECT n FROM pair")).all()) == [(1,), (2,)]

    async def test_a_session_is_over_when_its_transaction_is(self, store: SQLiteBackend) -> None:
        """Mutant: it began again outside of any turn, in the middle of somebody else's transaction."""
        async with store.database.transaction() as tx:
            kept = tx.session
            await kept.execute(text("SELECT 1"))
        async with store.database.transaction():
            with pytest.raises(InvalidRequestError, match="closed"):
                await kept.execute(text("INSERT INTO pair VALUES (1, 'a')"))
        assert await store.database.read(lambda c: c.execute(text("SELECT n FROM pair")).all()) == []

    async def test_transactions_one_after_the_other_keep_nobody_waiting(self, store: SQLiteBackend) -> None:
        stop, ended = asyncio.Event(), [0] * 3

        async def again_and_again(which: int) -> None:
            while not stop.is_set():
                await in_transaction(store, "again")
                ended[which] += 1

        busy = [asyncio.create_task(again_and_again(which)) for which in range(3)]
        async with asyncio.timeout(HANG):
            for n in range(20):
                await store.put(put(f"k{n}"))
            while not all(ended):
                await asyncio.sleep(0)
            stop.set()
            await asyncio.gather(*busy)
        assert await ids(store) == {"again", *(f"k{n}" for n in range(20))}

    async def test_another_programs_lock_is_waited_for_on_the_writers_thread(self, sqlite_path: Path) -> None:
        """One that knows nothing of our lock beside the file. Mutant: the event loop stood still until it was free."""
        async with sqlite(sqlite_path, busy_timeout=HANG) as store:
            await store.prepare()
            await warm(store)
            other = sqlite3.connect(sqlite_path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(HANG / 2):
                waiting = asyncio.create_task(in_transaction(store, "a"))
                await asyncio.sleep(0.02)
                assert not waiting.done()
                other.execute("COMMIT")
                await waiting
            other.close()
            assert await ids(store) == {"a"}

    async def test_another_programs_lock_is_not_waited_for_for_ever(self, sqlite_path: Path) -> None:
        async with sqlite(sqlite_path, busy_timeout=0.1) as store:
            await store.prepare()
            await warm(store)
            other = sqlite3.connect(sqlite_path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageTimeout):
                await in_transaction(store, "a")
            other.close()
            await in_transaction(store, "b")
            assert await ids(store) == {"b"}

    def test_one_that_began_by_itself_and_stands_still_gives_the_turn_back(
        self, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever it does later is an error, in its session too. Mutant: it wrote into somebody else's transaction."""
        monkeypatch.setattr("dgent.sql.sqlite.database._GRACE", 0.0)
        store = SQLiteBackend(sqlite_path, settings=Settings.load(transaction_timeout=0.05, busy_timeout=HANG))
        standing, go_on = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        async def stand_still() -> None:
            await store.prepare()
            await warm(store)
            try:
                async with store.database.transaction() as tx:
                    await tx.session.execute(text("INSERT INTO pair VALUES (1, 'lost')"))
                    standing.set()
                    while not go_on.wait(0.01):
                        time.sleep(0)
                    for statement in ("INSERT INTO pair VALUES (2, 'lost')", "UPDATE pair SET n = 3"):
                        with pytest.raises(Exception, match=r"closed|rolled back|invalid"):
                            await tx.session.execute(text(statement))
            except StorageError as error:
                errors.append(error)

        async def meanwhile() -> None:
            async with asyncio.timeout(HANG):
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put("meanwhile"))
                    go_on.set()
                    await asyncio.to_thread(thread.join, HANG)

        thread = threading.Thread(target=asyncio.run, args=(stand_still(),))
        thread.start()
        assert standing.wait(HANG)
        store.database.settings = Settings.load(busy_timeout=HANG)  # the one that is under way keeps its own time
        asyncio.run(meanwhile())
        assert len(errors) == 1

        async def check() -> None:
            assert await ids(store) == {"meanwhile"}
            assert await store.database.read(lambda c: c.execute(text("SELECT n FROM pair")).all()) == []
            await store.close()

        asyncio.run(check())

    def test_two_event_loops_take_turns(self, sqlite_path: Path) -> None:
        store = SQLiteBackend(sqlite_path, settings=Settings.load(busy_timeout=HANG))

        def count(connection: Connection) -> Any:
            return connection.execute(text("SELECT n FROM pair")).scalar_one()

        async def begin() -> None:
            await store.prepare()
            await warm(store)
            await store.database.write(lambda c: c.execute(text("INSERT INTO pair VALUES (0, 'a')")) and None)

        async def raise_it() -> None:
            for n in range(30):
                async with asyncio.timeout(HANG), store.database.transaction() as tx:
                    found = (await tx.session.execute(text("SELECT n FROM pair"))).scalar_one()
                    await asyncio.sleep(0)
                    await tx.session.execute(text("UPDATE pair SET n = :n"), {"n": found + 1})
                if n % 5 == 0:
                    await store.database.write(lambda c: c.execute(text("UPDATE pair SET n = n + 1")) and None)

        async def check() -> None:
            assert await store.database.read(count) == 3 * 36
            await store.close()

        asyncio.run(begin())
        threads = [threading.Thread(target=asyncio.run, args=(raise_it(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * HANG)
        asyncio.run(check())
