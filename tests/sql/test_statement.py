"""A statement is written once and answers alike on each of the ways to SQLite; constructs mean what they say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from tests.faults.stores import sqlite as opened
from tests.faults.test_cancellation import CancelledAt, await_it

from dgent.settings import Settings
from dgent.sql.constructs import BYTEWISE, bytewise, one_of, transaction_lock, unindexed
from dgent.sql.sqlite.engine import create_sync_engine
from dgent.sql.statement import BulkInsert, Statement
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.orm import Session

    from dgent.memory.sql.sqlite_backend import SQLiteBackend

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", BYTEWISE, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary),
    Column("weight", Float),
)
c = things.c
ADD = Statement(insert(things), "id size body weight")
ADD_MANY = BulkInsert(things)
ALL = Statement(select(things).order_by(c.id))
LARGER = Statement(
    select(c.id).where(c.size > bindparam("low"), c.size <= bindparam("low") + bindparam("more")).order_by(c.id),
    "more low",
)
GROW = Statement(update(things).where(c.id == bindparam("of")).values(size=c.size + bindparam("by")), "by of")
RENAME = Statement(
    upsert(things)
    .values(id=bindparam("id"), size=literal_column("0"))
    .on_conflict_do_update(index_elements=[c.id], set_={"size": c.size + 100})
    .returning(c.id, c.size),
    "id",
)
FIXED = Statement(select(c.id).where(c.size == 3, c.id != bindparam("but")).order_by(c.id).limit(1), "but")
AMONG = Statement(select(c.id).where(one_of(c.id, "ids")).order_by(c.id), "ids", lists="ids")
REMOVE = Statement(delete(things).where(c.size < bindparam("low")), "low")
RAW = Statement(text("SELECT count(*) FROM things"))


def every_kind(connection: Connection) -> list[Any]:
    """Run each kind of statement; the answers must not depend on what runs them."""
    metadata.create_all(connection)
    answers: list[Any] = [
        ADD.run(connection, "a", 1, b"\0x", 0.5),
        ADD_MANY.run(connection, [("b", 2, None, None), ("c", 3, b"", 1e300)]),
        ADD_MANY.run(connection, [("d", 3, b"one", None)]),
        ADD_MANY.run(connection, []),
        ADD.run_many(connection, iter([("e", 5, None, None), ("f", 6, None, None)])),
        ALL.rows(connection),
        LARGER.rows(connection, 2, 1),
        LARGER.row(connection, 1, 5),
        LARGER.row(connection, 1, 500),
        GROW.run(connection, 10, "a"),
        GROW.run(connection, 10, "nobody"),
        GROW.run_many(connection, [(1, "b"), (2, "c")]),
        RENAME.rows(connection, "a"),
        RENAME.row(connection, "new"),
        FIXED.rows(connection, "x"),
        AMONG.rows(connection, ["f", "a", "nobody", "a"]),
        AMONG.rows(connection, []),
        RAW.row(connection),
        REMOVE.run(connection, 5),
        ALL.rows(connection),
    ]
    return [[tuple(row) for row in answer] if isinstance(answer, list) else answer for answer in answers]


async def in_the_writer(store: SQLiteBackend) -> list[Any]:
    return await store.database.write(every_kind)


async def in_a_transaction(store: SQLiteBackend) -> list[Any]:
    async with store.database.transaction() as tx:
        return await tx.write(every_kind)


async def in_a_session(store: SQLiteBackend) -> list[Any]:
    async with store.database.transaction() as tx:
        return await tx.session.run_sync(lambda session: every_kind(session.connection()))


def expected(path: Path) -> list[Any]:
    engine = create_sync_engine(path, Settings.load())
    with engine.begin() as connection:
        found = every_kind(connection)
    engine.dispose()
    return found


@pytest.mark.parametrize("run", [in_the_writer, in_a_transaction, in_a_session])
async def test_each_way_to_the_file_answers_alike(
    sqlite_path: Path, tmp_path: Path, run: Callable[[SQLiteBackend], Awaitable[list[Any]]]
) -> None:
    wanted = expected(tmp_path / "sync.db")
    assert wanted[5:9] == [
        [("a", 1, b"\0x", 0.5), ("b", 2, None, None), ("c", 3, b"", 1e300), ("d", 3, b"one", None), *wanted[5][4:]],
        [("b",), ("c",), ("d",)],
        ("f",),
        None,
    ]
    assert wanted[9:19] == [1, 0, None, [("a", 111)], ("new", 0), [("b",)], [("a",), ("f",)], [], (7,), 3]
    async with opened(sqlite_path) as store:
        assert await run(store) == wanted
        assert [tuple(row) for row in await store.database.read(ALL.rows)] == wanted[-1]


def by_statement(session: Session) -> Any:
    return ALL.rows(session.connection())


def by_orm(session: Session) -> Any:
    return session.execute(select(things)).all()


@pytest.mark.parametrize("fetch", [by_statement, by_orm])
async def test_a_cancelled_fetch_leaves_no_cursor_behind(sqlite_path: Path, fetch: Callable[[Session], Any]) -> None:
    """Mutants: `execute` and then `fetchall`, in two hops; the cursors not closed with the connection.

    A cursor that is not read to its end keeps an old snapshot, for which the next BEGIN IMMEDIATE is "locked", and the
    file open, for as long as anybody keeps the traceback.
    """
    kept = []
    async with opened(sqlite_path, busy_timeout=patience(1)) as store:
        await store.prepare()
        await store.database.write(metadata.create_all)
        rows = [(f"{n}", n, None, None) for n in range(50)]
        await store.database.write(lambda connection: ADD_MANY.run(connection, rows))

        async def read() -> None:
            async with store.database.transaction() as tx:
                await tx.session.run_sync(fetch)

        for at in range(16):
            kept.append(asyncio.create_task(await_it(CancelledAt(read(), at, "done"))))
            await asyncio.wait(kept)
            await store.database.write(lambda connection: GROW.run(connection, 1, "1"))
        async with store.database.transaction() as tx:
            assert await tx.write(lambda connection: GROW.run(connection, 1, "1")) == 1
    assert any(task.cancelled() for task in kept)
    assert str(sqlite_path) not in open_files()


def open_files() -> set[str]:
    """Return the files that this process has open; none where the system does not tell."""
    found = set()
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)


@given(st.lists(WORDS, unique=True), st.lists(WORDS))
def test_one_of_is_membership_and_order_is_by_bytes(words: list[str], asked: list[str]) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        ADD_MANY.run(connection, [(word, 1, None, None) for word in words])
        asked = [*asked, *words[::2]]
        assert [id for (id,) in AMONG.rows(connection, asked)] == sorted(set(words) & set(asked), key=str.encode)
        by_bytes = list(connection.scalars(select(c.id).order_by(bytewise(c.id))))
        assert [row[0] for row in ALL.rows(connection)] == by_bytes == sorted(words, key=str.encode)
    engine.dispose()


def spelled(element: Any, dialect: Any) -> str:
    return " ".join(str(element.compile(dialect=dialect)).split())


@given(st.integers(0, 100), st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.booleans())
def test_rows_that_are_inserted_together_are_those_that_were_given(
    count: int, bodies: set[int], weights: set[int], long: bool
) -> None:
    rows = [
        (
            f"{at:03}",
            at,
            bytes([at]) * (100_000 if long and at % 9 else 1) if at in bodies else None,
            at if at in weights else None,
        )
        for at in range(count)
    ]
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        ADD_MANY.run(connection, rows)
        assert ALL.rows(connection) == rows
    engine.dispose()


def test_constructs_are_spelled_for_each_dialect() -> None:
    lite, post = sqlite.dialect(), postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
    assert spelled(one_of(c.id, "x"), lite) == "things.id IN (SELECT value FROM json_each(?))"
    assert spelled(one_of(c.id, "x"), post) == "things.id = ANY($1::text[])"
    assert spelled(unindexed(c.size), lite) == "+things.size"
    assert spelled(unindexed(c.size), post) == "things.size"
    assert spelled(bytewise(c.id), lite) == "things.id"
    assert spelled(bytewise(c.id), post) == '(things.id COLLATE "C")'
    assert "IS NOT NULL" in spelled(select(transaction_lock(7)), lite)
    assert "pg_advisory_xact_lock" in spelled(select(transaction_lock(7)), post)
    assert Text().compile(dialect=lite) == BYTEWISE.compile(dialect=lite) == "TEXT"


def test_a_lock_on_the_transaction_is_free_on_sqlite() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        assert connection.execute(select(transaction_lock(7))).scalar() is True
    engine.dispose()
