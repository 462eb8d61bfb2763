"""A caller that is cancelled at any await leaves no half write, no stuck lock, no connection, task or thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest
from sqlalchemy import text
from tests.faults.stores import opened, sqlite

from dgent import migrations
from dgent.datum import Datum
from dgent.exceptions import StorageError
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.store import Backend

HANG = patience(20.0)
"""Seconds after which something counts as hung; nothing here is near it."""


MOMENTS: Final[list[float | Literal["once", "done"]]] = ["once", "done", 0.0, 0.001, 0.0003, 0.004]


class CancelledAt:
    """Awaits something and cancels its own task at the n-th suspension.

    It does so at once, or "done": when the answer is there but not yet taken, or so many seconds later.
    """

    def __init__(self, awaitable: Awaitable[Any], at: int, after: float | Literal["once", "done"]) -> None:
        self._awaitable, self._at, self._after = awaitable, at, after
        self.suspensions = 0

    def _cancel(self, task: asyncio.Task[Any], waiting: asyncio.Future[Any] | None) -> None:
        if self._after == "once" or waiting is None:
            task.cancel()
        elif self._after == "done":
            waiting.add_done_callback(lambda _: task.cancel())  # before the task hears of it
        else:
            asyncio.get_running_loop().call_later(self._after, task.cancel)

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, task = self._awaitable.__await__(), asyncio.current_task()
        assert task is not None
        step: Callable[[], Any] = lambda: next(steps)  # noqa: E731  # what comes next depends on what came
        while True:
            try:
                waiting = step()
            except StopIteration as done:
                return done.value
            if self.suspensions == self._at:
                self._cancel(task, waiting)
            self.suspensions += 1
            try:
                value = yield waiting
                step = lambda value=value: steps.send(value)  # type: ignore[misc]  # noqa: E731
            except BaseException as error:  # handed on to where it belongs
                step = lambda error=error: steps.throw(error)  # type: ignore[misc]  # noqa: E731


async def cancelled_everywhere(
    make: Callable[[int], Awaitable[Any]], check: Callable[[int, bool], Awaitable[None]], full_size: bool
) -> int:
    """Run `make(n)` and cancel it at its first suspension, anew at its second, and so on to the end; check each time.

    `check` hears whether it ended with the cancellation. Returns how many times it was cancelled.
    """
    n = 0
    for after in MOMENTS if full_size else MOMENTS[:4]:
        for at in range(200):
            attempt = CancelledAt(make(n), at, after)
            task = asyncio.ensure_future(await_it(attempt))
            done, _ = await asyncio.wait([task], timeout=HANG)
            assert done, f"hangs when it is cancelled {after} s after suspension {at}"
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]
            async with asyncio.timeout(HANG):
                await check(n, task.cancelled())
            n += 1
            if attempt.suspensions <= at:
                break
        else:
            raise AssertionError("no end of suspensions")
    return n


async def await_it(attempt: CancelledAt) -> None:
    await attempt


def ids(n: int) -> list[str]:
    return [f"{n}-{i}" for i in range(4)]


async def settled(store: Backend, n: int) -> set[str]:
    """Return what is there of an attempt once its outcome is known: a later commit must not change it."""
    await store.put(Datum(f"after-{n}", b"x", 1.0))
    first = await store.get_many(ids(n))
    await store.put(Datum(f"later-{n}", b"x", 1.0))
    assert await store.get_many(ids(n)) == first, "a later commit carried what was cancelled"
    return set(first)


def idle_threads() -> set[str]:
    """Return the names of the running threads, those of the loop's own executor left out."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "memory"])
async def test_put_is_whole_or_not_at_all(tmp_path: Path, full_size: bool, kind: str) -> None:
    async with opened(kind, tmp_path / "store") as store:
        assert await store.put(Datum("first", b"x", 1.0)) == await store.get("first")
        threads, tasks = idle_threads(), asyncio.all_tasks()

        async def check(n: int, was_cancelled: bool) -> None:
            held = await settled(store, n)
            assert held == {ids(n)[0]} or (was_cancelled and not held)

        count = await cancelled_everywhere(lambda n: store.put(Datum(ids(n)[0], b"x", 1.0)), check, full_size)
        assert count >= (3 if kind == "memory" else 5)
        assert asyncio.all_tasks() == tasks
        assert idle_threads() == threads


