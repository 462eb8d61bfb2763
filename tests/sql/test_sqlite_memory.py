"""A database in memory: the same answers as a file gives, and nothing on any disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, make_url, select, text

from dgent import Datum, Settings, StorageProvider
from dgent.exceptions import (
    DiskFull,
    IntegrityViolation,
    ReadOnly,
    StorageError,
    StorageTimeout,
    StoreClosed,
    TransactionOpen,
)
from dgent.models.brain import Crystal
from dgent.runtime.fifo_lock import FIFOLock
from dgent.services import Brain
from dgent.sql import open_database
from dgent.sql.sqlite.in_memory import InMemoryDatabase
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dgent.sql import Database


@pytest.fixture
async def storage() -> AsyncIterator[StorageProvider]:
    async with await StorageProvider.create_minimal() as opened:
        yield opened


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = open_database(Settings.load(database_url=f"sqlite:////{uuid4()}?vfs=memdb", transaction_timeout=1.0))
    await opened.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    yield opened
    await opened.close()


def add(n: int) -> Any:
    return lambda connection: connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n}) and None


def numbers(connection: Any) -> list[int]:
    return [row[0] for row in connection.execute(text("SELECT n FROM t ORDER BY n"))]


def crystal(id: str) -> Crystal:
    return Crystal(id=id, content_hash=id, summary="a summary", tags=["maps"], datum_id=id)


# Nothing on any disk


async def test_the_minimal_storage_is_complete(storage: StorageProvider) -> None:
    assert await storage.table(Crystal).count() == 0
    async with storage.transaction() as tx:
        await tx.memory.put(Datum.create("x", id="a"))
        tx.session.add(crystal("a"))
        await tx.log.append("audit", "ada", b"an entry")
    assert (await storage.status())["schema"] == "004"
    assert not storage.memory.capabilities.durable  # a command that ends must not acknowledge into it
    await Brain(storage).capture("A thought.", ["t"])
    assert [one.summary for one in await Brain(storage).search(tags=["t"])] == ["A thought."]
    assert [entry.payload for entry in await storage.log.entries("audit", "ada")] == [b"an entry"]


async def test_it_is_another_one_each_time(storage: StorageProvider) -> None:
    await storage.memory.put(Datum.create("x", id="a"))
    async with await StorageProvider.create_minimal() as other:
        assert await other.memory.get("a") is None
    assert await storage.memory.get("a") is not None


SCRIPT = """
import asyncio, os
from dgent import Datum, StorageProvider

async def main():
    storage = await StorageProvider.create_minimal()
    await storage.memory.put(Datum.create("x"))
    async with storage.transaction() as tx:
        await tx.memory.put(Datum.create("y"))
        files = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
                 if os.path.exists(f"/proc/self/fd/{name}")]
        print(*[file for file in files if file.startswith("/") and not file.startswith("/dev/")], flush=True)
        input()

