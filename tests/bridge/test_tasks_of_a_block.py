"""A block that ends while tasks of it still run: they end, too, and what they wrote goes with the block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import insert, text

from dgent.bridge import UnitOfWork, unit_of_work
from dgent.datum import Datum
from dgent.exceptions import StorageTimeout, StoreClosed
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.testing.contract_base import examples, fresh, patience

from .conftest import opened

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.sql import Database

Kind: TypeAlias = Literal["put", "many", "get", "list", "sleepy", "session"]
End: TypeAlias = Literal["return", "error", "cancel", "gather"]
LONG = patience(20)
MANY = 150
_numbers = count()


class Fault(Exception):
    pass


class Round(NamedTuple):
    """A block whose tasks are of these kinds, which ends after so many turns of the loop, within another one or not."""

    kinds: list[Kind]
    turns: int
    end: End
    nested: bool = False
    beside: bool = False  # a block of another task waits for its turn meanwhile


@pytest.fixture(params=["sqlite", "sqlite in memory", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("migrated_postgres_url"))
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else f"sqlite:////{uuid4()}?vfs=memdb"


_rounds = st.lists(
    st.builds(
        Round,
        st.lists(st.sampled_from(["put", "put", "many", "get", "list", "sleepy"]), min_size=1, max_size=5),
        st.integers(0, 8),
        st.sampled_from(["return", "error", "cancel", "gather"]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
_GATHERED = [Round(["many", "put", "put", "put"], turns % 3, "gather", beside=True) for turns in range(9)]
_FIRST = [Round(["put"] * 4, turns, "error", nested=turns % 2 == 1) for turns in range(4)]
_READING = [Round(["get"], turns, "return") for turns in range(4)]


@examples(8)
@given(rounds=_rounds)
@example(rounds=_GATHERED)
@example(rounds=_FIRST)
@example(rounds=_READING)
async def test_a_block_that_ends_beside_its_tasks_is_whole_or_absent(url: str, rounds: list[Round]) -> None:
    async with opened(url) as database:
        for each in rounds:
            await Case(database).run(each)


@pytest.mark.parametrize("end", ["error", "cancel", "gather"])
async def test_a_task_that_uses_the_session_is_undone_with_its_block(url: str, end: End) -> None:
    async with opened(url) as database:
        for turns in range(40):
            await Case(database).run(Round(["session"], turns, end, beside=True))


@pytest.mark.parametrize("kept", [False, True])
async def test_a_block_within_another_takes_nothing_of_that_ones_tasks_along(url: str, kept: bool) -> None:
    async with opened(url) as database:
        for turn in range(8):
            memory = SqlBackend(database, fresh())
            async with unit_of_work(database, memory) as tx:
                tasks = [asyncio.create_task(sleepy(tx, [f"put {n}"], n)) for n in range(8)]
                with suppress(Fault):
                    async with unit_of_work(database, memory) as inner:
                        await inner.memory.put(Datum.create(b"", id="inner"))
                        await tx.memory.put(Datum.create(b"", id="inner, by the outer one"))
                        await turns(turn)
                        if not kept:
                            raise Fault
                await asyncio.wait_for(asyncio.gather(*tasks), LONG)
            there = {datum.id for datum in await memory.list()}
            within = {"inner", "inner, by the outer one"} if kept else set()
            assert there == {f"put {n}" for n in range(8)} | within


async def test_a_block_that_waits_for_a_task_of_the_one_around_it_ends(url: str) -> None:
    settings = Settings.load(database_url=url, synchronous="NORMAL", transaction_timeout=0.3)
    database = open_database(settings)
    memory = SqlBackend(database, fresh())
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(StorageTimeout):  # noqa: PT012  # the block is what fails
        async with unit_of_work(database, memory) as tx, unit_of_work(database, memory):
            tasks.append(asyncio.create_task(put(tx, ["put"]), context=Context()))
            await asyncio.wait(tasks)
    (heard,) = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG)
    assert heard is None or isinstance(heard, StoreClosed)
    assert await memory.list() == []
    await database.close()


class Case:
    """One round, in a namespace of its own."""

    def __init__(self, database: Database) -> None:
        self.database, self.memory = database, SqlBackend(database, fresh())
        self.tasks: dict[asyncio.Task[None], list[str]] = {}

    async def run(self, round: Round) -> None:
        block = asyncio.create_task(self.outer(round) if round.nested else self.block(round))
        neighbour = asyncio.create_task(self.neighbour()) if round.beside else None
        await self.heard(block, round)
        await self.all_end(round)
        if neighbour is not None:
            await asyncio.wait_for(neighbour, LONG)
        await self.compare(round)

    async def outer(self, round: Round) -> None:
        async with unit_of_work(self.database, self.memory) as tx:
            await tx.memory.put(Datum.create(b"", id="outer, before"))
            with suppress(Fault):
                await self.block(round)
            await tx.memory.put(Datum.create(b"", id="outer, after"))

    async def block(self, round: Round) -> None:
        async with unit_of_work(self.database, self.memory) as tx:
            await tx.memory.put(Datum.create(b"", id="own"))
            for kind in round.kinds:
                self.begin(tx, kind)
            if round.end == "gather":
                await asyncio.gather(*self.tasks, fault(round.turns))
            await turns(round.turns)
            if round.end == "error":
                raise Fault
            if round.end == "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

    def begin(self, tx: UnitOfWork, kind: Kind) -> None:
        ids = [f"{kind} {next(_numbers)}" for _ in range(MANY if kind == "many" else 1)]
        self.tasks[asyncio.create_task(ACTS[kind](tx, ids))] = ids

    async def neighbour(self) -> None:
        async with unit_of_work(self.database, self.memory) as tx:
            await tx.memory.put(Datum.create(b"", id="neighbour 1"))
            await turns(3)
            await tx.memory.put(Datum.create(b"", id="neighbour 2"))

    async def heard(self, block: asyncio.Task[None], round: Round) -> None:
        """Hold what the block raises against what ended it."""
        (given,) = await asyncio.wait_for(asyncio.gather(block, return_exceptions=True), LONG)
        wanted = asyncio.CancelledError if round.end == "cancel" else Fault
        if round.end == "return" or (round.nested and round.end != "cancel"):
            assert given is None
        else:
            assert type(given) is wanted, given

    async def all_end(self, round: Round) -> None:
        done, pending = await asyncio.wait(self.tasks, timeout=LONG)
        assert not pending, "a task of a block that is over never ends"
        for task in done:
            error = task.exception()
            assert error is None or isinstance(error, StoreClosed) or "session" in round.kinds, repr(error)

    async def compare(self, round: Round) -> None:
        there = {datum.id for datum in await self.memory.list(limit=1000)}
        rows = await self.database.read(lambda c: {row[0] for row in c.execute(text("SELECT id FROM brain_crystals"))})
        wanted = {"neighbour 1", "neighbour 2"} if round.beside else set()
        if round.nested and round.end != "cancel":
            wanted |= {"outer, before", "outer, after"}
        if round.end == "return":
            wanted |= {"own"}.union(*(ids for task, ids in self.tasks.items() if not task.exception() and is_put(ids)))
        assert there == wanted
        assert rows == set()
        await self.memory.put(Datum.create(b"", id="after"))


async def fault(after: int) -> None:
    await turns(after)
    raise Fault


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def is_put(ids: list[str]) -> bool:
    return ids[0].startswith(("put", "many", "sleepy"))


async def put(tx: UnitOfWork, ids: list[str]) -> None:
    await tx.memory.put(Datum.create(b"x", id=ids[0]))


async def many(tx: UnitOfWork, ids: list[str]) -> None:
    await tx.memory.put_many([Datum.create(b"x", id=id) for id in ids])


async def sleepy(tx: UnitOfWork, ids: list[str], number: int = 4) -> None:
    await turns(number)
    await put(tx, ids)


async def get(tx: UnitOfWork, ids: list[str]) -> None:
    assert await tx.memory.get(ids[0]) is None


async def list_all(tx: UnitOfWork, _: list[str]) -> None:
    await tx.memory.list(limit=1000)


async def use_session(tx: UnitOfWork, ids: list[str]) -> None:
    for n in range(4):
        values = [
            {"id": f"{ids[0]} {n} {row}", "content_hash": "h", "summary": "s", "tags": [], "datum_id": "d"}
            for row in range(30)
        ]
        await tx.session.execute(insert(Crystal), values)


ACTS: dict[Kind, Callable[[UnitOfWork, list[str]], Coroutine[Any, Any, None]]] = {
    "put": put,
    "many": many,
    "sleepy": sleepy,
    "get": get,
    "list": list_all,
    "session": use_session,
}