@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "memory"])
async def test_put_many_is_whole_or_not_at_all(tmp_path: Path, full_size: bool, kind: str) -> None:
    async with opened(kind, tmp_path / "store") as store:
        await store.put(Datum("first", b"x", 1.0))

        async def check(n: int, was_cancelled: bool) -> None:
            held = await settled(store, n)
            assert held == set(ids(n)) or (was_cancelled and not held)

        await cancelled_everywhere(lambda n: store.put_many([Datum(id, b"x", 1.0) for id in ids(n)]), check, full_size)


async def test_the_first_use_of_a_store_can_be_cancelled(tmp_path: Path, full_size: bool) -> None:
    """Making the file, its tables and the readers too."""
    stores: list[SQLiteBackend] = []

    def first_use(n: int) -> Awaitable[Any]:
        stores.append(SQLiteBackend(tmp_path / f"{n}.db"))

        async def use() -> None:
            await stores[-1].get("a")
            await stores[-1].put(Datum(ids(n)[0], b"x", 1.0))

        return use()

    async def check(n: int, was_cancelled: bool) -> None:
        held = await settled(stores[-1], n)
        assert held == {ids(n)[0]} or (was_cancelled and not held)
        await stores[-1].close()

    threads = idle_threads()
    await cancelled_everywhere(first_use, check, full_size)
    assert idle_threads() == threads


@pytest.mark.parametrize("waits", [False, True])
async def test_a_transaction_is_whole_or_not_at_all(sqlite_path: Path, full_size: bool, waits: bool) -> None:
    """Before its turn, if it has to wait for one; at BEGIN, in its body, at COMMIT, and while the session closes.

    Mutants: the turn given back only when the body was reached (hangs); the session not closed (`is locked`); a turn
    that nobody waits for any more is served all the same (hangs).
    """
    async with sqlite(sqlite_path, busy_timeout=HANG) as store:
        await store.prepare()
        await store.database.write(lambda c: c.execute(text("CREATE TABLE pair (n INTEGER, side TEXT)")) and None)
        await in_transaction(store, -1)
        await store.count()
        threads, tasks = idle_threads(), asyncio.all_tasks()

        async def check(n: int, was_cancelled: bool) -> None:
            held = await settled(store, n)
            sides = await store.database.read(
                lambda c: c.execute(text("SELECT side FROM pair WHERE n = :n"), {"n": n}).scalars().all()
            )
            assert (held, sides) in (((set(), [])), (set(ids(n)), ["left", "right"]))
            assert was_cancelled or sides

        def make(n: int) -> Awaitable[None]:
            if waits:
                beside.append(asyncio.ensure_future(store.put(Datum(f"beside-{n}", b"x", 1.0))))
            return in_transaction(store, n)

        beside: list[asyncio.Future[Datum]] = []
        count = await cancelled_everywhere(make, check, full_size)
        assert count > 4 * (4 if waits else 3)  # hops at each of the moments
        assert len(await asyncio.gather(*beside)) == (count if waits else 0)
        assert asyncio.all_tasks() == tasks
        assert idle_threads() == threads
        await in_transaction(store, count)


async def in_transaction(store: SQLiteBackend, n: int) -> None:
    """Write rows with the ORM's session and datums, with a nested transaction around the half of it."""
    async with store.database.transaction() as tx:
        joined = store.joined(tx)
        await tx.session.execute(text("INSERT INTO pair VALUES (:n, 'left')"), {"n": n})
        await tx.session.execute(text("UPDATE pair SET side = side WHERE n = :n"), {"n": n})  # by the writer's thread
        await joined.put_many([Datum(id, b"x", 1.0) for id in ids(n)[:2]])
        async with store.database.transaction():
            await tx.session.execute(text("INSERT INTO pair VALUES (:n, '')"), {"n": n})
            await tx.session.execute(text("UPDATE pair SET side = 'right' WHERE n = :n AND side = ''"), {"n": n})
            await joined.put_many([Datum(id, b"x", 1.0) for id in ids(n)[2:]])


