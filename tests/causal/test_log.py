"""The asynchronous face of the logs: appends of many tasks, in and outside of transactions, on both databases."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.causal.async_logs import append_some, by_writer, committed, opened, whole
from tests.faults.processes import started

from dgent import Datum, StorageProvider
from dgent.causal import AsyncGeneration, keys
from dgent.causal.hash_chain import FORMATS, Format
from dgent.causal.log_tables import generations
from dgent.exceptions import (
    CapabilityMissing,
    ChainBroken,
    InvalidCheckpoint,
    InvalidDatum,
    InvalidInput,
    InvalidQuery,
    LimitExceeded,
    MalformedRow,
    NonMonotonicGeneration,
    ReadOnly,
    TransactionOpen,
)
from dgent.migrations import include_name
from dgent.models import Crystal
from dgent.sql.table_set import TableSet
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection

    from dgent.causal import AsyncLog


class Fault(Exception):  # what a test throws is a fault
    pass


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def log(url: str) -> AsyncIterator[AsyncLog]:
    async with opened(url) as log:
        yield log


@pytest.fixture
async def storage(url: str, tmp_path: Path) -> AsyncIterator[StorageProvider]:
    async with await StorageProvider.from_config(database_url=url, data_dir=tmp_path, synchronous="NORMAL") as storage:
        await storage.run_migrations()
        yield storage


async def test_appends_of_many_tasks(log: AsyncLog) -> None:
    async def task(number: int) -> list[int]:
        return [(await log.append("s", f"w{number % 3}", b"%d %d" % (number, turn))).seq for turn in range(5)]

    seqs = await asyncio.gather(*map(task, range(30)))
    for number in range(3):
        mine = sorted(seq for at in range(number, 30, 3) for seq in seqs[at])
        assert mine == [*range(1, 51)], "each caller got an entry of its own, and there is no gap"
        assert (await log.verify("s", f"w{number}")).seq == 50
    for entry in await log.entries("s", "w1", limit=5):
        number, turn = map(int, entry.payload.split())
        assert seqs[number][turn] == entry.seq, "what a caller was told is where its payload lies"


_batches = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.lists(st.binary(max_size=4), max_size=12))
)


@given(rounds=st.lists(_batches, max_size=3))
@settings(max_examples=20)
def test_batches_that_go_together_are_in_the_order_they_came(
    rounds: list[list[tuple[str, str, list[bytes]]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path_factory.mktemp('logs')}/membrane.db") as log:
            told: dict[tuple[str, str], dict[int, bytes]] = {}
            for batches in rounds:
                answers = await asyncio.gather(*(log.append_many(*batch) for batch in batches))
                for (stream, writer, payloads), entries in zip(batches, answers, strict=True):
                    assert [entry.payload for entry in entries] == payloads
                    seqs = [entry.seq for entry in entries]
                    assert seqs == [*range(seqs[0], seqs[0] + len(seqs))] if seqs else True, "next to each other"
                    told.setdefault((stream, writer), {}).update(zip(seqs, payloads, strict=True))
            for place, payloads_of in told.items():
                stored = await log.entries(*place)
                assert {entry.seq: entry.payload for entry in stored} == payloads_of
                assert (await log.verify(*place)).seq == len(payloads_of)

    asyncio.run(run())


async def test_each_caller_gets_its_own_error(log: AsyncLog, url: str) -> None:
    await log.append_many("s", "damaged", [b"1", b"2"])
    await log.append("s", "sound", b"1")
    broken = log._log.format.table.update().where(log._log.format.table.c.writer == "damaged").values(content_hash=b"")
    await log.database.write(lambda connection: connection.execute(broken) and None)
    answers = await asyncio.gather(
        log.append("s", "sound", b"2"), log.append("s", "damaged", b"3"), log.append("s", "new", b"1"),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(answer).__name__ for answer in answers] == ["Entry", "MalformedRow", "Entry"]
    with pytest.raises(ChainBroken) as caught:
        await log.verify("s", "damaged")
    assert caught.value.seq == 1
    assert (await log.verify("s", "sound")).seq == 2


async def test_what_no_log_takes_is_refused(sqlite_path: Path) -> None:
    async with opened(f"sqlite:///{sqlite_path}", max_content=10) as log:
        for stream, writer, payload in (("", "w", b""), ("s", "w\0", b""), ("s", "w", "text")):
            with pytest.raises(InvalidDatum):
                await log.append(stream, writer, payload)  # type: ignore[arg-type]
        with pytest.raises(LimitExceeded):
            await log.append_many("s", "w", [b"short", b"x" * 11])
        with pytest.raises(LimitExceeded):
            await log.entries("s", "w", limit=10**9)
        with pytest.raises(InvalidInput):
            log.within("agent-store/2")
        with pytest.raises(InvalidQuery):
            log.follow("s", after=3)
        assert await log.append_many("s", "w", []) == []
        assert await log.head("s", "w") == (0, None)
        assert await log.streams() == []


async def test_reads(log: AsyncLog) -> None:
    for number in range(3):
        await log.append_many("s", f"w{number}", [b"%d" % seq for seq in range(number + 1)])
    await log.append("t", "w0", b"")
    assert (await log.streams(), await log.writers("s")) == (["s", "t"], ["w0", "w1", "w2"])
    assert [(entry.writer, entry.seq) for entry in await log.merged("s", after={"w2": 1}, limit=4)] == [
        ("w0", 1), ("w1", 1), ("w1", 2), ("w2", 2),
    ]  # fmt: skip
    entries = await log.entries("s", "w2", after=1, limit=1)
    assert [(entry.seq, entry.payload) for entry in entries] == [(2, b"1")]
    last = (await log.entries("s", "w2"))[-1]
    assert await log.head("s", "w2") == (last.seq, last.content_hash)


async def test_the_formats_have_tables_of_their_own(log: AsyncLog) -> None:
    crate = log.within("agent-store/1")
    await crate.append("s", "w", b"theirs")
    assert (log.format, crate.format) == ("dgent/1", "agent-store/1")
    assert await log.streams() == []
    (entry,) = await crate.entries("s", "w")
    assert (entry.format, entry.payload) == ("agent-store/1", b"theirs")


async def test_verify_reads_some_at_a_time(log: AsyncLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgent.causal.async_log.AT_ONCE", 500)
    await log.append_many("s", "w", [b"%d" % number for number in range(1200)])
    pages: list[int] = []
    appends: list[asyncio.Task[object]] = []

    def progress(count: int) -> None:
        pages.append(count)
        if len(pages) == 1:
            appends.append(asyncio.create_task(log.append("s", "w", b"meanwhile")))

    head = await log.verify("s", "w", progress=progress)
    assert (await appends[0]).seq == 1201
    assert head.seq in {1200, 1201}, "who appends meanwhile is let in"
    assert sum(pages) == head.seq
    assert len(pages) >= 3
    table = log._log.format.table
    await log.database.write(
        lambda connection: (
            connection.execute(table.update().where(table.c.seq == 777).values(payload=b"forged")) and None
        )
    )
    with pytest.raises(ChainBroken) as caught:
        await log.verify("s", "w")
    assert caught.value.seq == 777


async def test_the_tables_are_made_once(log: AsyncLog, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    prepare = TableSet.prepare

    def counted(tables: TableSet, connection: Connection) -> str:
        made.append(prepare(tables, connection))
        return made[-1]

    monkeypatch.setattr(TableSet, "prepare", counted)
    counter = AsyncGeneration(log.database, "g")
    await asyncio.gather(log.append("s", "w", b""), counter.bump(), log.within("agent-store/1").head("s", "w"))
    await log.streams()
    assert len(made) == 1


async def test_a_transaction_takes_all_or_none(storage: StorageProvider, url: str) -> None:
    rings: list[int] = []
    storage.doorbell.subscribe(lambda event: rings.append(event.seq))

    async def write(*, fails: bool) -> None:
        async with storage.transaction() as tx:
            datum = await tx.memory.put(Datum.create(b"d", id="d"))
            tx.session.add(Crystal(id="c", content_hash="h", summary="s", tags=[], datum_id=datum.id))
            await tx.session.flush()
            await tx.log.append("s", "w", b"1")
            await tx.log.append_many("s", "w", [b"x"] * 20)
            assert await tx.generation("g").bump() == 1
            assert (await tx.log.head("s", "w")).seq == 21, "a transaction sees what it wrote"
            assert not rings
            if fails:
                raise Fault

    with suppress(Fault):
        await write(fails=True)
    assert (await storage.log.head("s", "w")).seq == 0, "the tables, made in it, went with it, and came back"
    assert await storage.memory.get("d") is None
    assert (await storage.generation("g").current(), rings) == (0, [])
    await write(fails=False)
    assert (await storage.log.verify("s", "w")).seq == 21
    assert await storage.memory.get("d") is not None
    assert await storage.table(Crystal).exists("c")
    assert (await storage.generation("g").current(), rings) == (1, [*range(1, 22)])


async def test_a_savepoint_undoes_its_own_part(storage: StorageProvider) -> None:
    rings: list[bytes] = []
    storage.doorbell.subscribe(lambda event: rings.append(event.content_hash))
    async with storage.transaction() as tx:
        first = await tx.log.append("s", "w", b"1")
        with suppress(Fault):
            async with storage.transaction() as inner:
                await inner.log.append("s", "w", b"undone")
                raise Fault
        second = await tx.log.append("s", "w", b"2")
    assert [entry.payload for entry in await storage.log.entries("s", "w")] == [b"1", b"2"]
    assert rings == [first.content_hash, second.content_hash]


async def test_beside_an_open_transaction(storage: StorageProvider) -> None:
    async with storage.transaction() as tx:
        await tx.log.append("s", "w", b"1")
        with pytest.raises(TransactionOpen):
            await asyncio.create_task(storage.log.append("s", "w", b"2"))
        for log in (tx.log, storage.log):
            with pytest.raises(CapabilityMissing):
                log.follow("s")
    assert (await storage.log.head("s", "w")).seq == 1


async def test_transactions_and_appends_take_turns(storage: StorageProvider) -> None:
    async def task(number: int) -> None:
        for _ in range(4):
            if number % 2:
                await storage.log.append("s", "w", b"alone")
                continue
            with suppress(Fault):
                async with storage.transaction() as tx:
                    await tx.log.append("s", "w", b"in")
                    await asyncio.sleep(0)
                    await tx.log.append("s", "w", b"in")
                    if number == 4:
                        raise Fault

    await asyncio.gather(*map(task, range(8)))
    assert (await storage.log.verify("s", "w")).seq == 16 + 3 * 4 * 2


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_appends_leave_no_half_and_no_gap(log: AsyncLog, seed: int) -> None:
    chance = random.Random(seed)
    await log.append("s", "w", b"first")

    async def pair(number: int) -> list[int]:
        return [entry.seq for entry in await log.append_many("s", "w", [b"%d" % number] * 2)]

    tasks = [asyncio.create_task(pair(number)) for number in range(60)]
    for task in chance.sample(tasks, 30):
        await asyncio.sleep(chance.choice([0, 0, 0.0005]))
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert (await log.append("s", "w", b"last")).seq % 2 == 0, "two at a time, or none"
    stored = await log.entries("s", "w")
    assert whole(entry.seq for entry in stored)
    assert (await log.verify("s", "w")).seq == len(stored)
    for number, answer in enumerate(answers):
        if not isinstance(answer, BaseException):
            assert [stored[seq - 1].payload for seq in answer] == [b"%d" % number] * 2, "what was acknowledged is in"
    held = [entry.payload for entry in stored[1:-1]]
    assert held[::2] == held[1::2]


async def test_processes_append_to_one_log(log: AsyncLog, url: str) -> None:
    with started(3, append_some, url, 15) as children:
        for _ in range(15):
            await log.append("stream", "shared", b"here")
        assert [await asyncio.to_thread(child.answer) for child in children] == ["done"] * 3
    seqs = by_writer(await log.merged("stream"))
    assert {writer: len(found) for writer, found in seqs.items()} == {
        "shared": 60, "process-0": 15, "process-1": 15, "process-2": 15,
    }  # fmt: skip
    assert all(map(whole, seqs.values()))
    assert (await log.verify("stream", "shared")).seq == 60
    assert committed(url, "SELECT count(*) FROM dgent_log") == [(105,)]


async def test_a_generation_never_moves_back(log: AsyncLog) -> None:
    counter = AsyncGeneration(log.database, "report")
    assert await counter.current() == 0
    assert sorted(await asyncio.gather(*(counter.bump() for _ in range(20)))) == [*range(1, 21)]
    assert await counter.set(30) == 30
    with pytest.raises(NonMonotonicGeneration):
        await counter.set(29)
    with pytest.raises(InvalidInput):
        await counter.set(-1)
    assert await AsyncGeneration(log.database, "report").bump() == 31
    with pytest.raises(InvalidDatum):
        AsyncGeneration(log.database, "")


def test_two_event_loops_one_after_another(sqlite_path: Path) -> None:
    storage = asyncio.run(StorageProvider.from_config(data_dir=sqlite_path.parent, synchronous="NORMAL"))

    async def one(number: int) -> list[int]:
        task = asyncio.create_task(anext(storage.log.follow("s", after={"w": number})))
        await asyncio.sleep(0)
        await storage.log.append("s", "w", b"x")
        return [(await task).seq, await storage.generation("g").bump()]

    assert [asyncio.run(one(0)), asyncio.run(one(1))] == [[1, 1], [2, 2]]
    asyncio.run(storage.close())


async def test_malformed_rows_are_told_of(log: AsyncLog) -> None:
    await log.append("s", "w", b"1")
    table = log._log.format.table
    await log.database.write(
        lambda connection: connection.execute(table.update().values(content_hash=b"short")) and None
    )
    with pytest.warns(DamagedWarning):
        entries = await log.entries("s", "w")
    assert (entries, [(each.id, each.version) for each in entries.damaged]) == ([], [("w", 1)])
    with pytest.raises(MalformedRow):
        await anext(log.follow("s"))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_host_application_leaves_the_tables_alone(format: Format) -> None:
    assert not any(include_name(table, "table") for table in (format.table.name, generations.name))
    assert include_name("agent_store_log", "table")


async def test_a_log_is_signed_and_compared(log: AsyncLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgent.causal.async_log.AT_ONCE", 3)
    key = keys.generate(tmp_path / "key")
    own = str(key.fingerprint)
    with pytest.raises(InvalidCheckpoint, match="empty"):
        await log.sign("s", own, key)
    await log.append_many("s", own, [b"%d" % number for number in range(7)])
    first = await log.sign("s", own, key)
    assert (first.seq, await log.latest("s", own), await log.signed_places()) == (7, first, [("s", own)])
    await log.append_many("s", own, [b"more"] * 4)
    seen: list[int] = []
    second = await log.sign("s", own, key, since=first, progress=seen.append)
    assert (second.seq, sum(seen)) == (11, 4)  # only what came since is recomputed
    for named in ({"against": first}, {"against": second}, {"since": first, "against": second}, {"since": second}):
        assert await log.verify("s", own, **named) == second.head
    with pytest.raises(InvalidCheckpoint, match="older"):
        await log.verify("s", own, since=second, against=first)

    table = log._log.format.table
    await log.database.write(lambda connection: connection.execute(table.delete().where(table.c.seq > 9)) and None)
    assert (await log.verify("s", own, against=first)).seq == 9
    for named in ({"against": second}, {"since": second}):
        with pytest.raises(ChainBroken, match="cut off") as cut:
            await log.verify("s", own, **named)
        assert cut.value.seq == 10
    with pytest.raises(ChainBroken, match="cut off"):
        await log.sign("s", own, key)  # nobody signs what contradicts his last signature

    await log.append("s", "alice", b"x")
    with pytest.raises(InvalidCheckpoint, match="its writer is who does"):
        await log.sign("s", own, keys.generate(tmp_path / "other"))
    seal = await log.sign("s", "alice", key)
    with pytest.raises(InvalidCheckpoint, match="trusted"):
        await log.verify("s", "alice", against=seal)
    assert (await log.verify("s", "alice", against=seal, trusted=[key.fingerprint])).seq == 1


@pytest.mark.parametrize("by", ["a file", "a role"])
async def test_where_nothing_can_be_made_a_log_that_is_not_there_is_empty(
    by: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Until somebody who may has made it: the reader need not begin anew."""
    if by == "a file":
        url = f"sqlite:///{tmp_path / 'membrane.db'}"
        readable = f"{url}?mode=ro"
    else:
        url = request.getfixturevalue("postgres_url")
        readable = f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    async with await StorageProvider.from_config(database_url=url, data_dir=tmp_path) as writer:
        await writer.run_migrations()
        await writer.memory.put(Datum.create("x"))
        async with await StorageProvider.from_config(database_url=readable, data_dir=tmp_path) as reader:
            log = reader.log
            assert await log.entries("s", "w") == await log.merged("s") == []
            assert (await log.streams(), await log.writers("s"), await log.signed_places()) == ([], [], [])
            assert (await log.head("s", "w")).seq == (await log.verify("s", "w")).seq == 0
            assert await log.latest("s", "w") is None
            assert await reader.generation("g").current() == 0
            many = [b"x"] * 100
            for write in (log.append("s", "w", b"x"), log.append_many("s", "w", many), reader.generation("g").bump()):
                with pytest.raises(ReadOnly, match="can only be read"):
                    await write
            await writer.log.append("s", "w", b"x")
            assert [entry.payload for entry in await log.entries("s", "w")] == [b"x"]
            with pytest.raises(ReadOnly, match="can only be read"):
                await log.append("s", "w", b"x")
