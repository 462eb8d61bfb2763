"""A copy of a database while it is in use: of one moment, whole or not there, and nobody's but its owner's."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine

from dgent import Datum, SQLiteBackend, StorageProvider
from dgent.exceptions import CapabilityMissing, InvalidInput, InvalidSettings, StoreClosed
from dgent.memory.sql.maintenance import MaintainedMemory
from dgent.query import Query
from dgent.runtime.file_lock import FileLock
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.sqlite import backup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

WRITERS = 4


async def seqs(path: Path) -> list[int]:
    """Return the seqs that a copy holds, once it was found whole."""
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy = SQLiteBackend(path)
    try:
        assert [found async for found in MaintainedMemory(copy.database).check()] == []
        held = [one.seq for one in await copy.query(Query(order="seq", limit=10_000))]
        assert await copy.head() == (held or [0])[-1]
    finally:
        await copy.close()
    return held


async def test_a_copy_taken_under_writers_holds_a_prefix_of_the_commits(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "memory.db")
    acknowledged, enough, stop = 0, asyncio.Event(), asyncio.Event()

    async def write(writer: int) -> None:
        nonlocal acknowledged
        while not stop.is_set():
            stored = await store.put(Datum.create(bytes(1000), id=f"{writer}-{acknowledged}"))
            acknowledged = max(acknowledged, stored.seq)
            if acknowledged >= 40:
                enough.set()

    writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    for number in range(3):
        await enough.wait()
        before, path = acknowledged, tmp_path / f"copy-{number}.db"
        assert await store.database.backup(path) == path
        after = acknowledged + WRITERS  # a commit may have been made and not yet answered
        held = await seqs(path)
        assert held == [*range(1, len(held) + 1)]
        assert before <= len(held) <= after
        assert path.stat().st_mode & 0o777 == 0o600
    stop.set()
    await asyncio.gather(*writers)
    await store.close()
    assert {each.name for each in tmp_path.glob("*copy*") if not each.name.startswith("copy-")} == set()


async def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "memory.db")
    await store.put(Datum.create("x", id="x"))
    file, link, folder = tmp_path / "file", tmp_path / "link", tmp_path / "folder"
    file.write_bytes(b"mine")
    link.symlink_to(tmp_path / "nowhere")
    folder.mkdir()
    for there in (file, link, folder, tmp_path / "memory.db"):
        with pytest.raises(InvalidInput, match="replaces nothing"):
            await store.database.backup(there)
    for name in (":memory:", "sqlite:///x.db"):
        with pytest.raises(InvalidSettings):
            await store.database.backup(name)
    assert file.read_bytes() == b"mine"
    assert await store.database.backup(str(tmp_path / "new" / "copy.db")) == tmp_path / "new" / "copy.db"
    await store.close()
    assert {each.name for each in (tmp_path / "new").iterdir()} == {"copy.db"}
    assert await seqs(tmp_path / "new" / "copy.db") == [1]


async def test_a_cancelled_copy_is_not_there(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "memory.db")
    await store.put_many(Datum.create(bytes(10_000), id=str(n)) for n in range(100))
    for turns in range(12):
        folder = tmp_path / str(turns)
        task = asyncio.create_task(store.database.backup(folder / "copy.db"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        left = [each.name for each in folder.iterdir()] if folder.exists() else []
        assert left == [] if task.cancelled() else ["copy.db"]
    await store.close()


@pytest.mark.parametrize("others", [False, True])
async def test_a_copy_that_is_cancelled_when_it_has_its_name_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    """Only that one, and whoever asks again gets it. It stayed, and asking again was refused."""
    store = SQLiteBackend(tmp_path / "memory.db")
    await store.put(Datum.create("x", id="x"))
    path, loop, named = tmp_path / "new" / "copy.db", asyncio.get_running_loop(), []

    def sync(folder: Path) -> None:
        named.append(path.exists())
        if others:
            path.unlink()
            path.write_bytes(b"mine")
        loop.call_soon_threadsafe(task.cancel)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "sync_directory", sync)
        task = asyncio.create_task(store.database.backup(path))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert named == [True]
    assert [each.read_bytes() for each in path.parent.iterdir()] == [b"mine"] * others
    if not others:
        await store.database.backup(path)
        assert await seqs(path) == [1]
    await store.close()


@contextmanager
def reading(tmp_path: Path) -> Iterator[Connection]:
    """Give a connection to a small database."""
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
        connection.commit()
        yield connection
    engine.dispose()


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("late", [False, True])
def test_nothing_is_copied_beside_what_an_earlier_file_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, late: bool
) -> None:
    """SQLite puts it over the file: a backup of 1000 datums opened as another store with one, and became that."""
    left = tmp_path / f"copy.db{end}"
    if late:
        monkeypatch.setattr(backup, "sync_file", lambda _: left.write_bytes(b"w"))
    else:
        left.write_bytes(b"w")
    with reading(tmp_path) as connection:
        with pytest.raises(InvalidInput, match=rf"copy\.db{end} is there.*move it away"):
            backup.Backup(tmp_path / "copy.db").make(connection)
        assert {each.name for each in tmp_path.glob("*copy*")} == {left.name}
        left.unlink()
        monkeypatch.undo()
        backup.Backup(tmp_path / "copy.db").make(connection)


def test_what_a_killed_copy_left_goes_and_one_under_way_is_left_alone(tmp_path: Path) -> None:
    part, lock = tmp_path / ".copy.db.dgent-backup", tmp_path / ".copy.db.dgent-backup.lock"
    part.write_bytes(b"half")
    holder = FileLock(lock, 0, sole=False)
    assert holder.try_take()
    with reading(tmp_path) as connection:
        with pytest.raises(InvalidInput, match=r"another backup to .* is under way"):
            backup.Backup(tmp_path / "copy.db").make(connection)
        assert (part.read_bytes(), lock.exists()) == (b"half", True)
        holder.close()  # as its death does
        backup.Backup(tmp_path / "copy.db").make(connection)
    assert {each.name for each in tmp_path.iterdir()} == {"a.db", "copy.db"}


@pytest.mark.parametrize(
    "name", ["n" * 240, "n" * 300, f"{'f' * 300}/copy.db", "/".join(["f" * 100] * 5)], ids=lambda name: str(len(name))
)
def test_a_name_that_is_too_long_is_named_as_that(tmp_path: Path, name: str) -> None:
    """That of the hidden file counts. It was ReadOnly."""
    with reading(tmp_path) as connection, pytest.raises(InvalidInput, match=r"too long.*shorter"):
        backup.Backup(tmp_path / name).make(connection)
    assert [each for each in tmp_path.rglob("*") if each.is_file() and each.name != "a.db"] == []


async def test_closing_waits_for_a_copy(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "memory.db")
    await store.put_many(Datum.create(bytes(10_000), id=str(n)) for n in range(100))
    task = asyncio.create_task(store.database.backup(tmp_path / "copy.db"))
    while not store.database._backups:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await store.close()
    with suppress(StoreClosed):  # it was not begun
        await task
        assert len(await seqs(tmp_path / "copy.db")) == 100
    with pytest.raises(StoreClosed):
        await store.database.backup(tmp_path / "late.db")


async def test_a_file_that_can_only_be_read_is_copied(tmp_path: Path) -> None:
    store = SQLiteBackend(tmp_path / "memory.db")
    await store.put(Datum.create("x", id="x"))
    await store.close()
    database = open_database(Settings.load(database_url=f"sqlite:///{tmp_path / 'memory.db'}?mode=ro"))
    await database.backup(tmp_path / "copy.db")
    await database.close()
    assert await seqs(tmp_path / "copy.db") == [1]


async def test_a_database_in_memory_is_copied_as_it_was_before_an_open_transaction(tmp_path: Path) -> None:
    async with await StorageProvider.create_minimal() as storage:
        await storage.memory.put(Datum.create("x", id="x"))
        async with storage.transaction() as tx:
            await tx.memory.put(Datum.create("y", id="y"))
            await storage.database.backup(tmp_path / "before.db")
        await storage.database.backup(tmp_path / "after.db")
    assert await seqs(tmp_path / "before.db") == [1]
    assert await seqs(tmp_path / "after.db") == [1, 2]


async def test_a_server_names_its_own_tool(postgres_url: str, tmp_path: Path) -> None:
    database = open_database(Settings.load(database_url=postgres_url))
    with pytest.raises(CapabilityMissing, match="pg_dump"):
        await database.backup(tmp_path / "copy.db")
    await database.close()
    assert not (tmp_path / "copy.db").exists()


def test_a_copy_that_is_cancelled_while_it_is_synced_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup.Backup(tmp_path / "copy.db")
    monkeypatch.setattr(backup, "sync_file", lambda _: copy.__exit__(asyncio.CancelledError))
    with reading(tmp_path) as connection:
        copy.make(connection)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