async def test_a_transaction_that_waits_for_its_turn_can_be_cancelled(sqlite_path: Path) -> None:
    async with sqlite(sqlite_path) as store:
        await store.prepare()
        async with asyncio.timeout(HANG):
            async with store.database.transaction() as tx:
                waiting = [asyncio.create_task(in_turn(store, f"w{n}"), context=fresh()) for n in range(6)]
                writing = [asyncio.create_task(store.put(Datum(f"p{n}", b"x", 1.0)), context=fresh()) for n in range(6)]
                await asyncio.sleep(0.05)
                for task in (*waiting[::2], *writing[::2]):
                    task.cancel()
                await store.joined(tx).put(Datum("mine", b"x", 1.0))
            answers = await asyncio.gather(*waiting, *writing, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 6
        held = {datum.id for datum in await store.list()}
        assert held == {"mine", *(f"{kind}{n}" for kind in "wp" for n in (1, 3, 5))}


def fresh() -> Any:
    """Return a context without the transaction that is open here: a task of somebody else."""
    import contextvars

    return contextvars.Context()


async def in_turn(store: SQLiteBackend, id: str) -> None:
    async with store.database.transaction() as tx:
        await store.joined(tx).put(Datum(id, b"x", 1.0))


async def test_a_storm_of_cancellations_harms_nobody_else(sqlite_path: Path, full_size: bool) -> None:
    """Half of many writers are cancelled at some time; what the others were told is in, and each write is whole."""
    async with sqlite(sqlite_path) as store:
        await store.prepare()
        acknowledged: set[str] = set()

        async def write(n: int) -> None:
            if n % 3:
                await store.put_many([Datum(id, b"x", 1.0) for id in ids(n)])
            else:
                async with store.database.transaction() as tx:
                    for id in ids(n):
                        await store.joined(tx).put(Datum(id, b"x", 1.0))
            acknowledged.update(ids(n))

        many = 600 if full_size else 120
        tasks = []
        for n in range(many):
            tasks.append(asyncio.create_task(write(n)))
            if n % 2:
                asyncio.get_running_loop().call_later((n % 7) / 1000, tasks[-1].cancel)
            if n % 5 == 0:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(HANG * 3):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [answer for answer in answers if isinstance(answer, Exception)]
            await store.put(Datum("after", b"x", 1.0))
            for n in range(many):
                held = set(await store.get_many(ids(n)))
                assert held in (set(), set(ids(n)))
            assert acknowledged <= {id for n in range(many) for id in await store.get_many(ids(n))}


async def test_migrations_are_whole_or_not_at_all(tmp_path: Path, full_size: bool) -> None:
    def upgrade(n: int) -> Awaitable[Any]:
        return migrations.upgrade(f"sqlite:///{tmp_path / f'{n}.db'}")

    async def check(n: int, was_cancelled: bool) -> None:
        url = f"sqlite:///{tmp_path / f'{n}.db'}"
        found = await migrations.current(url)
        assert found == migrations.head() or (was_cancelled and found is None)
        assert await migrations.upgrade(url) == migrations.head()
        await migrations.check(url)

    await cancelled_everywhere(upgrade, check, full_size)


async def test_reads_and_close_can_be_cancelled(tmp_path: Path, full_size: bool) -> None:
    threads = idle_threads()
    for at in range(12):
        store = SQLiteBackend(tmp_path / "store.db")
        await store.put_many([Datum(id, b"x", 1.0) for id in ids(0)])
        task = asyncio.ensure_future(await_it(CancelledAt(store.list(limit=1000), at, "once")))
        await asyncio.wait([task], timeout=HANG)
        async with store.database.transaction() as tx:
            await store.joined(tx).count()
        task = asyncio.ensure_future(await_it(CancelledAt(store.close(), at, "once")))
        done, _ = await asyncio.wait([task], timeout=HANG)
        assert done
        await store.close()
        with pytest.raises(StorageError):
            await store.get("a")
    assert idle_threads() == threads