asyncio.run(main())
"""


def test_a_kill_leaves_no_folder_and_no_file_is_open(tmp_path: Path) -> None:
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "home")}
    environment = {name: value for name, value in environment.items() if not name.startswith("XDG_")}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, cwd=tmp_path, text=True, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "\n"
        child.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home", "tmp"]


async def test_no_disk_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name in ("HOME", "TMPDIR", *(f"XDG_{kind}_HOME" for kind in ("CONFIG", "DATA", "CACHE", "STATE"))):
        monkeypatch.setenv(name, str(tmp_path / "file" / "nothing"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "nothing"))
    async with await StorageProvider.create_minimal() as storage:
        await storage.memory.put(Datum.create("x"))
        assert await storage.memory.count() == 1


async def test_what_the_settings_say_of_another_database_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", "postgresql://me@127.0.0.1:1/x")
    monkeypatch.setenv("KGENTS_STORE__BACKEND", "postgres")
    monkeypatch.setenv("KGENTS_CHAIN", "postgres,jsonl")
    monkeypatch.setenv("KGENTS_NAMESPACE", "mine")
    async with await StorageProvider.create_minimal() as storage:
        assert (storage.memory.name, storage.memory.namespace) == ("sqlite", "mine")


async def test_what_does_not_fit_is_a_full_disk(database: Database) -> None:
    await database.write(lambda connection: connection.execute(text("PRAGMA max_page_count = 50")))
    with pytest.raises(DiskFull):
        await database.write(lambda connection: connection.execute(text("INSERT INTO t VALUES (zeroblob(9999999))")))
    await database.write(add(1))
    assert await database.read(numbers) == [1]


# Answers as a file gives them


async def test_who_reads_beside_a_transaction_sees_what_was_there_before(storage: StorageProvider) -> None:
    await storage.memory.put(Datum.create("old", id="a"))

    async def others() -> tuple[Any, int, int]:
        found = await storage.memory.get("a")
        return found and found.text, await storage.memory.count(), await storage.table(Crystal).count()

    async with storage.transaction() as tx:
        await tx.memory.put(Datum.create("new", id="a"))
        await tx.memory.put(Datum.create("new", id="b"))
        tx.session.add(crystal("a"))
        await tx.session.flush()
        assert await asyncio.create_task(others(), context=Context()) == ("old", 1, 0)
        assert await others() == ("new", 2, 1)  # the task itself takes part
        assert (await tx.memory.count(), await tx.table(Crystal).count()) == (2, 1)
    assert await others() == ("new", 2, 1)


async def test_what_failed_was_never_there(storage: StorageProvider) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the whole block is what fails
        async with storage.transaction() as tx:
            await tx.memory.put(Datum.create("x", id="a"))
            tx.session.add(crystal("a"))
            await tx.session.flush()
            1 / 0  # noqa: B018
    assert (await storage.memory.count(), await storage.table(Crystal).count()) == (0, 0)
    async with storage.transaction() as tx:
        await tx.memory.put(Datum.create("x", id="a"))
        with pytest.raises(IntegrityViolation):  # noqa: PT012  # the whole block is what fails
            async with storage.transaction() as inner:
                await inner.memory.put(Datum.create("y", id="b"))
                await inner.session.execute(text("INSERT INTO brain_crystal_tags VALUES ('nobody', 't')"))
    assert [one.id for one in await storage.memory.list()] == ["a"]


async def test_a_foreign_key_holds_after_the_migrations(storage: StorageProvider) -> None:
    with pytest.raises(IntegrityViolation):
        await storage.relational.execute("INSERT INTO brain_crystal_tags (crystal_id, tag) VALUES ('nobody', 't')")


async def test_a_write_waits_for_the_transaction(storage: StorageProvider) -> None:
    async with storage.transaction() as tx:
        with pytest.raises(TransactionOpen):
            await storage.database.close()
        await tx.memory.put(Datum.create("first", id="a"))
    writes = [storage.memory.put(Datum.create(str(n))) for n in range(50)]

    async def both(n: int) -> None:
        async with storage.transaction() as tx:
            found = await tx.memory.get("a")
            assert found is not None
            await asyncio.sleep(0)
            await tx.memory.put(found.replace(content=str(n).encode()), expect=found.version)

    await asyncio.gather(*writes, *(both(n) for n in range(20)))
    assert await storage.memory.count() == 51
    assert len(await storage.memory.history("a")) == 21


async def test_a_statement_that_writes_is_no_read(database: Database) -> None:
    with pytest.raises(ReadOnly):
        await database.read(add(1))
    assert await database.read(numbers) == []
    await database.write(add(1))
    async with database.transaction():
        pass
    assert await database.read(numbers) == [1]


async def test_a_stream_that_nobody_finished_harms_nobody(storage: StorageProvider) -> None:
    async with storage.transaction() as tx:
        tx.session.add_all([crystal(str(n)) for n in range(20)])
        await tx.session.flush()
        rows = await tx.session.stream(select(Crystal.id))
        assert await rows.fetchone() is not None
        await tx.session.execute(insert(Crystal), [{"id": "x", "content_hash": "x", "summary": "", "datum_id": "x"}])
    assert await storage.table(Crystal).count() == 21


async def test_who_watches_hears_of_a_commit(database: Database) -> None:
    heard = asyncio.Event()
    with database.watch("topic", heard.set):
        await database.write(add(1))
        async with asyncio.timeout(patience(10)):
            await heard.wait()


# Endings


async def test_a_cancelled_transaction_leaves_nothing_and_gives_its_turn_back(database: Database) -> None:
    begun = asyncio.Event()

    async def stay() -> None:
        async with database.transaction() as tx:
            await tx.write(add(1))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await begun.wait()
    waiting = [asyncio.create_task(database.write(add(n))) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    task.cancel()
    await asyncio.wait([task, *waiting])
    assert await database.read(numbers) == [2, 4]


async def test_one_that_is_open_too_long_is_rolled_back(database: Database) -> None:
    with pytest.raises(StorageTimeout, match="open for more than 1 s"):  # noqa: PT012  # and so here
        async with database.transaction() as tx:
            await tx.write(add(1))
            await asyncio.Event().wait()
    assert await database.read(numbers) == []


async def test_a_statement_has_an_end() -> None:
    settings = Settings.load(database_url=f"sqlite:////{uuid4()}?vfs=memdb", command_timeout=0.05)
    endless = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    database = open_database(settings)
    for run in (database.read, database.write):
        with pytest.raises(StorageTimeout):
            await run(lambda connection: connection.execute(endless).scalar())
    async with database.transaction() as tx:
        with pytest.raises(Exception, match="interrupt"):
            await tx.session.execute(endless)
    await database.close()


async def test_after_close_it_says_so(storage: StorageProvider) -> None:
    await storage.close()
    await storage.close()
    for use in (storage.memory.list, lambda: storage.relational.fetch_all("SELECT 1")):
        with pytest.raises(StoreClosed):
            await use()
    with pytest.raises(StoreClosed):
        async with storage.database.transaction():
            pass


async def test_close_waits_for_what_was_begun(database: Database) -> None:
    async with asyncio.TaskGroup() as group:

        async def work() -> None:
            async with database.transaction() as tx:
                await asyncio.sleep(0.01)
                await tx.write(add(1))

        group.create_task(work())
        await asyncio.sleep(0)
        await asyncio.create_task(database.close())
    with pytest.raises(StoreClosed):
        await database.write(add(2))


async def test_a_forked_child_is_refused(database: Database) -> None:
    child = os.fork()
    if not child:
        try:
            asyncio.run(database.read(numbers))  # it raises: a loop runs here
        except (StorageError, RuntimeError):
            os._exit(7 if database.forked else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_two_loops_in_two_threads_take_turns() -> None:
    settings = Settings.load(database_url=f"sqlite:////{uuid4()}?vfs=memdb")
    database = open_database(settings)
    asyncio.run(database.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")) and None))
    failed: list[BaseException] = []

    async def work(first: int) -> None:
        for n in range(first, first + 50):
            async with database.transaction() as tx:
                before = await tx.read(numbers)
                await asyncio.sleep(0)
                await tx.write(add(n))
                assert len(await tx.read(numbers)) == len(before) + 1
            await database.read(numbers)

    def run(first: int) -> None:
        try:
            asyncio.run(work(first))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(asyncio.run(database.read(numbers))) == 100
    asyncio.run(database.close())


async def test_the_turn_goes_on_past_whoever_left() -> None:
    turns = FIFOLock()
    await turns.acquire()
    first, second, third = (asyncio.create_task(turns.acquire()) for _ in range(3))
    await asyncio.sleep(0)
    turns.release()  # the first one's is on its way
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    await third
    turns.release()
    await turns.acquire()


def test_the_turn_goes_on_past_a_loop_that_was_closed() -> None:
    turns = FIFOLock()

    async def wait() -> None:
        task = asyncio.create_task(turns.acquire())
        await asyncio.sleep(0)
        tasks.append(task)

    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(turns.acquire())
    loop.run_until_complete(wait())
    loop.close()
    turns.release()

    async def take() -> None:
        await turns.acquire()

    asyncio.run(take())
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left on purpose


# No store of a command


async def test_a_backend_in_memory_leaves_no_manifest(clean_room: Path) -> None:
    url = f"sqlite:////{uuid4()}?vfs=memdb"
    async with await StorageProvider.from_config(database_url=url, chain=("sqlite",)) as storage:
        await storage.memory.put(Datum.create("x"))
    assert list(clean_room.rglob("*")) == []


async def test_a_close_that_was_cancelled_is_gone_on_with_by_the_next() -> None:
    database = InMemoryDatabase(make_url("sqlite+aiosqlite:///x"), Settings.load())
    begun, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction():
            begun.set()
            await go.wait()

    holding = asyncio.create_task(hold())
    await begun.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    go.set()
    await holding
    await database.close()
    await database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database.driver.execute("SELECT 1")
