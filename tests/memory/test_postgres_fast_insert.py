"""Puts of new ids in one statement: the same answers as in a transaction, whoever else writes and whatever breaks."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from tests.server_clock import ServerClock
from tests.sql.proxy import Proxy

from dgent.datum import Datum
from dgent.exceptions import CausalCycle, OutcomeUnknown, StorageTimeout, VersionConflict
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.operations import Delete, Put
from dgent.query import Query
from dgent.settings import Settings
from dgent.testing.contract_base import patience
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.memory.change import Change

HANG = patience(20.0)
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@asynccontextmanager
async def opened(url: str, namespace: str = "n", **rest: Any) -> AsyncIterator[PostgresBackend]:
    """Open a store that knows where the head of its namespace is."""
    settings = Settings.load(connect_timeout=patience(2), **rest.pop("settings", {}))
    ServerClock(url).follow(rest.get("clock"))
    store = PostgresBackend(url, namespace, settings=settings, **rest)
    try:
        await store.put(Datum(f"first of {id(store)}", b"", 0.0))
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def watched(store: PostgresBackend) -> AsyncIterator[list[str]]:
    """List the statements that the store writes with."""
    home = store.database._loop_state  # type: ignore[attr-defined]
    drivers = [link._opened.driver for link in home.writers._all]
    sent: list[str] = []

    def note(record: Any) -> None:
        sent.append(record.query)

    for driver in drivers:
        driver.add_query_logger(note)
    try:
        yield sent
    finally:
        for driver in drivers:
            driver.remove_query_logger(note)


async def blocked(url: str) -> None:
    """Wait until some connection waits for a lock."""
    connection = await asyncpg.connect(url)
    while not await connection.fetchval(_WAITING):
        await asyncio.sleep(0.005)
    await connection.close()


async def story(store: PostgresBackend) -> list[Datum]:
    """Return what is live in the order of the commits, after a look at what must be so at any time."""
    page = await store.list(limit=10_000, order="seq")
    revisions = [entry for datum in page for entry in await store.history(datum.id)]
    assert [entry.stored_at for entry in sorted(revisions, key=lambda entry: entry.seq)] == sorted(
        entry.stored_at for entry in revisions
    )
    assert len({entry.seq for entry in revisions}) == len(revisions)
    for datum in page:
        kept = [entry.version for entry in await store.history(datum.id)]
        assert kept == list(range(kept[0], kept[0] + len(kept)))
    return list(page)


async def test_what_is_put_in_one_statement_is_what_was_put(postgres_url: str) -> None:
    clock = ManualClock()
    async with opened(postgres_url, clock=clock) as store:
        for count, parent, tags, ttl in product([1, 3], [None, "parent"], [(), ("x", "y")], [None, 5.0, "keep"]):
            datums = [Datum.create(b"%d" % n, causal_parent=parent, tags=tags) for n in range(2 * count)]
            last = (await store.put_many(datums[count:], ttl=ttl))[-1].seq  # and the driver learns the types
            async with watched(store) as sent:
                put = await store.put_many(datums[:count], ttl=ttl)
            assert len(sent) == 1
            assert put == datums[:count]
            assert [(datum.version, datum.seq) for datum in put] == [(1, last + 1 + n) for n in range(count)]
            assert list((await store.get_many([datum.id for datum in put])).values()) == put
            assert {datum.id for datum in await store.query(Query(tags=["x"]))} == {d.id for d in datums if tags}
            assert [entry.stored_at for entry in await store.history(put[0].id)] == [clock.now]
            clock.advance(5)
            assert (await store.get(put[0].id) is None) is (ttl == 5.0)
            assert await store.delete_many([datum.id for datum in datums]) == (0 if ttl == 5.0 else 2 * count)


async def test_what_is_not_new_goes_the_long_way(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await store.put_many([Datum("a", b"1", 0.0), Datum("b", b"1", 0.0)])
        assert (await store.put(Datum("a", b"2", 0.0))).version == 2
        with pytest.raises(VersionConflict):
            await store.put(Datum("a", b"3", 0.0), expect=0)
        assert (await store.put(Datum("a", b"2", 0.0))).version == 2
        await store.delete("b")
        assert (await store.put(Datum("b", b"2", 0.0))).version == 3
        assert await store.compact(keep_versions=1) == 3
        async with opened(postgres_url) as other:
            assert (await other.put(Datum("b", b"3", 0.0))).version == 4, "its version 1 is gone, but it is not new"
        assert await store.purge("b") == 2
        assert (await store.put(Datum("b", b"4", 0.0))).version == 1
        twice = await store.put_many([Datum("c", b"1", 0.0), Datum("d", b"1", 0.0), Datum("c", b"2", 0.0)])
        assert [(datum.version, datum.seq) for datum in twice] == [(1, 10), (1, 11), (2, 12)]
        assert [datum.seq for datum in await story(store)] == [1, 4, 7, 9, 11, 12]


async def test_no_cycle_is_closed_by_a_new_id(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await store.put_many([Datum("c", b"", 0.0, "b"), Datum("b", b"", 0.0, "a")])
        for id, parent in (("a", "a"), ("a", "b"), ("a", "c")):
            with pytest.raises(CausalCycle):
                await store.put(Datum(id, b"", 0.0, parent))
        with pytest.raises(CausalCycle):
            await store.put_many([Datum("y", b"", 0.0, "x"), Datum("x", b"", 0.0, "y")])
        answers = await asyncio.gather(
            *(store.put(Datum(id, b"", 0.0, parent)) for id, parent in (("p", "q"), ("q", "r"), ("r", "p"))),
            return_exceptions=True,
        )
        assert [isinstance(answer, CausalCycle) for answer in answers] == [False, False, True]
        await store.put(Datum("a", b"", 0.0, "r"))
        assert [datum.id for datum in await store.causal_chain("c")] == ["a", "b", "c"]


async def test_writers_of_one_namespace_tell_one_story(postgres_url: str) -> None:
    """Each is a process for the server: own connections, own idea of the head.

    Mutants: no `h.seq == from_seq` failed with equal seqs; no test for known ids broke versions.
    """
    chance = random.Random(4)
    won: dict[str, int] = {}
    seen: list[Datum] = []

    async def write(store: PostgresBackend, writer: int) -> None:
        for n in range(40):
            id = f"new-{writer}-{n}" if chance.random() < 0.7 else f"shared-{chance.randrange(8)}"
            expect = chance.choice([None, 0])
            try:
                put = await store.put(Datum(id, f"{writer}-{n}".encode(), 0.0), expect=expect)
            except VersionConflict:
                assert id.startswith("shared")
                continue
            won[id] = max(put.version, won.get(id, 0))
            if chance.random() < 0.1:
                await store.compact(keep_versions=3)

    async def follow(store: PostgresBackend) -> None:
        while True:
            last = seen[-1].seq if seen else 0
            seen.extend(await store.query(Query(after_seq=last, order="seq", prefix="new-", limit=1000)))
            await asyncio.sleep(0.002)

    async with AsyncExitStack() as stack, asyncio.timeout(HANG):
        stores = [await stack.enter_async_context(opened(postgres_url)) for _ in range(3)]
        following = asyncio.create_task(follow(stores[0]))
        await asyncio.gather(*(write(store, 3 * k + n) for n in range(3) for k, store in enumerate(stores)))
        live = [datum for datum in await story(stores[1]) if not datum.id.startswith("first")]
        assert {datum.id: datum.version for datum in live} == won
        new = [datum for datum in live if datum.id.startswith("new-")]
        while len(seen) < len(new):
            await asyncio.sleep(0.01)
        following.cancel()
        assert seen == new, "a reader of seq > s missed a later commit with a smaller seq"


@pytest.mark.parametrize("end", ["commit", "roll back", "purge"])
async def test_who_waited_for_another_writer_looks_again(postgres_url: str, end: str) -> None:
    """The other takes the head after ours has looked; ours waits for its row and must see what became of it."""
    async with opened(postgres_url) as ours, opened(postgres_url) as other, asyncio.timeout(HANG):
        await ours.put(Datum("known", b"", 0.0))
        async with watched(ours) as sent:
            with suppress(ZeroDivisionError):
                async with other.database.transaction() as tx:
                    joined = other.joined(tx)
                    await (joined.purge("known") if end == "purge" else joined.put(Datum("a", b"other", 0.0)))
                    waiting = asyncio.create_task(ours.put(Datum("a", b"ours", 0.0)))
                    await blocked(postgres_url)
                    if end == "roll back":
                        raise ZeroDivisionError
            put = await waiting
        assert (put.version, put.seq) == ((2, 5) if end == "commit" else (1, 4))
        assert len(sent) == 1 or end == "commit"
        await story(ours)


async def test_a_statement_that_comes_late_does_nothing(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        writer = store._writer("n")
        late = writer.attempt([[Put(Datum("a", b"", 0.0))]])
        assert late is not None
        assert await store.database.write(late.look) is None
        assert await store.database.read(late.run) is None
        assert await store.get("a") is None
        await store.put(Datum("a", b"another", 0.0))
        assert await store.database.write(late.look) is None, "it is in, but from somebody else"
        await store.put(Datum("b", b"", 0.0))
        assert writer.attempt([[Delete("c")]]) is writer.attempt([[Put(Datum("c", b"", 0.0), 1)]]) is None
        assert writer.attempt([[Put(Datum("c", b"", 0.0), 0)]]) is not None


@pytest.mark.parametrize("held", [False, True], ids=["the server notices", "the server does not notice"])
@pytest.mark.parametrize("delivered", [False, True], ids=["before the server has it", "after"])
async def test_a_lost_answer_is_cleared_up(postgres_url: str, delivered: bool, held: bool) -> None:
    changes: list[Change] = []
    async with (
        asyncio.timeout(HANG),
        Proxy(postgres_url) as proxy,
        opened(proxy.url, on_change=changes.append) as store,
    ):
        await store.put(Datum("before", b"", 0.0))
        proxy.cut_when(b"lost-id", delivered=delivered, held=held)
        put = await store.put(Datum("lost-id", b"", 0.0), expect=0)
        assert proxy.sprung == 1
        assert (put.version, put.seq) == (1, 3 if delivered else 4)
        assert await store.get("lost-id") == put
        assert [entry.seq for entry in await store.history("lost-id")] == [put.seq]
        assert [change.id for change in changes[1:]] == ["before", "lost-id"]
        await store.put(Datum("after", b"", 0.0), expect=0)
        await story(store)


async def test_a_lost_answer_that_nobody_can_clear_up_is_unknown(postgres_url: str) -> None:
    async with asyncio.timeout(HANG), Proxy(postgres_url) as proxy, opened(proxy.url) as store:
        proxy.cut_when(b"lost-id", delivered=True)
        putting = asyncio.create_task(store.put(Datum("lost-id", b"", 0.0)))
        while not proxy.sprung:
            await asyncio.sleep(0)
        proxy.refuse()
        with pytest.raises(OutcomeUnknown):
            await putting
        proxy.recover()
        assert (await store.put(Datum("lost-id", b"", 0.0))).version == 1, "a put may simply be repeated"


async def test_who_waits_too_long_is_told_and_nothing_comes_later(postgres_url: str) -> None:
    limits = {"command_timeout": 0.2}
    async with opened(postgres_url, settings=limits) as ours, opened(postgres_url) as other:
        await ours.put(Datum("known", b"", 0.0))
        async with other.database.transaction() as tx:
            await other.joined(tx).purge("known")
            with pytest.raises(StorageTimeout):
                await ours.put(Datum("late", b"", 0.0))
        assert await ours.get("late") is None
        assert (await ours.put(Datum("late", b"", 0.0))).seq == 4


async def test_a_clock_that_is_behind_never_turns_time_back(postgres_url: str) -> None:
    ahead, behind = ManualClock(2_000.0), ManualClock(1_000.0)
    async with opened(postgres_url, clock=ahead) as one, opened(postgres_url, clock=behind) as two:
        for n in range(6):
            await (one if n < 2 else two).put(Datum(f"{n}", b"", 0.0))
        await story(one)
        assert [(await one.history(f"{n}"))[0].stored_at for n in range(6)] == [2_000.0] * 6


async def test_a_server_that_refuses_the_statement_gets_transactions(postgres_url: str) -> None:
    """As one may whose rows lie on several machines."""
    async with opened(postgres_url) as store:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF current_query() ~ '^WITH head' "
            "THEN RAISE feature_not_supported; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON dgent_heads FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        await connection.close()
        async with watched(store) as sent:
            put = [await store.put(Datum(f"{n}", b"", 0.0)) for n in range(40)]
        assert [datum.seq for datum in put] == list(range(2, 42))
        assert 0 < sum("WITH head" in query for query in sent) < 10


async def test_what_is_in_vain_is_tried_less_and_less(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await store.put(Datum("a", b"0", 0.0))
        async with watched(store) as sent:
            for n in range(1, 101):
                await store.put(Datum("a", b"%d" % n, 0.0))
        assert sum("WITH head" in query for query in sent) < 10
        async with watched(store) as sent:
            for n in range(100):
                await store.put(Datum(f"new-{n}", b"", 0.0))
        assert len([query for query in sent if query.startswith("BEGIN")]) < 64
        await store.put(Datum("a", b"once", 0.0))
        async with watched(store) as sent:
            await store.put(Datum("new", b"", 0.0))
        assert len(sent) == 1
