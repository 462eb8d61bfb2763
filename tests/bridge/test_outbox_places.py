"""An outbox finds what waits for its memory under other names and places of that, whenever it came there."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.memory.switchable_backend import Switchable

from dgent.bridge import Outbox, unit_of_work
from dgent.bridge import outbox as outbox_module
from dgent.datum import Datum
from dgent.delivery import DeliveryReport, KnownTarget, Queue, QueuedWrite, page_delivery
from dgent.exceptions import BackendUnavailable, VersionConflict
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.operations import Put

from .conftest import opened
from .test_unit_of_work import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dgent.sql import Database


@asynccontextmanager
async def program(url: str, path: Path, name: str) -> AsyncIterator[tuple[Database, Any]]:
    """Return a database and a memory that goes by a name, as one of several programs has them."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(opened(url))
        store = JSONLBackend(path)
        stack.push_async_callback(store.close)
        memory: Any = Switchable(store)
        memory.where = name
        yield database, memory


async def write(database: Database, memory: Any, id: str, content: bytes = b"x") -> None:
    async with unit_of_work(database, memory) as tx:
        await tx.memory.put(Datum(id, content, 0.0))


async def leave(database: Database, memory: Any, id: str, content: bytes = b"x") -> None:
    """Commit a write and die before the delivery."""
    box = Outbox(database, memory)
    await box.prepare()
    async with database.transaction() as transaction:
        await box.add(transaction, [Put(Datum(id, content, 0.0))])


async def test_programs_that_know_a_memory_by_two_names_find_what_the_other_one_left(url: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    async with program(url, path, "one:5432") as one, program(url, path, "two:5432") as two:
        await write(*one, "x")
        await write(*two, "y")
        await leave(*one, "running beside")
        assert await Outbox(*two).reconcile() == DeliveryReport(1)
        await leave(*one, "killed")
    async with program(url, path, "two:5432") as later:
        assert await Outbox(*later).reconcile() == DeliveryReport(1)
        assert {datum.id for datum in await later[1].list()} == {"x", "y", "running beside", "killed"}


async def test_what_one_name_has_delivered_is_no_strangers_write_under_the_other(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_delivery, "LEASE", 0.2)  # which is waited for: one of them leaves a plan behind
    path = tmp_path / "memory.jsonl"
    async with program(url, path, "one:5432") as one, program(url, path, "two:5432") as two:
        await write(*two, "x", b"0")  # a receipt under this name, of version 1
        one[1].switch.before = _only_once("put")
        async with unit_of_work(*one) as tx:
            await tx.memory.put(Datum("x", b"1", 0.0))
            await tx.memory.put(Datum("x", b"2", 0.0))
        assert await Outbox(*two).reconcile() == DeliveryReport(1)
        assert [each.datum.content for each in await two[1].history("x")] == [b"0", b"1", b"2"]


def _only_once(verb: str) -> Any:
    calls: list[str] = []

    def before(called: str) -> None:
        calls.append(called)
        if calls.count(verb) > 1:
            raise BackendUnavailable("it went away")

    return before


async def test_the_place_of_a_memory_that_was_away_is_noted_as_soon_as_it_answers(url: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    async with program(url, path, "one:5432") as (database, memory):
        memory.switch.on = False
        await write(database, memory, "x")
        memory.switch.on = True
        await leave(database, memory, "y")
    async with program(url, path, "two:5432") as later:
        assert await Outbox(*later).reconcile() == DeliveryReport(2)


async def test_what_waits_under_another_name_is_fetched_once_a_memory_that_was_away_answers(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "memory.jsonl"
    async with program(url, path, "one:5432") as one:
        await leave(*one, "x")
    async with program(url, path, "two:5432") as (database, memory):
        memory.switch.on = False
        await write(database, memory, "y")
        assert (await Outbox(database, memory).reconcile()).waiting == 1
        memory.switch.on = True
        assert await Outbox(database, memory).reconcile() == DeliveryReport(2)


async def test_what_an_older_program_leaves_beside_a_newer_one_is_found(database: Database) -> None:
    """As in a rolling upgrade: it goes on under the name that is the namespace alone."""
    memory = MemoryBackend()
    await write(database, memory, "new")
    await leave_as_format_2(database, 1)
    assert await Outbox(database, memory).reconcile() == DeliveryReport(1)
    assert await memory.exists("i0")


async def leave_as_format_2(database: Database, count: int) -> Queue:
    queue, now = Queue(SqlBackend(database), "outbox:default"), time.time()
    await queue.append(
        [QueuedWrite("default", f"i{n % 50}", Datum(f"i{n % 50}", b"%d" % n, 0.0), None, now, KnownTarget(now))
         for n in range(count)]
    )  # fmt: skip
    return queue


async def test_a_long_queue_is_taken_over_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off in the middle, as by `transaction_timeout`, goes on where it was."""
    memory = MemoryBackend()
    former = await leave_as_format_2(database, 100)
    forget, calls = Queue.forget, []

    async def third_time_unlucky(queue: Queue, entries: Any) -> None:
        calls.append(len(entries))
        if len(calls) == 3:
            raise Fault
        await forget(queue, entries)

    with monkeypatch.context() as cut, pytest.raises(Fault):  # noqa: PT012  # only what is cut off raises it
        cut.setattr(Queue, "forget", third_time_unlucky)
        await Outbox(database, memory).prepare()
    assert (await former.count())[0] == 100 - 2 * 32
    assert await Outbox(database, memory).reconcile() == DeliveryReport(100)
    for n in range(50):
        assert [each.datum and each.datum.content for each in await memory.history(f"i{n}")] == [
            b"%d" % n,
            b"%d" % (n + 50),
        ]


@pytest.mark.parametrize("verb", ["prepare", "reconcile"])
async def test_what_is_taken_over_inside_of_a_transaction_is_part_of_it(database: Database, verb: str) -> None:
    memory = MemoryBackend()
    former = await leave_as_format_2(database, 70)
    with suppress(Fault):
        async with database.transaction():
            await Outbox(database, memory).prepare()
            assert (await former.over(SqlBackend(database).joined(database.current() or database)).count())[0] == 0
            raise Fault
    assert (await former.count())[0] == 70
    await getattr(Outbox(database, memory), verb)()
    await Outbox(database, memory).reconcile()
    assert await memory.count() == 50


async def test_what_another_program_delivers_is_left_to_it_and_looked_at_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def busy(*_: Any) -> None:
        raise VersionConflict("x", 1, 2)

    memory = MemoryBackend()
    await leave_as_format_2(database, 1)
    with monkeypatch.context() as beside:
        beside.setattr(outbox_module, "move_all", busy)
        await write(database, memory, "y")
    assert "another program delivers what waits under 'outbox:default'" in caplog.text
    assert await memory.exists("y")
    await write(database, memory, "z")  # looks again
    assert await memory.exists("i0")


async def test_what_was_written_later_is_delivered_later_under_whatever_names(url: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    async with program(url, path, "one:5432") as one, program(url, path, "two:5432") as (database, memory):
        await leave(*one, "x", b"1")
        memory.switch.on = False
        for n in (2, 3):
            await write(database, memory, "x", b"%d" % n)
        memory.switch.on = True
        await leave(*one, "x", b"4")
        assert await Outbox(database, memory).reconcile() == DeliveryReport(4)
        assert [each.datum.content for each in await memory.history("x")] == [b"1", b"2", b"3", b"4"]
