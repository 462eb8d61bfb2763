"""Law L-W2 between processes: eight append at once and lose nothing, and what was acknowledged survives kill -9."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.causal.log_locations import async_database
from tests.faults.processes import Child, ready, started, together
from tests.faults.stores import sync_engine

from dgent.causal.generation import Generation
from dgent.causal.hash_chain import FORMATS
from dgent.causal.writer_log import WriterLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection as Pipe

    from sqlalchemy import Connection, Engine

    from dgent.causal.hash_chain import Entry, Format

PROCESSES = 8
SHARED = ("shared", "one writer")


async def session(place: str, number: int, run: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[None]]) -> None:
    """Run with what writes a unit of work: a synchronous program where the number is even, else an asynchronous one."""
    if number % 2:
        database = async_database(place)
        try:
            await run(database.write)
        finally:
            await database.close()
        return
    engine = sync_engine(place)
    with engine.connect() as connection:

        async def write(work: Callable[[Connection], Any]) -> Any:
            with connection.begin():
                return work(connection)

        await run(write)
    engine.dispose()


def append_often(pipe: Pipe, number: int, place: str, format: str, times: int) -> None:
    log, done = WriterLog(FORMATS[format]), []

    async def run(write: Callable[[Any], Awaitable[Any]]) -> None:
        for at in range(times):
            payloads = [b"%d" % (number * times + at)] * (70 if at == 5 else 3 if at % 5 == 0 else 1)
            entries = await write(lambda connection, each=payloads: log.append_many(connection, *SHARED, each))
            assert [e.seq for e in entries] == list(range(entries[0].seq, entries[0].seq + len(payloads)))
            own = await write(lambda connection, at=at: log.append(connection, "own", f"w{number}", b"%d" % at))
            assert own.seq == at + 1
            count = await write(Generation("appends").bump)
            done.append((sum(int(payload) for payload in payloads), len(payloads), count))

    ready(pipe)
    try:
        asyncio.run(session(place, number, run))
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send(done)


def test_l_w2_eight_processes_append_without_an_error_or_a_gap(
    engine: Engine, place: str, format: Format, full_size: bool
) -> None:
    """Synchronous and asynchronous programs in turn, on one log and each on its own."""
    times = 200 if full_size else 12
    with started(PROCESSES, append_often, place, format.name, times) as children:
        together(children)
        done = [child.answer() for child in children]
    assert all(isinstance(one, list) for one in done), done
    log, flat = WriterLog(format), [step for one in done for step in one]
    with engine.begin() as connection:
        entries = log.entries(connection, *SHARED, limit=100_000)
        assert sum(int(entry.payload) for entry in entries) == sum(total for total, _, _ in flat)
        head = log.verify(connection, *SHARED)
        assert head.seq == len(entries) == sum(many for _, many, _ in flat)
        for number in range(PROCESSES):
            assert log.verify(connection, "own", f"w{number}").seq == times
            own = [int(entry.payload) for entry in entries if int(entry.payload) // times == number]
            assert own == sorted(own), "a writer's order was not kept"
        assert sorted(count for _, _, count in flat) == list(range(1, PROCESSES * times + 1))
        assert Generation("appends").current(connection) == PROCESSES * times


def append_without_end(pipe: Pipe, number: int, place: str, format: str) -> None:
    """Append, and say what was appended after the answer."""
    log = WriterLog(FORMATS[format])

    async def run(write: Callable[[Any], Awaitable[list[Entry]]]) -> None:
        at = 0
        while True:
            at += 1
            payloads = [b"%d %d" % (number, at)] * (1 + at % 3 * 50)
            entries = await write(lambda connection, each=payloads: log.append_many(connection, *SHARED, each))
            pipe.send((entries[-1].seq, entries[-1].content_hash))

    asyncio.run(session(place, number, run))


def test_l_w2_what_was_acknowledged_survives_kill_9(
    engine: Engine, place: str, format: Format, full_size: bool
) -> None:
    """Two appenders of one log are killed at a random moment; the log verifies, holds what they said, and goes on."""
    log, chance, known = WriterLog(format), random.Random(format.name), {}
    for _ in range(50 if full_size else 3):
        children = [Child(append_without_end, number, place, format.name) for number in (0, 1)]
        heard = [child.answer() for child in children for _ in range(chance.randint(1, 15))]
        time.sleep(chance.random() * 0.01)
        for child in children:
            heard += child.kill()
        known |= dict(heard)
        with engine.begin() as connection:
            after = log.append(connection, *SHARED, b"after")
            known[after.seq] = after.content_hash
            assert log.verify(connection, *SHARED).seq == after.seq
    with engine.begin() as connection:
        held = {entry.seq: entry.content_hash for entry in log.entries(connection, *SHARED, limit=10**6)}
        assert known.items() <= held.items()
        assert log.verify(connection, *SHARED).seq == len(held)


def bump_without_end(pipe: Pipe, place: str) -> None:
    async def run(write: Callable[[Any], Awaitable[int]]) -> None:
        while True:
            pipe.send(await write(Generation("report").bump))

    asyncio.run(session(place, 1, run))


@pytest.mark.parametrize("rounds", [2])
def test_l_w2_a_generation_does_not_move_back_over_kill_9(engine: Engine, place: str, rounds: int) -> None:
    last = 0
    for _ in range(rounds):
        child = Child(bump_without_end, place)
        heard = [child.answer() for _ in range(10)]
        heard += child.kill()
        assert heard == sorted(set(heard))
        assert heard[0] > last
        with engine.begin() as connection:
            last = Generation("report").bump(connection)
        assert last > heard[-1]
