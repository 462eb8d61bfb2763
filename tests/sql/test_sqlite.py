"""How the SQLite database takes turns, opens, closes and reads; transactions leave all or nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import threading
import time
import warnings
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.exceptions import (
    Corrupt,
    IntegrityViolation,
    ReadOnly,
    StorageError,
    StorageTimeout,
    StoreClosed,
    TransactionOpen,
    VersionConflict,
)
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.sqlite.engine import CHECKPOINT_PAGES
from dgent.testing.contract_base import patience
from dgent.warnings import PrivacyWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HANG = patience(20.0)
"""Seconds after which something counts as hung; nothing here is near it."""


def put(id: str, content: bytes = b"x") -> Datum:
    return Datum(id, content, 1.0)


def sql(statement: str, **values: Any) -> Callable[[Connection], Any]:
    """Return a unit of work that runs a statement and returns its rows, if it has any."""

    def work(connection: Connection) -> Any:
        result = connection.execute(text(statement), values)
        return result.all() if result.returns_rows else None

    return work


@pytest.fixture
async def store(sqlite_path: Path) -> AsyncIterator[SQLiteBackend]:
    async with sqlite(sqlite_path, busy_timeout=patience(2)) as store:
        await store.prepare()
        await store.database.write(sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        await store.database.write(sql("CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent)"))
        yield store


async def ids(store: SQLiteBackend) -> set[str]:
    return {datum.id for datum in await store.list(limit=1000)}


class TestTransaction:
    async def test_l_p2_a_failed_transaction_leaves_no_trace(self, store: SQLiteBackend) -> None:
        async def fail(error: BaseException) -> None:
            async with store.database.transaction() as tx:
                await tx.session.execute(text("INSERT INTO parent VALUES (1)"))
                await store.joined(tx).put(put("a"))
                raise error

        for error in (KeyError("mine"), FileNotFoundError(2, "mine"), TimeoutError("mine"), SystemExit("mine")):
            with pytest.raises(type(error), match="mine") as caught:
                await fail(error)
            assert caught.value is error, "an error that is not the database's passes as it is"
        assert await ids(store) == set()
        assert await store.database.read(sql("SELECT * FROM parent")) == []
        assert (await store.put(put("b"))).seq == 1

    async def test_l_p2_a_foreign_key_violation_is_ours(self, store: SQLiteBackend) -> None:
        with pytest.raises(IntegrityViolation):
            await put_and_run(store, "INSERT INTO child VALUES (1, 99)")
        with pytest.raises(IntegrityViolation):
            await store.database.write(sql("INSERT INTO child VALUES (1, 99)"))
        assert await ids(store) == set()

    async def test_l_p2_a_commit_that_fails_gives_the_turn_back(self, store: SQLiteBackend) -> None:
        deferred = "CREATE TABLE late (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        await store.database.write(sql(deferred))
        with pytest.raises(IntegrityViolation):
            await put_and_run(store, "INSERT INTO late VALUES (99)")  # refused at COMMIT
        await store.put(put("b"))
        assert await ids(store) == {"b"}

    async def test_l_p2_an_error_that_the_body_catches_undoes_its_unit_alone(self, store: SQLiteBackend) -> None:
        async with store.database.transaction() as tx:
            await store.joined(tx).put(put("a"))
            with pytest.raises(VersionConflict):
                await store.joined(tx).put(put("a", b"y"), expect=7)
            with pytest.raises(IntegrityViolation):
                await tx.write(sql("INSERT INTO child VALUES (1, 99)"))
            with pytest.raises(IntegrityError):  # the session's own error, inside of the transaction
                await tx.session.execute(text("INSERT INTO child VALUES (1, 99)"))
            assert await store.joined(tx).exists("a")
            await store.joined(tx).put(put("b"))
        assert await ids(store) == {"a", "b"}

    async def test_nested_is_a_savepoint(self, store: SQLiteBackend) -> None:
        heard: list[str] = []
        store.on_change = lambda change: heard.append(change.id)
        async with store.database.transaction() as tx:
            joined = store.joined(tx)
            await joined.put(put("a"))
            with suppress(KeyError):
                async with store.database.transaction() as nested:
                    assert nested.outer is tx
                    await joined.put(put("undone"))
                    raise KeyError
            async with store.database.transaction():
                await joined.put(put("b"))
                async with store.database.transaction():
                    await joined.put(put("c"))
            assert heard == []
        assert heard == ["a", "b", "c"], "what a savepoint undid is not told of"
        assert await ids(store) == {"a", "b", "c"}

    async def test_nested_commit_that_fails_is_ours(self, store: SQLiteBackend) -> None:
        async with store.database.transaction() as tx:
            with pytest.raises(IntegrityViolation):
                async with store.database.transaction():
                    await tx.session.execute(text("INSERT INTO child VALUES (1, 99)"))
            await store.joined(tx).put(put("a"))
        assert await ids(store) == {"a"}

    async def test_a_write_beside_it_is_refused_at_once_and_fine_after(self, store: SQLiteBackend) -> None:
        """A unit of work of the database itself, and a child task; a task of somebody else waits for its turn."""
        database = store.database
        async with asyncio.timeout(HANG), database.transaction() as tx:
            with pytest.raises(TransactionOpen):
                await database.write(sql("SELECT 1"))
            for verb in (store.put(put("a")), store.delete("a"), store.purge("a"), store.get("a"), store.count()):
                with pytest.raises(TransactionOpen, match=r"tx\.memory"):
                    await asyncio.create_task(verb)
            with pytest.raises(TransactionOpen):
                await asyncio.create_task(nothing_in(database))
            with pytest.raises(TransactionOpen):
                await store.close()
            assert await database.read(sql("SELECT 1")) is not None, "reading beside it is allowed"
            stranger = asyncio.create_task(store.put(put("stranger")), context=Context())
            late = asyncio.create_task(after(tx, store))
            await store.joined(tx).put(put("b"))
        await stranger
        await late
        await store.put(put("c"))
        with pytest.raises(StoreClosed, match="ended"):
            await store.joined(tx).put(put("d"))
        assert await ids(store) == {"b", "c", "stranger", "late"}

    async def test_reading_beside_it_does_not_deadlock_a_store_just_opened(self, sqlite_path: Path) -> None:
        async with asyncio.timeout(HANG), sqlite(sqlite_path) as fresh, fresh.database.transaction() as tx:
            assert await fresh.database.read(sql("SELECT 1")) == [(1,)]
            assert await tx.read(sql("SELECT 2")) == [(2,)]

    async def test_one_that_is_open_too_long_gives_the_turn_back(self, sqlite_path: Path) -> None:
        async with sqlite(sqlite_path, transaction_timeout=0.05) as store:
            await store.prepare()
            with pytest.raises(StorageTimeout, match="transaction_timeout"):
                await put_and_run(store, "SELECT 1", wait=HANG)
            assert await store.put(put("b"))
            assert await ids(store) == {"b"}

    async def test_a_timeout_while_it_commits_does_not_say_that_it_was_undone(
        self, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Mutant: COMMIT inside of the bound said "was rolled back", and the datum was there."""
        heard = []
        async with sqlite(sqlite_path, transaction_timeout=0.05) as store:
            await store.prepare()
            store.on_change = lambda change: heard.append(change.id)
            async with store.database.transaction() as tx:
                await store.joined(tx).put(put("a"))
                commit = tx.session.commit

                async def slow() -> None:
                    await asyncio.sleep(0.2)
                    await commit()

                monkeypatch.setattr(tx.session, "commit", slow)
            assert await ids(store) == {"a"}
        assert heard == ["a"]

    async def test_a_cancellation_while_it_commits_still_tells_of_the_changes(
        self, store: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[str] = []
        store.on_change = lambda change: heard.append(change.id)

        async def body() -> None:
            async with store.database.transaction() as tx:
                await store.joined(tx).put(put("a"))
                commit = tx.session.commit

                async def cancelled() -> None:
                    task.cancel()
                    await asyncio.sleep(0)
                    await commit()

                monkeypatch.setattr(tx.session, "commit", cancelled)

        task = asyncio.create_task(body())
        await asyncio.wait([task])
        assert task.cancelled()
        assert await ids(store) == {"a"}
        assert heard == ["a"]

    @pytest.mark.filterwarnings("ignore")  # the program ended badly: Python and SQLAlchemy say so
    @pytest.mark.parametrize("by_itself", [False, True], ids=["its turn was lent", "it began by itself"])
    def test_one_whose_event_loop_died_gives_the_turn_back(self, sqlite_path: Path, by_itself: bool) -> None:
        """Mutant: without taking the connection from it every later write met a locked database."""
        store = SQLiteBackend(sqlite_path, settings=Settings.load(busy_timeout=HANG))
        held: list[Any] = []

        async def begin() -> None:
            if by_itself:  # as one can from the second on, when the writer has nothing to do
                async with store.database.transaction():
                    pass
            await store.put(put("a"))
            await asyncio.sleep(0.05 * by_itself)
            held.append(store.database.transaction())
            tx = await held[0].__aenter__()
            assert (store.database._write_lock._lease is not None) is by_itself  # type: ignore[attr-defined]
            await store.joined(tx).put(put("lost"))

        async def go_on() -> None:
            async with asyncio.timeout(HANG):
                await store.put(put("b"))
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put("c"))
                assert await ids(store) == {"a", "b", "c"}
                await store.close()

        dead = asyncio.new_event_loop()
        dead.run_until_complete(begin())
        dead.close()
        asyncio.run(go_on())
        held.clear()
        gc.collect()

    def test_one_whose_event_loop_stands_still_gives_the_turn_back(
        self, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is undone when its time is up, though it cannot be told; what it does later is an error."""
        monkeypatch.setattr("dgent.sql.sqlite.database._GRACE", 0.0)
        store = SQLiteBackend(sqlite_path, settings=Settings.load(transaction_timeout=0.05, busy_timeout=HANG))
        standing, go_on = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        async def stand_still() -> None:
            await store.prepare()
            try:
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put("lost"))
                    standing.set()
                    while not go_on.wait(0.01):
                        time.sleep(0)
                    await store.joined(tx).put(put("lost too"))
            except StorageError as error:
                errors.append(error)
            await store.put(put("after"))

        async def meanwhile() -> None:
            async with asyncio.timeout(HANG):
                await store.put(put("meanwhile"))

        thread = threading.Thread(target=asyncio.run, args=(stand_still(),))
        thread.start()
        assert standing.wait(HANG)
        asyncio.run(meanwhile())
        go_on.set()
        thread.join(HANG)
        assert len(errors) == 1

        async def check() -> None:
            assert await ids(store) == {"meanwhile", "after"}
            await nothing_in(store.database)
            await store.close()

        asyncio.run(check())

    async def test_many_writers_of_one_process_never_meet(self, store: SQLiteBackend) -> None:
        await store.database.write(sql("CREATE TABLE counter (n INTEGER)"))
        await store.database.write(sql("INSERT INTO counter VALUES (0)"))

        async def in_transaction() -> None:
            async with store.database.transaction() as tx:
                n = await tx.session.scalar(text("SELECT n FROM counter"))
                await asyncio.sleep(0)
                await tx.session.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

        units = [store.database.write(sql("UPDATE counter SET n = n + 1")) for _ in range(40)]
        puts = [store.put(put(f"k{n}")) for n in range(40)]
        await asyncio.gather(*(in_transaction() for _ in range(20)), *units, *puts)
        assert await store.database.read(sql("SELECT n FROM counter")) == [(60,)]
        assert await store.count() == 40


async def put_and_run(store: SQLiteBackend, statement: str, wait: float = 0) -> None:
    """Put `a` and run a statement in one transaction."""
    async with store.database.transaction() as tx:
        await store.joined(tx).put(put("a"))
        await tx.session.execute(text(statement))
        await asyncio.sleep(wait)


async def nothing_in(database: Any) -> None:
    async with database.transaction():
        pass


async def after(tx: Any, store: SQLiteBackend) -> None:
    """Write from a task that began inside of the transaction, after its end."""
    while tx.open:
        await asyncio.sleep(0.001)
    await store.put(put("late"))


class TestGroupCommit:
    async def test_a_unit_that_fails_undoes_itself_alone(self, store: SQLiteBackend) -> None:
        def half(connection: Connection) -> None:
            connection.execute(text("INSERT INTO parent VALUES (1)"))
            raise KeyError("half")

        good = [store.database.write(sql("INSERT INTO parent VALUES (:n)", n=n)) for n in (2, 3)]
        bad = [store.database.write(half), store.database.write(sql("INSERT INTO child VALUES (1, 99)"))]
        answers = await asyncio.gather(good[0], *bad, good[1], return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), KeyError, IntegrityViolation, type(None)]
        assert await store.database.read(sql("SELECT id FROM parent")) == [(2,), (3,)]

    async def test_a_commit_that_fails_is_told_to_each_in_an_error_of_its_own(self, store: SQLiteBackend) -> None:
        await store.database.write(
            sql("CREATE TABLE late (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        )
        writes = [store.put(put(f"k{n}")) for n in range(3)]
        refused = store.put(put("k"), expect=5)
        late = store.database.write(sql("INSERT INTO late VALUES (99)"))
        answers: list[Any] = await asyncio.gather(*writes, refused, late, return_exceptions=True)
        assert [type(answer) for answer in answers] == [IntegrityViolation] * 3 + [VersionConflict, IntegrityViolation]
        assert len({id(answer) for answer in answers}) == 5
        assert await ids(store) == set()
        assert (await store.put(put("k0"))).seq == 1

    async def test_what_leaves_a_savepoint_open_harms_nobody(self, store: SQLiteBackend) -> None:
        def careless(connection: Connection) -> None:
            connection.begin_nested()
            connection.execute(text("SAVEPOINT mine"))
            connection.execute(text("INSERT INTO parent VALUES (1)"))

        for _ in range(2):
            others = [store.put(put(f"k{n}")) for n in range(3)]
            await asyncio.gather(*others, store.database.write(careless), store.database.write(sql("SELECT 1")))
            await store.database.write(sql("DELETE FROM parent"))
        assert len(await ids(store)) == 3

    async def test_even_stop_iteration_is_answered(self, store: SQLiteBackend) -> None:
        """Mutant: handed to the future as it is, asyncio refuses it and the caller waits without end."""

        def work(connection: Connection) -> None:
            next(iter(()))

        for run in (store.database.write, store.database.read):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for(run(work), HANG)
        assert await store.put(put("a"))

    async def test_a_unit_that_runs_without_end_is_ended(self, sqlite_path: Path) -> None:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        async with sqlite(sqlite_path, command_timeout=0.1) as store:
            await store.put(put("a"))
            for run in (store.database.write, store.database.read):
                with pytest.raises(StorageTimeout, match="command_timeout"):
                    await run(sql(endless))
            assert await store.put(put("b"))
            assert await ids(store) == {"a", "b"}


class TestReading:
    async def test_a_long_read_leaves_the_callers_thread(self, store: SQLiteBackend) -> None:
        """A read that was called short is given up there and done again on a thread."""
        ran: list[str] = []

        def scan(connection: Connection) -> int:
            ran.append(threading.current_thread().name)
            counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            return int(connection.execute(text(f"{counting} SELECT count(*) FROM n")).scalar() or 0)

        assert await store.database.read(scan, short=True) == 300_000
        assert ran == ["MainThread", "dgent-read-membrane.db"]
        ran.clear()
        assert await store.database.read(scan) == 300_000
        assert ran == ["dgent-scan-membrane.db"]

    async def test_a_short_read_does_not_wait_for_a_scan(self, store: SQLiteBackend) -> None:
        await store.put(put("a"))
        begun, end = threading.Event(), threading.Event()

        def scan(connection: Connection) -> str:
            begun.set()
            assert end.wait(HANG)
            return "scanned"

        scanning = asyncio.create_task(store.database.read(scan))
        assert await asyncio.to_thread(begun.wait, HANG)
        readers = store.database._readers  # type: ignore[attr-defined]
        with readers.inline._free:  # so that it must go to a thread
            assert await store.exists("a")
        assert not scanning.done()
        end.set()
        assert await scanning == "scanned"

    async def test_a_read_sees_one_moment(self, store: SQLiteBackend) -> None:
        """Mutant: without BEGIN the second statement sees what was committed after the first."""
        loop = asyncio.get_running_loop()

        def twice(connection: Connection) -> list[int]:
            count = text("SELECT count(*) FROM dgent_datums")
            first = connection.execute(count).scalar_one()
            asyncio.run_coroutine_threadsafe(store.put(put("between")), loop).result(HANG)
            return [first, connection.execute(count).scalar_one()]

        assert await store.database.read(twice) == [0, 0]
        assert await store.database.read(sql("SELECT count(*) FROM dgent_datums")) == [(1,)]

    async def test_a_read_cannot_write(self, store: SQLiteBackend) -> None:
        for short in (True, False):
            with pytest.raises(ReadOnly):
                await store.database.read(sql("INSERT INTO parent VALUES (1)"), short=short)
        assert await store.database.read(sql("SELECT * FROM parent")) == []


class TestFiles:
    async def test_they_are_private_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            path = tmp_path / "made" / "membrane.db"
            async with sqlite(path) as store:
                await store.put(put("a"))
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put("b"))
                assert await store.count() == 2
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == {f"membrane.db{end}": 0o600 for end in ("", "-wal", "-shm", ".lock")}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    async def test_wide_ones_warn(self, sqlite_path: Path) -> None:
        async with sqlite(sqlite_path) as store:
            await store.put(put("a"))
        for name in ("membrane.db", "membrane.db.lock"):
            file = sqlite_path.with_name(name)
            file.chmod(0o644)
            async with sqlite(sqlite_path) as store:
                with pytest.warns(PrivacyWarning, match=f"chmod 600 {file}"):
                    assert await store.exists("a")
            file.chmod(0o600)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            async with sqlite(sqlite_path) as store:
                assert await store.exists("a")

    async def test_nobody_is_told_to_close_what_is_no_database(self, sqlite_path: Path) -> None:
        sqlite_path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 40)
        sqlite_path.chmod(0o644)
        async with sqlite(sqlite_path) as store:
            with pytest.raises(Corrupt, match="no database"):  # and no warning, which would be an error
                await store.exists("a")
        async with sqlite(sqlite_path.parent) as store:
            with pytest.raises(ReadOnly, match="is a folder: name a file"):
                await store.exists("a")

    @pytest.mark.parametrize("name", ["membrane.db", "membrane.db.lock"])
    async def test_a_planted_link_is_refused(self, sqlite_path: Path, name: str) -> None:
        target = sqlite_path.with_name("target")
        target.write_bytes(b"")
        target.chmod(0o600)
        for to in (target, sqlite_path.with_name("nowhere")):
            sqlite_path.with_name(name).symlink_to(to)
            async with sqlite(sqlite_path) as store:
                for use in (store.put(put("a")), store.get("a")):
                    with pytest.raises(ReadOnly, match="link"):
                        await use
            sqlite_path.with_name(name).unlink()
        assert target.read_bytes() == b""
        assert not sqlite_path.with_name("nowhere").exists()

    async def test_any_name_is_only_a_name(self, tmp_path: Path) -> None:
        for name in ("a b", "x?mode=memory", "#1", "100%25", "ü\U0001f600", "'; --", ":memory:", "file:x"):
            async with sqlite(tmp_path / name / name) as store:
                await store.put(put("a"))
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put("b"))
                assert await ids(store) == {"a", "b"}
            assert (tmp_path / name / name).stat().st_size > 0
            assert {file.name for file in (tmp_path / name).iterdir()} == {name, f"{name}.lock"}

    async def test_the_log_does_not_grow_without_end(self, sqlite_path: Path) -> None:
        """Whoever writes. Mutant: the ORM's connection not checkpointing left 3 times the limit, and growing."""
        limit = 2 * CHECKPOINT_PAGES * 4096
        async with sqlite(sqlite_path, synchronous="NORMAL") as store:
            await store.prepare()
            for n in range(24):
                async with store.database.transaction() as tx:
                    await store.joined(tx).put(put(f"k{n}", os.urandom(2**20)))
            assert sqlite_path.with_name("membrane.db-wal").stat().st_size < limit


class TestLife:
    async def test_close_waits_for_what_was_accepted(self, sqlite_path: Path) -> None:
        store = SQLiteBackend(sqlite_path)
        await store.prepare()
        entered = asyncio.Event()

        async def transaction() -> None:
            async with store.database.transaction() as tx:
                entered.set()
                await store.joined(tx).put(put("a"))
                await asyncio.sleep(0.05)
                await store.joined(tx).put(put("b"))

        writing = [asyncio.create_task(transaction())]
        await entered.wait()
        writing += [asyncio.create_task(store.put(put(f"k{n}"))) for n in range(20)]
        reading = [asyncio.create_task(store.list(limit=1000)) for _ in range(5)]
        await asyncio.sleep(0)
        async with asyncio.timeout(HANG):
            await asyncio.gather(store.close(), store.close())
            await store.close()
            await asyncio.gather(*writing)
            await asyncio.gather(*reading, return_exceptions=True)
        assert all(isinstance(task.exception(), StoreClosed | None) for task in reading)
        async with sqlite(sqlite_path) as again:
            assert await ids(again) == {"a", "b", *(f"k{n}" for n in range(20))}

    async def test_a_closed_store_says_so(self, sqlite_path: Path) -> None:
        store = SQLiteBackend(sqlite_path)
        await store.put(put("a"))
        tx = store.database.transaction()
        await store.close()
        for use in (store.put(put("b")), store.get("a"), store.count(), tx.__aenter__()):
            with pytest.raises(StoreClosed):
                await use
        never = SQLiteBackend(sqlite_path.with_name("never.db"))
        await never.close()
        with pytest.raises(StoreClosed):
            await never.put(put("a"))
        assert not sqlite_path.with_name("never.db").exists()

    async def test_closing_at_any_moment_of_any_use_leaves_nothing(self, tmp_path: Path) -> None:
        """Each use is done whole or answered with StoreClosed; no thread and no file stays open (see `clean_room`)."""
        for turns in range(12):
            store = SQLiteBackend(tmp_path / f"{turns}.db")
            uses = [
                asyncio.create_task(use)  # type: ignore[arg-type]
                for use in (store.get("a"), store.put(put("a")), store.list(limit=1000), nothing_in(store.database))
            ]
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            async with asyncio.timeout(HANG):
                await store.close()
                answers = await asyncio.gather(*uses, return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, Exception)]
            assert all(isinstance(error, StoreClosed) for error in errors), errors

    async def test_what_another_loop_was_about_to_hand_over_is_answered(self, sqlite_path: Path) -> None:
        """Mutant: what is handed to a thread that has ended is never answered."""
        store = SQLiteBackend(sqlite_path)
        await store.prepare()
        await asyncio.gather(store.put(put("x")), store.put(put("y")))  # several at once: the next waits for others
        waiting = asyncio.create_task(store.put(put("a")))
        await asyncio.sleep(0)
        thread = threading.Thread(target=asyncio.run, args=(store.close(),))
        thread.start()
        thread.join(HANG)  # this loop stands still meanwhile
        with pytest.raises(StoreClosed):
            await asyncio.wait_for(waiting, HANG)

    def test_closing_from_another_loop_answers_everybody(self, sqlite_path: Path) -> None:
        for _ in range(20):
            store = SQLiteBackend(sqlite_path)
            asyncio.run(store.put(put("a")))
            begun = threading.Event()
            answers: list[BaseException | Datum] = []

            async def use(store: SQLiteBackend = store, answers: Any = answers, begun: Any = begun) -> None:
                async with asyncio.timeout(HANG):
                    while not any(isinstance(answer, StoreClosed) for answer in answers):
                        some = (store.put(put(f"{n}")) for n in range(5))
                        answers += await asyncio.gather(*some, store.get("a"), return_exceptions=True)
                        begun.set()

            thread = threading.Thread(target=asyncio.run, args=(use(),))
            thread.start()
            assert begun.wait(HANG)
            asyncio.run(store.close())
            thread.join(HANG)
            assert not thread.is_alive()
            assert all(isinstance(answer, Datum | StoreClosed) for answer in answers), set(map(repr, answers))

    def test_a_second_event_loop_works(self, sqlite_path: Path) -> None:
        store = SQLiteBackend(sqlite_path)

        async def use(n: int) -> None:
            await store.put(put(f"k{n}"))
            async with store.database.transaction() as tx:
                await store.joined(tx).put(put(f"t{n}"))
            assert len(await ids(store)) == 2 * n + 2

        for n in range(3):
            asyncio.run(use(n))
        asyncio.run(store.close())

    async def test_a_broken_connection_of_the_orm_is_replaced(self, store: SQLiteBackend) -> None:
        async def break_it() -> None:
            async with store.database.transaction() as tx:
                await store.joined(tx).put(put("lost"))
                connection = await tx.session.connection()
                (await connection.get_raw_connection()).driver_connection.close()  # type: ignore[union-attr]
                await store.joined(tx).put(put("lost too"))

        for at in range(3):
            with pytest.raises(StorageError):
                await break_it()
            async with store.database.transaction() as tx:
                await store.joined(tx).put(put(f"k{at}"))
        assert await ids(store) == {"k0", "k1", "k2"}

    async def test_open_database_opens_nothing_before_the_first_use(self, sqlite_path: Path) -> None:
        threads = threading.active_count()
        database = open_database(Settings.load(database_url=f"sqlite:///{sqlite_path}"))
        assert threading.active_count() == threads
        assert not sqlite_path.exists()
        await database.close()
        assert not sqlite_path.exists()
