"""A savepoint that is undone, whoever said it: what was written since is gone, and nobody hears that it is there."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select, text

from dgent.exceptions import StoreClosed
from dgent.settings import Settings
from dgent.sql import Database, Transaction, open_database
from dgent.testing.contract_base import examples

from .test_sql_store import Notes, notes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Way: TypeAlias = Literal["transaction", "session", "by hand", "connection", "sql"]
WAYS: tuple[Way, ...] = ("transaction", "session", "by hand", "connection", "sql")


class Fault(Exception):
    pass


class Savepoint(NamedTuple):
    """Texts that are added, and savepoints within, in one that is kept or undone."""

    way: Way
    actions: list[Any]
    kept: bool


@pytest.fixture(params=["sqlite", "sqlite in memory", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else f"sqlite:////{uuid4()}?vfs=memdb"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def savepoint(transaction: Transaction, way: Way, *, kept: bool) -> AsyncIterator[None]:
    """Open a savepoint in one of the ways that a program has; it is kept, or undone without an error that shows."""
    session = transaction.session
    if way in {"by hand", "connection"}:
        begun = await (session if way == "by hand" else await session.connection()).begin_nested()
        yield
        await (begun.commit() if kept else begun.rollback())
    elif way == "sql":
        await session.execute(text('SAVEPOINT "Mine"'))
        yield
        if not kept:
            await session.execute(text('rollback to "Mine"'))
        await session.execute(text('RELEASE SAVEPOINT "Mine"'))
    else:
        with suppress(Fault):
            async with transaction.database.transaction() if way == "transaction" else session.begin_nested():
                yield
                if not kept:
                    raise Fault


class Case:
    """Adds texts, and knows which stay."""

    def __init__(self, database: Database, transaction: Transaction) -> None:
        self.transaction = transaction
        self.store = Notes(database)
        self.added = 0

    async def run(self, actions: list[Any]) -> list[str]:
        stay: list[str] = []
        for action in actions:
            if isinstance(action, Savepoint):
                async with savepoint(self.transaction, action.way, kept=action.kept):
                    within = await self.run(action.actions)
                stay += within if action.kept else []
            else:
                self.added += 1
                stay.append(f"text {self.added}")
                await self.store.joined(self.transaction).add(stay[-1])
        return stay


_add = st.just("add")
_actions = st.recursive(
    st.lists(_add, max_size=2),
    lambda inner: st.lists(_add | st.builds(Savepoint, st.sampled_from(WAYS), inner, st.booleans()), max_size=4),
    max_leaves=6,
)


@examples(4)
@given(actions=_actions)
@example(actions=[Savepoint(way, ["add"], kept=False) for way in WAYS])
@example(actions=["add", *(Savepoint(way, ["add", Savepoint(way, ["add"], kept=True)], kept=False) for way in WAYS)])
@example(actions=[Savepoint("sql", ["add", Savepoint("sql", ["add"], kept=False), "add"], kept=True), "add"])
async def test_who_waits_for_the_commit_hears_of_what_is_there_and_of_nothing_else(
    url: str, actions: list[Any]
) -> None:
    async with opened(url) as database:
        await database.write(lambda c: c.execute(text("DROP TABLE IF EXISTS notes")).rowcount)
        await database.write(lambda c: c.execute(text("DROP TABLE IF EXISTS dgent_meta")).rowcount)
        async with database.transaction() as transaction:
            case = Case(database, transaction)
            stay = await case.run(actions)
        assert case.store.told == stay
        await case.store.add("after")  # its tables are there, or are made now
        there = select(notes.c.text).order_by(notes.c.id)
        assert await database.read(lambda c: list(c.scalars(there))) == [*stay, "after"]


async def test_a_store_that_was_joined_to_a_block_within_is_over_with_that(url: str) -> None:
    async with opened(url) as database, database.transaction() as transaction:
        store = Notes(database)
        async with database.transaction() as inner:
            within = store.joined(inner)
            await within.add("kept")
        with pytest.raises(StoreClosed):
            await within.add("late")
        await store.joined(transaction).add("kept, too")
        assert await store.joined(transaction).count() == 2
