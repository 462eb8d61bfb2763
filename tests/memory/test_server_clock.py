"""On PostgreSQL the server's clock decides what is live, whatever the clocks of the hosts say."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.memory.test_postgres_fast_insert import blocked, watched
from tests.server_clock import ServerClock

from dgent.datum import Datum
from dgent.exceptions import VersionConflict
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.postgres_fast_insert import TOLERANCE
from dgent.testing import ManualClock
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG = patience(30.0)


@asynccontextmanager
async def host(url: str, ahead: float, server: ManualClock) -> AsyncIterator[PostgresBackend]:
    """Open a store on a host whose clock is ahead of the server's by so many seconds."""
    store = PostgresBackend(url, "n", clock=lambda: server.now + ahead)
    try:
        await store.put(Datum(f"first of {ahead}", b"", 0.0))  # now it knows the head, and the server's time
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("spread", [5.0, 10 * 86_400.0])
async def test_a_lease_lasts_as_long_as_it_says_on_two_hosts(postgres_url: str, spread: float) -> None:
    server = ManualClock()
    ServerClock(postgres_url).follow(server)
    async with host(postgres_url, spread / 2, server) as one, host(postgres_url, -spread / 2, server) as two:
        for n, (holder, other) in enumerate([(one, two), (two, one), (one, two)]):
            lease = await holder.put(Datum("lease", b"%d" % n, 0.0), expect=0, ttl=3)
            server.advance(2.9)
            for store in (one, two):
                assert await store.get("lease") == lease
                assert await store.exists("lease")
                with pytest.raises(VersionConflict):
                    await other.put(Datum("lease", b"mine", 0.0), expect=0, ttl=3)
            server.advance(0.1)
            for store in (one, two):
                assert await store.get("lease") is None
                assert await store.count(prefix="lease") == 0
                assert not await store.delete("lease")


async def test_a_new_id_is_put_in_one_statement_by_the_time_of_the_server(postgres_url: str) -> None:
    server = ManualClock()
    ServerClock(postgres_url).follow(server)
    async with host(postgres_url, -86_400.0, server) as store:
        for n in range(3):
            server.advance(7)
            await store.put_many([Datum(f"{n}", b"", 0.0)], ttl=3)  # and the driver learns the types
            async with watched(store) as sent:
                await store.put(Datum(f"new {n}", b"", 0.0), ttl=3)
            assert len(sent) == 1
            assert [entry.stored_at for entry in await store.history(f"new {n}")] == [server.now]
            server.advance(3)
            assert await store.get(f"new {n}") is None


@pytest.mark.parametrize("step", [2 * TOLERANCE, -2 * TOLERANCE, 10 * 86_400.0, -10 * 86_400.0])
@pytest.mark.parametrize("whose", ["server", "host"])
async def test_a_step_of_a_clock_is_noticed_before_anything_is_written(
    postgres_url: str, step: float, whose: str
) -> None:
    server, local = ManualClock(), ManualClock()
    ServerClock(postgres_url).follow(server)
    store = PostgresBackend(postgres_url, "n", clock=local)
    try:
        await store.put(Datum("first", b"", 0.0))
        (server if whose == "server" else local).advance(step)
        put = await store.put(Datum("a", b"", 0.0), ttl=3)
        server.advance(2.5)
        assert await store.get("a") == put
        server.advance(0.5)
        assert await store.get("a") is None
        local.advance(3)
        async with watched(store) as sent:
            await store.put(Datum("b", b"", 0.0), ttl=3)
        assert len(sent) == 1, "the answer told the time anew"
    finally:
        await store.close()


async def test_the_life_of_what_waited_for_a_lock_begins_after_the_wait(postgres_url: str) -> None:
    """The other holds the head and changes nothing, so that PostgreSQL does not look at the conditions again."""
    server = ManualClock()
    ServerClock(postgres_url).follow(server)
    async with host(postgres_url, 0, server) as ours, host(postgres_url, 1, server) as other, asyncio.timeout(HANG):
        await ours.put(Datum("known", b"", 0.0))
        async with other.database.transaction() as tx:
            assert not await other.joined(tx).delete("nobody")
            waiting = asyncio.create_task(ours.put(Datum("lease", b"", 0.0), ttl=3))
            await blocked(postgres_url)
            server.advance(60)
        put = await waiting
        server.advance(2.5)
        assert await ours.get("lease") == put
        assert [entry.stored_at for entry in await ours.history("lease")] == [server.now - 2.5]


async def test_by_default_no_clock_of_the_process_is_asked(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10 * 86_400)
    store = PostgresBackend(postgres_url, "n")
    try:
        for id in ("first", "a"):  # in a transaction, and in one statement
            put = await store.put(Datum(id, b"", 0.0), ttl=600)
            assert await store.get(id) == put
            with pytest.raises(VersionConflict):
                await store.put(Datum(id, b"2", 0.0), expect=0)
        assert await store.compact() == 0
        with psycopg.connect(postgres_url) as connection:
            rows = connection.execute(
                "SELECT expires_at - stored_at, abs(stored_at - extract(epoch FROM now())) FROM dgent_datums"
            ).fetchall()
        assert len(rows) == 2
        assert all(life == 600 and off < 300 for life, off in rows)
    finally:
        await store.close()
