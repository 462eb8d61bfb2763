"""A put of a row is stopped before each of its statements while somebody else writes the same row: nothing is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.breakpoints import Pause, statements

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.exceptions import VersionConflict
from dgent.testing.contract_base import patience

from .conftest import opened
from .wide_models import Note, Wide

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG = patience(120.0)

Verb = "Callable[[TableAdapter], Awaitable[Any]]"


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[TableAdapter, TableAdapter]]:
    """Open one table twice, as two processes do."""
    async with opened(url) as mine, opened(url) as theirs:
        await mine.write(Wide.metadata.create_all)
        yield TableAdapter(Wide, mine), TableAdapter(Wide, theirs)


def row(id: str, **data: Any) -> Datum:
    return Datum.create(id=id, data={"body": {}, **data})


async def stopped(mine: TableAdapter, theirs: TableAdapter, verb: Any, meanwhile: Any, at: int, id: str) -> Pause:
    pause = Pause(at, lambda: meanwhile(theirs, id))
    with statements(pause):
        await verb(mine, id)
    return pause


@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
@pytest.mark.parametrize("there", [False, True], ids=["a new row", "a row that is there"])
async def test_a_put_keeps_what_others_wrote_into_columns_that_it_leaves_out(url: str, there: bool, many: bool) -> None:
    """It gives no `score`, which the database fills, and no `code`, which is drawn for new rows.

    Mutant: the row is read without a lock. On PostgreSQL the score that was acknowledged is overwritten then.
    """

    async def put(table: TableAdapter, id: str) -> None:
        await table.put_many([row(id, whole=1), row(f"{id}+", whole=1)] if many else [row(id, whole=1)])

    async def score(table: TableAdapter, id: str) -> Datum:
        return await (table.update(id, {"score": 5}) if there else table.put(row(id, score=5)))

    async with asyncio.timeout(HANG), two(url) as (mine, theirs):
        at = 0
        while True:
            id = f"r{at}"
            if there:
                await mine.put(row(id, whole=0))
            pause = await stopped(mine, theirs, put, score, at, id)
            if pause.task is None:
                break
            acknowledged = await pause.task
            found = await theirs.get(id)
            assert found is not None
            assert found.data["score"] == acknowledged.data["score"] == 5
            if found.data["whole"] == 1:
                assert found.data["code"] == acknowledged.data["code"], "one row has one code"
            at += 1
        assert at == pause.passed > 0


async def test_of_two_who_expect_no_row_one_gets_it_where_there_is_no_version(url: str) -> None:
    async def put(table: TableAdapter, id: str) -> Any:
        try:
            return await table.put(row(id, score=len(won)), expect=0)
        except VersionConflict:
            return None

    async with asyncio.timeout(HANG), two(url) as (mine, theirs):
        for at in range(3):
            won: list[Any] = []

            async def mine_first(table: TableAdapter, id: str, won: list[Any] = won) -> None:
                won.append(await put(table, id))

            pause = await stopped(mine, theirs, mine_first, put, at, f"r{at}")
            if pause.task is not None:
                won.append(await pause.task)
                assert sum(each is not None for each in won) == 1
            assert await theirs.get(f"r{at}") in won


async def test_a_delete_that_expects_a_version_deletes_it_or_says_which_is_there(url: str) -> None:
    """The row gets the expected version between the statement that deletes and the look at what is there."""
    async with asyncio.timeout(HANG), opened(url) as one, opened(url) as two:
        await one.write(Wide.metadata.create_all)
        mine, theirs = TableAdapter(Note, one), TableAdapter(Note, two)
        for at in range(3):
            put = await mine.put(Datum.create(id=f"r{at}", data={"n": 1}))
            assert put.version == 1
            pause = Pause(at, partial(theirs.update, put.id, {"n": 2}))
            deleted = None
            with statements(pause), suppress(VersionConflict):
                deleted = await mine.delete(put.id, expect=2)
            if pause.task is not None:
                await pause.task
            assert await theirs.exists(put.id) is (deleted is None)
