"""A follower sees each entry once, each writer's in order: whoever appends, and whatever happens to it."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from tests.causal.async_logs import (
    HANG,
    append_for_ever,
    append_some,
    by_writer,
    follow_for_ever,
    opened,
    until,
    whole,
)
from tests.faults.processes import Child, started
from tests.sql.proxy import Proxy

from dgent.causal import AsyncLog, CommitEvent, Entry
from dgent.causal.follow import PAGE
from dgent.exceptions import BackendUnavailable, ChainBroken, StoreClosed
from dgent.sql.sqlite.database import SQLiteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from tests.postgres import PostgresServer

FREQUENT, NEVER = 0.05, 3600.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def log(url: str) -> AsyncIterator[AsyncLog]:
    async with opened(url) as log:
        yield log


async def take(source: AsyncGenerator[Entry, None], many: int) -> list[Entry]:
    """Return so many entries and leave, bounded in time."""
    found: list[Entry] = []
    async with asyncio.timeout(HANG), aclosing(source):
        async for entry in source:
            found.append(entry)
            if len(found) == many:
                break
    return found


async def collect(source: AsyncGenerator[Entry, None], seen: list[Entry]) -> None:
    """Take what comes, until cancelled."""
    async with aclosing(source):
        async for entry in source:
            seen.append(entry)  # noqa: PERF401  # it is looked at while it grows


def places(entries: list[Entry]) -> list[tuple[str, int]]:
    return [(entry.writer, entry.seq) for entry in entries]


async def test_first_what_is_there_then_what_comes(log: AsyncLog) -> None:
    await log.append_many("s", "a", [b"1", b"2"])
    await log.append("other", "a", b"1")
    follower = asyncio.create_task(take(log.follow("s"), 5))
    await log.append("s", "b", b"1")
    while (await log.head("s", "b")).seq < 2:
        await log.append("s", "b", b"2")
    await log.append("s", "c", b"1")
    entries = await follower
    assert by_writer(entries) == {"a": [1, 2], "b": [1, 2], "c": [1]}
    assert {entry.stream for entry in entries} == {"s"}
    assert entries == [entry for seen in entries for entry in await log.entries("s", seen.writer) if entry == seen]


async def test_from_a_position(log: AsyncLog) -> None:
    for writer in "abc":
        await log.append_many("s", writer, [b"1", b"2", b"3"])
    found = await take(log.follow("s", after={"a": 2, "b": 3}), 4)
    assert by_writer(found) == {"a": [3], "c": [1, 2, 3]}
    assert places(await take(log.follow("s", writer="b", after=1), 2)) == [("b", 2), ("b", 3)]
    follower = asyncio.create_task(take(log.follow("s", writer="b", after={"a": 7, "b": 3}), 1))
    await log.append("s", "a", b"4")
    await log.append("s", "b", b"4")
    assert places(await follower) == [("b", 4)]


async def test_pages_are_shared_between_writers(log: AsyncLog) -> None:
    await log.append_many("s", "busy", [b""] * (3 * PAGE))
    await log.append_many("s", "quiet", [b""])
    entries = await take(log.follow("s"), 3 * PAGE + 1)
    assert {writer: whole(seqs) for writer, seqs in by_writer(entries).items()} == {"busy": True, "quiet": True}
    assert "quiet" in {entry.writer for entry in entries[:PAGE]}


_steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.booleans()), min_size=1, max_size=15)


@given(steps=_steps, stops=st.lists(st.integers(1, 6), max_size=6))
@settings(max_examples=15)
def test_a_follower_that_comes_and_goes_sees_each_entry_once(
    steps: list[tuple[str, int, bool]], stops: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path_factory.mktemp('follow')}/membrane.db") as log:
            total = sum(many for _, many, _ in steps)
            seen: list[Entry] = []
            position: dict[str, int] = {}

            async def follow() -> None:
                left = [*stops]
                while len(seen) < total:
                    until = len(seen) + left.pop() if left else total
                    async for entry in log.follow("s", after=position):
                        seen.append(entry)
                        position[entry.writer] = entry.seq
                        if len(seen) >= min(until, total):
                            break

            async def write() -> None:
                for writer, many, pauses in steps:
                    await log.append_many("s", writer, [b"x"] * many)
                    if pauses:
                        await asyncio.sleep(0)

            await asyncio.gather(follow(), write())
            assert all(map(whole, by_writer(seen).values()))
            assert len(seen) == len(await log.merged("s")) == total

    asyncio.run(run())


async def test_processes_append_and_one_is_killed(log: AsyncLog, url: str) -> None:
    seen: list[Entry] = []

    follower = asyncio.create_task(collect(log.follow("stream"), seen))
    endless = Child(append_for_ever, 1, url)
    try:
        with started(1, append_some, url, 10) as (bounded,):
            for _ in range(10):
                await log.append("stream", "shared", b"here")
                told = await asyncio.to_thread(endless.answer)
            assert await asyncio.to_thread(bounded.answer) == "done"
    finally:
        said = await asyncio.to_thread(endless.kill)
    await log.append("stream", "end", b"")
    stored = await log.merged("stream", limit=10_000)
    await until(lambda: len(seen) >= len(stored))
    follower.cancel()
    seqs = by_writer(seen)
    assert all(map(whole, seqs.values()))
    assert sorted(places(seen)) == sorted(places(stored)), "each entry once"
    assert max(seqs["process-1"]) >= max([told, *said]), "what was acknowledged before the kill is there"
    for writer in seqs:
        assert (await log.verify("stream", writer)).seq == seqs[writer][-1]


async def test_a_follower_killed_and_started_again_sees_each_entry_once(log: AsyncLog, url: str) -> None:
    chance = random.Random(5)
    seen: list[tuple[str, int]] = []
    total = 300

    async def write() -> None:
        for number in range(total):
            await log.append("stream", f"w{number % 3}", b"x")
            if number % 10 == 0:
                await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    while len(seen) < total:
        position = dict(seen)
        child = Child(follow_for_ever, 0, url, position)
        try:
            for _ in range(min(chance.randint(1, 120), total - len(seen))):
                seen.append(await asyncio.to_thread(child.answer))  # noqa: PERF401  # others run meanwhile
        finally:
            seen += await asyncio.to_thread(child.kill)
    await writing
    assert sorted(seen) == sorted((f"w{number % 3}", number // 3 + 1) for number in range(total))
    assert all(whole(seq for of, seq in seen if of == writer) for writer in ("w0", "w1", "w2"))


@pytest.mark.parametrize("mode", ["cut", "refuse", "silent"])
async def test_cut_connections(postgres_url: str, mode: str) -> None:
    async with Proxy(postgres_url) as proxy, opened(postgres_url) as direct:
        await direct.append("s", "w", b"1")
        seen: list[Entry] = []
        limits = {"connect_timeout": 1, "command_timeout": 1}
        async with opened(proxy.url, look_every=FREQUENT, **limits) as log:
            follower = asyncio.create_task(collect(log.follow("s"), seen))
            for number in range(2, 5):
                await until(lambda number=number: len(seen) >= number - 1)
                if mode == "refuse":
                    proxy.refuse()
                if mode == "silent":
                    proxy.fall_silent()
                else:
                    proxy.cut()
                await direct.append("s", "w", b"x")
                await asyncio.sleep(0.1)
                proxy.recover()
            await until(lambda: len(seen) >= 4)
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
    assert places(seen) == [("w", seq) for seq in range(1, 5)]


async def test_a_restarted_server(postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(postgres_server.url()) as log:
        seen: list[Entry] = []

        await log.append("s", "w", b"before")
        follower = asyncio.create_task(collect(log.follow("s"), seen))
        await until(lambda: bool(seen))
        await asyncio.to_thread(postgres_server.stop, "immediate")
        log.doorbell.ring(CommitEvent("s", "w", 2, bytes(32)))  # it looks, and the server is not there
        await until(lambda: "waits" in caplog.text)
        await asyncio.to_thread(postgres_server.start)
        async with opened(postgres_server.url()) as other:
            await other.append("s", "w", b"after")
        await until(lambda: len(seen) >= 2)
        follower.cancel()
    assert [entry.payload for entry in seen] == [b"before", b"after"]


async def test_a_notification_comes_before_the_poll(postgres_url: str) -> None:
    async with opened(postgres_url, look_every=NEVER) as log, opened(postgres_url) as elsewhere:
        await log.append("s", "w", b"1")
        seen: list[Entry] = []

        follower = asyncio.create_task(collect(log.follow("s"), seen))
        for number in range(2, 6):
            await until(lambda number=number: len(seen) >= number - 1 and _listens(log))
            await elsewhere.append("s", "w", b"x")
        await until(lambda: len(seen) >= 5)
        follower.cancel()


def _listens(log: AsyncLog) -> bool:
    driver = log.database._loop_state.watches._driver  # type: ignore[attr-defined]  # a PostgresDatabase
    return driver is not None and bool(driver._listeners)


async def test_a_notification_that_never_comes(postgres_url: str) -> None:
    async with opened(postgres_url, look_every=FREQUENT) as log:
        (first,) = [await log.append("s", "w", b"1")]
        follower = asyncio.create_task(take(log.follow("s"), 2))
        await asyncio.sleep(0.2)
        table = log._log.format.table
        second = log._log.format.hasher("s", "w")(2, first.content_hash, b"2")
        async with await psycopg.AsyncConnection.connect(postgres_url) as server:  # past the library: nothing is told
            await server.execute(
                f"INSERT INTO {table.name} VALUES (%s, %s, %s, %s, %s, %s)",
                ("s", "w", 2, first.content_hash, second, b"2"),
            )
        assert places(await follower) == [("w", 1), ("w", 2)]


async def test_an_idle_follower_looks_four_times_a_second(sqlite_path: Path) -> None:
    async with opened(f"sqlite:///{sqlite_path}") as log:
        database = log.database
        assert isinstance(database, SQLiteDatabase)
        followers = [asyncio.create_task(take(log.follow("s"), 1)) for _ in range(20)]
        await log.append("t", "w", b"")
        await asyncio.sleep(0.6)  # until the commits of the beginning were seen
        statements: list[str] = []
        readers = database._readers
        assert readers is not None
        driver = readers.inline._connection.connection.dbapi_connection
        assert driver is not None
        driver.set_trace_callback(statements.append)
        clock = asyncio.get_running_loop().time
        start = clock()
        await asyncio.sleep(1)
        spent = clock() - start
        driver.set_trace_callback(None)
        assert {*statements} == {"PRAGMA data_version"}, "nothing but the look, one for all followers"
        assert 1 <= len(statements) <= 4 * spent + 1
        await log.append("s", "w", b"")
        assert [len(found) for found in await asyncio.gather(*followers)] == [1] * 20
        assert database._watches[asyncio.get_running_loop()]._watching == set()


async def test_many_followers_at_once(log: AsyncLog) -> None:
    await log.append_many("s", "a", [b"0", b"1"])
    followers = [asyncio.create_task(take(log.follow("s", after={"a": at % 3}), 20 - at % 3)) for at in range(50)]
    for number in range(2, 20):
        await log.append("s", "a", b"%d" % number)
    for at, entries in enumerate(await asyncio.gather(*followers)):
        assert by_writer(entries) == {"a": [*range(at % 3 + 1, 21)]}


async def test_a_follower_that_leaves_leaves_nothing(log: AsyncLog) -> None:
    await log.append("s", "w", b"1")
    async for _ in log.follow("s"):
        break
    waiting = asyncio.create_task(take(log.follow("s"), 2))
    for _ in range(20):
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    unbegun = log.follow("s")
    del unbegun
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert log.doorbell._subscriptions == ()


async def test_closing_the_database_ends_it(url: str) -> None:
    async with opened(url) as log:
        await log.append("s", "w", b"1")
        follower = asyncio.create_task(take(log.follow("s"), 2))
        await asyncio.sleep(0.05)
        await log.database.close()
        with pytest.raises(StoreClosed):
            await follower


async def test_a_database_that_never_answered_is_an_error(postgres_url: str) -> None:
    async with Proxy(postgres_url) as proxy, opened(proxy.url) as log:
        proxy.refuse()
        with pytest.raises(BackendUnavailable):
            await anext(log.follow("s"))


async def test_an_entry_that_was_taken_out_is_noticed(log: AsyncLog) -> None:
    await log.append_many("s", "w", [b"1", b"2", b"3"])
    table = log._log.format.table
    await log.database.write(lambda connection: connection.execute(delete(table).where(table.c.seq == 2)) and None)
    with pytest.raises(ChainBroken) as caught:
        await take(log.follow("s"), 3)
    assert caught.value.seq == 2


def test_two_event_loops_one_after_another(url: str) -> None:
    async def first() -> AsyncLog:
        async with asyncio.timeout(HANG):
            from dgent.settings import Settings
            from dgent.sql import open_database

            log = AsyncLog(open_database(Settings.load(database_url=url)))
            follower = asyncio.create_task(take(log.follow("s"), 1))
            await log.append("s", "w", b"1")
            assert places(await follower) == [("w", 1)]
            asyncio.create_task(take(log.follow("s"), 9))  # noqa: RUF006  # left to the end of the loop
            await asyncio.sleep(0.05)
            return log

    async def second(log: AsyncLog) -> None:
        async with asyncio.timeout(HANG):
            follower = asyncio.create_task(take(log.follow("s"), 2))
            await log.append("s", "w", b"2")
            assert places(await follower) == [("w", 1), ("w", 2)]
            await log.database.close()

    asyncio.run(second(asyncio.run(first())))
