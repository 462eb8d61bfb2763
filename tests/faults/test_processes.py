"""Many processes, threads and tasks at one file: nothing lost, nobody refused, nobody locked out."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from tests.faults.processes import Child, ready, started, together
from tests.faults.stores import make, opened

from dgent.datum import Datum
from dgent.exceptions import StorageTimeout, VersionConflict
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.runtime.file_lock import FileLock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from dgent.sql import Database
    from dgent.store import Backend


async def increment(store: Backend, id: str = "n") -> None:
    """Read, add one and write, until nobody came between."""
    while True:
        found = await store.get(id)
        number = int(found.content) + 1 if found else 1
        try:
            await store.put(Datum(id, b"%d" % number, 1.0), expect=found.version if found else 0)
        except VersionConflict:
            continue
        return


def increment_often(pipe: Connection, number: int, kind: str, path: Path, times: int) -> None:
    async def main() -> None:
        store = make(kind, path)
        worst = 0.0
        for _ in range(times):
            start = time.perf_counter()
            await increment(store)
            worst = max(worst, time.perf_counter() - start)
        await store.close()
        pipe.send(worst)

    ready(pipe)
    try:
        asyncio.run(main())
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_no_update_is_lost_and_no_process_locked_out(tmp_path: Path, full_size: bool, kind: str) -> None:
    """Eight (four) processes count in one datum of a store that they also make.

    Mutant: `expect` not looked at (`_check_expected` emptied) counted to 61 of 100.
    """
    processes, times = (8, 300) if full_size else (4, 25)
    with started(processes, increment_often, kind, tmp_path / "store", times) as children:
        together(children)
        waits = [child.answer() for child in children]
    assert all(isinstance(wait, float) for wait in waits), waits
    print(f"worst wait of {kind}: {max(waits):.3f} s")
    async with opened(kind, tmp_path / "store") as store:
        found = await store.get("n")
        assert found is not None
        assert (int(found.content), found.version, found.seq) == (processes * times,) * 3


def open_and_put(pipe: Connection, number: int, kind: str, path: Path) -> None:
    async def main() -> None:
        store = make(kind, path)
        await store.put(Datum(f"from-{number}", b"x", 1.0))
        pipe.send((await store.get(f"from-{number}")) is not None)
        await store.close()

    ready(pipe)
    try:
        asyncio.run(main())
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_eight_processes_can_make_one_fresh_store_at_once(tmp_path: Path, full_size: bool, kind: str) -> None:
    for round in range(10 if full_size else 2):
        path = tmp_path / f"made-{round}" / "store"
        with started(8, open_and_put, kind, path) as children:
            together(children)
            assert [child.answer() for child in children] == [True] * 8
        async with opened(kind, path) as store:
            assert {datum.id for datum in await store.list()} == {f"from-{number}" for number in range(8)}


ADD = text("UPDATE counter SET n = n + 1")


async def in_a_transaction(store: SQLiteBackend) -> None:
    """Read, wait and write with the ORM's session: nobody else may write in between."""
    async with store.database.transaction() as tx:
        n = await tx.session.scalar(text("SELECT n FROM counter"))
        await asyncio.sleep(0)
        await tx.session.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})
        await store.joined(tx).put(Datum(f"n-{n + 1}", b"x", 1.0))


async def in_a_unit(database: Database) -> None:
    await database.write(lambda connection: connection.execute(ADD) and None)


def mix(pipe: Connection, number: int, path: Path, rounds: int) -> None:
    async def main() -> None:
        store = SQLiteBackend(path)
        await store.prepare()
        for _ in range(rounds):
            await asyncio.gather(
                *(in_a_transaction(store) for _ in range(3)),
                *(in_a_unit(store.database) for _ in range(3)),
                *(increment(store) for _ in range(2)),
            )
        await store.close()
        pipe.send("done")

    ready(pipe)
    try:
        asyncio.run(main())
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


async def test_orm_transactions_and_group_commits_of_many_processes_never_meet(
    sqlite_path: Path, full_size: bool
) -> None:
    """Mutant: `_write(turn)` taken out of `_session` gave "is locked by another process" at once."""
    processes, rounds = (4, 40) if full_size else (3, 4)
    store = SQLiteBackend(sqlite_path)
    await store.prepare()
    for statement in ("CREATE TABLE counter (n INTEGER)", "INSERT INTO counter VALUES (0)"):
        await store.database.write(lambda connection, sql=statement: connection.execute(text(sql)) and None)  # type: ignore[misc]
    with started(processes, mix, sqlite_path, rounds) as children:
        together(children)
        assert [child.answer() for child in children] == ["done"] * processes
    n = await store.database.read(lambda connection: connection.execute(text("SELECT n FROM counter")).scalar())
    assert n == processes * rounds * 6
    assert await store.count(prefix="n-") == processes * rounds * 3
    found = await store.get("n")
    assert found is not None
    assert int(found.content) == processes * rounds * 2
    await store.close()


def test_threads_with_loops_of_their_own_share_a_store(sqlite_path: Path, full_size: bool) -> None:
    times, threads = 200 if full_size else 20, 4
    store = SQLiteBackend(sqlite_path)

    async def main() -> None:
        for _ in range(times):
            await increment(store)
            async with store.database.transaction() as tx:
                found = await store.joined(tx).get("m")
                number = int(found.content) + 1 if found else 1
                await store.joined(tx).put(Datum("m", b"%d" % number, 1.0))

    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(asyncio.run, main()) for _ in range(threads)]:
            one.result()

    async def check() -> list[Any]:
        found = [await store.get(id) for id in ("n", "m")]
        await store.close()
        return [datum and int(datum.content) for datum in found]

    assert asyncio.run(check()) == [times * threads] * 2


def fork_while_locked(pipe: Connection, path: Path) -> None:
    """Take the lock, fork a child that lives on, and wait to be killed."""
    lock = FileLock(path, 1.0, sole=False)
    with lock:
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        pipe.send(child)
        time.sleep(600)


def test_a_lock_is_free_when_its_process_is_killed_though_a_child_of_it_lives(tmp_path: Path) -> None:
    """Mutant: without the hook in `file_lock` the child goes on holding it."""
    path = tmp_path / "lock"
    holder = Child(fork_while_locked, path)
    child = holder.answer()
    lock = FileLock(path, 0.01, sole=False)
    try:
        with pytest.raises(StorageTimeout), lock:
            pass
        holder.process.kill()
        holder.process.join()
        with lock:
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.close()
        lock.close()


async def test_reads_see_what_another_process_has_committed_at_once(sqlite_path: Path) -> None:
    """By every way to the file: on the caller's thread, on a reader's, and through the ORM."""
    mine, other = SQLiteBackend(sqlite_path), SQLiteBackend(sqlite_path)
    for number in range(20):
        await other.put(Datum("a", b"%d" % number, 1.0))
        short = await mine.get("a")
        with blocked(mine):
            hopped = await mine.get("a")
        (scanned,) = await mine.list(limit=1000)
        async with mine.database.transaction() as tx:
            joined = await mine.joined(tx).get("a")
        assert [datum and datum.text for datum in (short, hopped, scanned, joined)] == [str(number)] * 4
    await mine.close()
    await other.close()


class blocked:  # noqa: N801  # reads as a word of the test
    """Keep a store's reader on the caller's thread busy."""

    def __init__(self, store: SQLiteBackend) -> None:
        readers = store.database._readers  # type: ignore[attr-defined]
        self._free: threading.Lock = readers.inline._free

    def __enter__(self) -> None:
        assert self._free.acquire(blocking=False)

    def __exit__(self, *_: object) -> None:
        self._free.release()
