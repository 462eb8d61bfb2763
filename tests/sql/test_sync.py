"""A synchronous program takes turns with asynchronous ones, and the plain functions over its connection are theirs."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg.errors
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tests.faults.processes import Child
from tests.faults.stores import sqlite as opened
from tests.faults.stores import sync_engine

from dgent.datum import Datum
from dgent.exceptions import (
    CausalCycle,
    InvalidDatum,
    InvalidNamespace,
    LimitExceeded,
    StorageTimeout,
    VersionConflict,
)
from dgent.limits import Limits
from dgent.memory.datum_index import TABLES
from dgent.memory.sql import causal_reads, erasure, key_listing, namespace_head, queries, reads, writes
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.datum_tables import Row, digest_of
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.name_listing import NamespaceListing
from dgent.operations import Delete, Purge, Put, Touch
from dgent.query import Query
from dgent.runtime.file_lock import FileLock
from dgent.settings import Settings
from dgent.sql.sqlite.engine import create_sync_engine, lock_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy import Connection, Engine

ROUNDS = 60


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """Where an empty database is, of each kind in turn: a path, or a URL."""
    return str(sqlite_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def async_store(place: str, **named: Any) -> SqlBackend:
    return (PostgresBackend if place.startswith("postgresql") else SQLiteBackend)(place, **named)


@pytest.fixture
def engine(place: str) -> Iterator[Engine]:
    engine = sync_engine(place)
    with engine.begin() as connection:
        TABLES.prepare(connection)
    yield engine
    engine.dispose()


def is_free(path: Path) -> bool:
    """Tell whether another program, which waits for nothing, gets the lock between processes."""
    with closing(FileLock(lock_path(path), 0, sole=False)) as lock:
        try:
            with lock:
                return True
        except StorageTimeout:
            return False


def increment(connection: Connection) -> bool:
    """Read, add one and write, in a transaction; tell whether nobody came between."""
    found = reads.get(connection, "default", "n", None, time.time())
    value = Datum("n", b"%d" % (int(found.content) + 1 if found else 1), 1.0)
    put = Put(value, found.version if found else 0)
    [result] = writes.apply_each(connection, "default", [[put]], time.time)
    if isinstance(result, Exception):
        assert isinstance(result, VersionConflict)
        return False
    return result[0].changed


# A transaction of a synchronous program, and the lock that it holds


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "error", "failed commit", "nested"])
def test_a_writing_transaction_holds_the_lock_until_its_end(sqlite_path: Path, end: str) -> None:
    engine = create_sync_engine(sqlite_path, Settings.load())
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE a (x INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)"))
    assert is_free(sqlite_path)
    connection = engine.connect()
    assert is_free(sqlite_path), "a connection that has not begun holds up nobody"
    transaction = connection.begin()
    connection.execute(text("INSERT INTO a VALUES (1)"))
    assert not is_free(sqlite_path)
    match end:
        case "commit":
            transaction.commit()
        case "rollback":
            transaction.rollback()
        case "close":
            connection.close()
        case "error":
            with pytest.raises(OperationalError), transaction:
                connection.execute(text("no SQL"))
        case "failed commit":
            connection.execute(text("INSERT INTO b VALUES (7)"))
            with pytest.raises(Exception, match="FOREIGN KEY"):
                transaction.commit()
        case "nested":
            with suppress(ZeroDivisionError), connection.begin_nested():
                raise ZeroDivisionError
            assert not is_free(sqlite_path)
            transaction.commit()
    assert is_free(sqlite_path)
    connection.close()
    with engine.begin() as again:
        assert again.execute(text("SELECT count(*) FROM a")).scalar() == int(end in {"commit", "nested"})
    engine.dispose()


def test_a_reading_connection_takes_no_turn_and_cannot_write(sqlite_path: Path) -> None:
    engine = create_sync_engine(sqlite_path, Settings.load(busy_timeout=0.2))
    reading = engine.execution_options(dgent_read=True)
    with engine.begin() as connection:
        TABLES.prepare(connection)
    with reading.begin() as reader:
        assert reads.count(reader, "default", None, 0.0) == 0
        assert is_free(sqlite_path)
        with engine.begin() as writer:
            writes.apply_each(writer, "default", [[Put(Datum("a", b"", 1.0))]], time.time)
            with reading.begin() as other:
                assert reads.count(other, "default", None, 0.0) == 0
        assert reads.count(reader, "default", None, 0.0) == 0
        with pytest.raises(OperationalError, match="readonly"):
            reader.execute(text("DELETE FROM dgent_datums"))
    with engine.begin() as connection:
        assert reads.count(connection, "default", None, 0.0) == 1


async def test_each_side_waits_for_the_other(sqlite_path: Path) -> None:
    engine = create_sync_engine(sqlite_path, Settings.load(busy_timeout=0.1))
    async with opened(sqlite_path, busy_timeout=0.1) as store:
        await store.put(Datum("a", b"1", 1.0))
        async with store.database.transaction():
            with pytest.raises(StorageTimeout, match=r"has held .*membrane\.db\.lock"), engine.begin():
                pass
        with engine.begin() as connection:
            assert increment(connection)
            with pytest.raises(StorageTimeout, match=r"has held .*membrane\.db\.lock"):
                await store.put(Datum("a", b"2", 1.0))
            assert await store.get("n") is None
        await store.put(Datum("a", b"3", 1.0))
        assert (await store.get_many(["a", "n"])).keys() == {"a", "n"}
    engine.dispose()


def _hold(answers: Any, path: Path) -> None:
    with create_sync_engine(path, Settings.load()).begin() as connection:
        TABLES.prepare(connection)
        assert increment(connection)
        answers.send("holding")
        time.sleep(60)


def test_a_killed_program_gives_its_turn_back(sqlite_path: Path) -> None:
    engine = create_sync_engine(sqlite_path, Settings.load())
    with engine.begin() as connection:
        TABLES.prepare(connection)
    child = Child(_hold, sqlite_path)
    assert child.answer() == "holding"
    assert not is_free(sqlite_path)
    child.kill()
    with engine.begin() as connection:
        assert reads.get(connection, "default", "n", None, 0.0) is None
        assert increment(connection)
    engine.dispose()


# A synchronous and an asynchronous program on one database


def _count_in_sync(answers: Any, place: str) -> None:
    engine = sync_engine(place)
    answers.send("ready")
    done = conflicts = 0
    while done < ROUNDS:
        with engine.begin() as connection:
            last = increment(connection)
        done, conflicts = done + last, conflicts + (not last)
    engine.dispose()
    answers.send(conflicts)


async def test_programs_of_both_kinds_count_in_one_datum_and_lose_nothing(engine: Engine, place: str) -> None:
    """Each reads, adds one and writes; on SQLite a transaction has the file for itself and nobody comes between."""
    child = Child(_count_in_sync, place)
    store = async_store(place)
    try:
        assert await asyncio.to_thread(child.answer) == "ready"
        conflicts = 0
        for _ in range(ROUNDS):
            while True:
                found = await store.get("n")
                value = Datum("n", b"%d" % (int(found.content) + 1 if found else 1), 1.0)
                with suppress(VersionConflict):
                    await store.put(value, expect=found.version if found else 0)
                    break
            async with store.database.transaction() as tx:
                conflicts += not await tx.write(increment)
        theirs = await asyncio.to_thread(child.answer)
        assert engine.dialect.name == "postgresql" or (conflicts, theirs) == (0, 0)
        total = 3 * ROUNDS - conflicts
        found = await store.get("n")
        assert found is not None
        assert (found.content, found.version) == (b"%d" % total, total)
    finally:
        child.close()
        await store.close()


def answers(connection: Connection, ids: list[str]) -> list[Any]:
    """Return what the plain functions say of a namespace."""
    now = time.time()
    filters = [Query(), Query(tags={"a", "b"}), Query(author="ann", order="oldest"), Query(where={"n": 3}, limit=1)]
    first = queries.query(connection, "sync", Query(limit=3), now)
    return [
        *(reads.get(connection, "sync", id, None, now) for id in ids),
        reads.get(connection, "sync", "d0", 1, now),
        reads.get_many(connection, "sync", ids, now),
        *(list(queries.query(connection, "sync", query, now)) for query in filters),
        list(queries.query(connection, "sync", Query(limit=3, cursor=first.cursor), now)),
        reads.count(connection, "sync", "d", now),
        causal_reads.causal_chain(connection, "sync", "d9", now, 100),
        reads.history(connection, "sync", "d0", 100, None),
        list(queries.query(connection, "sync", Query(as_of=now, order="id"), now)),
        key_listing.namespaces(connection, NamespaceListing(), 10),
        reads.stats(connection, "sync", now),
    ]


async def asked(store: SqlBackend, ids: list[str]) -> list[Any]:
    """Return what the asynchronous store says of the same."""
    first = await store.list(limit=3)
    return [
        *[await store.get(id) for id in ids],
        await store.get("d0", version=1),
        await store.get_many(ids),
        list(await store.list()),
        list(await store.query(Query(tags={"a", "b"}))),
        list(await store.query(Query(author="ann", order="oldest"))),
        list(await store.query(Query(where={"n": 3}, limit=1))),
        list(await store.list(limit=3, cursor=first.cursor)),
        await store.count(prefix="d"),
        await store.causal_chain("d9"),
        await store.history("d0"),
        list(await store.as_of(time.time(), limit=100)),
        await store.namespaces(limit=10),
        await store.stats(),
    ]


async def test_what_one_side_wrote_the_other_side_reads(engine: Engine, place: str) -> None:
    datums = [
        Datum.create(
            bytes(range(n)), id=f"d{n}", causal_parent=f"d{n - 1}" if n else None, tags=["a", "b"][: n % 3],
            author="ann" if n % 2 else "bob", metadata={"n": n, "text": "50% of 'é'"},
        )
        for n in range(10)
    ]  # fmt: skip
    batches = [
        [Put(datum) for datum in datums],
        [Put(Datum("d0", b"second", 2.0)), Delete("d4")],
        [Put(Datum("late", b"gone", 3.0), ttl=1e-6), Put(Datum("kept", "ö".encode(), 3.0), ttl=1000.0)],
        [Put(Datum("d1", b"", 1.0), expect=7)],
        [Put(Datum("x", b"", 1.0)), Put(Datum("d0", b"", 1.0, "d3"))],
    ]
    with engine.begin() as connection:
        *applied, conflict, cycle = writes.apply_each(connection, "sync", batches, time.time)
    assert all(isinstance(outcomes, list) for outcomes in applied)
    assert (type(conflict), type(cycle)) == (VersionConflict, CausalCycle)
    ids = [*(f"d{n}" for n in range(10)), "late", "kept", "x"]
    store = async_store(place, namespace="sync")
    try:
        theirs = await asked(store, ids)
        with engine.begin() as connection:
            assert answers(connection, ids) == theirs
            [[purged, touched]] = writes.apply_each(connection, "sync", [[Purge("d1"), Touch("d2", 60)]], time.time)
            assert (purged.erased, touched.changed) == (1, True)
        theirs = await asked(store, ids)
        with engine.begin() as connection:
            assert answers(connection, ids) == theirs
            assert erasure.compact(connection, "sync", time.time, 1, None) > 0
        await store.put_many([datum.replace(content=b"theirs") for datum in datums[5:]])
        await store.delete("d6")
        theirs = await asked(store, ids)
        with engine.begin() as connection:
            assert answers(connection, ids) == theirs
    finally:
        await store.close()


def test_a_program_that_commits_as_it_goes_loses_nothing(engine: Engine) -> None:
    """SQLAlchemy begins by itself, and so do our statements, which go past it."""
    with engine.connect() as connection:
        writes.apply_each(connection, "default", [[Put(Datum("a", b"a", 1.0))]], time.time)
        assert connection.in_transaction()
        connection.commit()
        assert not connection.in_transaction()
        writes.apply_each(connection, "default", [[Put(Datum(f"b{n}", b"b", 1.0)) for n in range(40)]], time.time)
        connection.rollback()
        writes.apply_each(connection, "default", [[Put(Datum("c", b"c", 1.0))]], time.time)
    with engine.connect() as connection:
        assert [each.id for each in queries.query(connection, "default", Query(), time.time())] == ["a"]


# What no door lets through


@pytest.mark.parametrize("namespace", ["../x", "", "a//b", "a/./b", "a\0b", "x" * 2400, "\ud800", None, 7])
def test_no_namespace_is_written_that_not_every_store_can_keep(engine: Engine, namespace: Any) -> None:
    with engine.begin() as connection:
        with pytest.raises(InvalidNamespace):
            writes.apply_each(connection, namespace, [[Put(Datum("a", b"", 1.0))]], time.time)
        assert key_listing.namespaces(connection, NamespaceListing(), 10) == []


@pytest.mark.parametrize("ttl", [0, -1, -1e-9, math.nan, math.inf, "1", True, 1e13])
def test_no_time_to_live_is_planned_that_is_none(ttl: Any) -> None:
    with pytest.raises(InvalidDatum, match="ttl"):
        Put(Datum("a", b"", 1.0), ttl=ttl)


@pytest.mark.parametrize("expect", [-1, "1", 1.0, True])
def test_nothing_is_expected_that_is_no_version(expect: Any) -> None:
    with pytest.raises(InvalidDatum, match="expect"):
        Put(Datum("a", b"", 1.0), expect)
    with pytest.raises(InvalidDatum, match="expect"):
        Delete("a", expect)


@pytest.mark.parametrize("id", ["", "a\0b", "\ud800", 7, None])
def test_nothing_is_deleted_by_what_is_no_id(id: Any) -> None:
    with pytest.raises(InvalidDatum):
        Delete(id)
    with pytest.raises(InvalidDatum):
        Put(id)


def test_an_id_that_was_taken_once_is_read_deleted_and_purged(engine: Engine) -> None:
    """It had up to 512 characters, which may be 2,048 bytes; now a new one has up to 2,000."""
    id, parent = "\U0001f600" * 512, "\U0001f601" * 512
    row = Row("default", id, 1, 1, True, 1.0, 1.0, None, parent, "{}", b"x", b"")
    now = time.time()
    with engine.begin() as connection:
        head = namespace_head.take(connection, "default", time.time)
        writes.append(connection, [row._replace(digest=digest_of(row))], {id: row}, {}, head._replace(seq=1))
        assert [each.id for each in queries.query(connection, "default", Query(limit=1), now)] == [id]
        [found] = reads.get_many(connection, "default", [id], now).values()
        assert (found.id, found.causal_parent, found.content) == (id, parent, b"x")
        [refused] = writes.apply_each(connection, "default", [[Put(found)]], time.time)
        assert isinstance(refused, InvalidDatum)
        [[deleted]] = writes.apply_each(connection, "default", [[Delete(id)]], time.time)
        assert deleted.changed
        [[purged]] = writes.apply_each(connection, "default", [[Purge(id)]], time.time)
        assert purged.erased == 2


def test_what_is_too_large_is_refused_and_takes_its_batch_along(engine: Engine) -> None:
    small = Limits(max_content=10, max_metadata=10)
    batches = [
        [Put(Datum("a", b"small", 1.0))],
        [Put(Datum("b", b"small", 1.0)), Put(Datum("c", b"x" * 11, 1.0))],
        [Put(Datum("d", b"", 1.0, metadata={"long": "x" * 10}))],
        [Put(Datum("e", b"small", 1.0))],
    ]
    with engine.begin() as connection:
        first, *refused, last = writes.apply_each(connection, "default", batches, time.time, small)
        assert [type(error) for error in refused] == [LimitExceeded, LimitExceeded]
        assert [outcomes[0].seq for outcomes in (first, last) if isinstance(outcomes, list)] == [1, 2]
        assert reads.count(connection, "default", None, time.time()) == 2
        (refused_by_default,) = writes.apply_each(
            connection, "default", [[Put(Datum("f", b"", 1.0, metadata={"long": "x" * 70_000}))]], time.time
        )
        assert isinstance(refused_by_default, LimitExceeded)


# A transaction that sees what was there when it began


CHANGES: dict[str, Callable[[SqlBackend], Awaitable[Any]]] = {
    "put": lambda store: store.put(Datum("b", b"new", 1.0)),
    "delete": lambda store: store.delete("b"),
    "purge": lambda store: store.purge("b"),
    "compact": lambda store: store.compact(keep_versions=1),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_who_sees_an_old_moment_is_refused_the_lock(postgres_url: str, change: str) -> None:
    """At REPEATABLE READ a decision would be of that moment, and not of what is there when the lock is free."""
    engine = sync_engine(postgres_url).execution_options(isolation_level="REPEATABLE READ")
    store = PostgresBackend(postgres_url)
    try:
        await store.put_many([Datum(id, b"old", 1.0) for id in "ab"])
        await store.put(Datum("a", b"older", 1.0))
        with engine.connect() as late:
            assert reads.get(late, "default", "a", None, 0.0) is not None
            assert await CHANGES[change](store)
            with pytest.raises(psycopg.errors.SerializationFailure):
                writes.apply_each(late, "default", [[Put(Datum("b", b"old", 1.0))]], time.time)
            late.rollback()
            [outcomes] = writes.apply_each(late, "default", [[Put(Datum("b", b"mine", 1.0))]], time.time)
            late.commit()
        assert not isinstance(outcomes, Exception)
        assert await store.get("b") == outcomes[0].datum
    finally:
        await store.close()
        engine.dispose()
