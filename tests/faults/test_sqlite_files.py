"""A `-wal` that is not this file's, files removed and exchanged, a backup copied over an open file: noticed in time.

Nothing is acknowledged that others do not find, nothing is put over a restored backup, and what is as it should be is
opened without a look at each page.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.faults.processes import started
from tests.faults.stores import sqlite, sync_engine

from dgent import StorageProvider, migrations
from dgent.datum import Datum
from dgent.exceptions import Corrupt, OutcomeUnknown
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.sql.sqlite import engine as sqlite_engine
from dgent.sql.sqlite import file_identity
from dgent.sql.sqlite.file_identity import Files
from dgent.sql.sqlite.file_note import Note
from dgent.sql.sqlite.wal_index import Progress
from dgent.testing.contract_base import patience

HALF = 60
PATIENCE = patience(20.0)


def datum(id: str) -> Datum:
    return Datum(id, id.encode() * 300, 1.0)


def name(n: int) -> str:
    return f"k{n:04d}"


def write_and_wait(pipe: Connection, _: int, path: Path, first: int, last: int, checkpoint_at: int) -> None:
    """Put so many, checkpointing once, and wait to be killed: called in a process."""

    async def main() -> None:
        store = SQLiteBackend(path)
        for n in range(first, last):
            await store.put(datum(name(n)))
            if n == checkpoint_at:
                async with sqlite(path) as other:
                    await other.put(datum("other"))
                    driver: Any = other.database._writer.open().connection.dbapi_connection  # type: ignore[attr-defined]
                    assert driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
                    other.database._writer.files.note()  # type: ignore[attr-defined]
        pipe.send(await store.count())
        pipe.recv()

    asyncio.run(main())


def crashed(path: Path, first: int, last: int, checkpoint_at: int = -1) -> int:
    """Write in a process that is killed, and return how many there were."""
    with started(1, write_and_wait, path, first, last, checkpoint_at) as [child]:
        count = child.answer()
        child.process.kill()
        child.process.join()
    assert log(path).stat().st_size
    return int(count)


def log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@pytest.fixture
def torn(tmp_path: Path) -> tuple[Path, Path]:
    """Return a store that was killed, and a backup of its file from before."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup" / "membrane.db"
    backup.parent.mkdir()
    crashed(path, 0, HALF)
    asyncio.run(opened(path))  # closed properly: all of it is in the file
    shutil.copy2(path, backup)
    crashed(path, HALF, 3 * HALF, 2 * HALF)
    return path, backup


async def opened(path: Path) -> int:
    async with sqlite(path) as store:
        return await store.count()


def renamed_over(path: Path, backup: Path) -> None:
    shutil.copy2(backup, path.with_name("new"))
    path.with_name("new").rename(path)


def copied_over(path: Path, backup: Path) -> None:
    path.write_bytes(backup.read_bytes())


def copied_over_with_its_time(path: Path, backup: Path) -> None:
    copied_over(path, backup)
    shutil.copystat(backup, path)


async def by_the_store(path: Path) -> None:
    async with sqlite(path) as store:
        for use in (store.put(datum("new")), store.get(name(1)), store.list(), store.count()):
            with pytest.raises(Corrupt, match="-wal"):
                await use
        with pytest.raises(Corrupt, match="-wal"):
            async with store.database.transaction():
                pass
        assert await store.is_available() is False


async def by_a_synchronous_program(path: Path) -> None:
    engine = sync_engine(str(path))
    with pytest.raises(Corrupt, match="-wal"), engine.begin():
        pass


async def by_a_migration(path: Path) -> None:
    with pytest.raises(Corrupt, match="-wal"):
        await migrations.upgrade(f"sqlite:///{path}")


async def by_a_look_at_the_schema(path: Path) -> None:
    with pytest.raises(Corrupt, match="-wal"):
        await migrations.current(f"sqlite:///{path}")


async def by_the_provider(path: Path) -> None:
    """Nothing of the chain takes over."""
    with pytest.raises(Corrupt, match="-wal"):
        await StorageProvider.from_config(database_url=f"sqlite:///{path}")


OPENS = [by_the_store, by_a_synchronous_program, by_a_migration, by_a_look_at_the_schema, by_the_provider]


@pytest.mark.parametrize("opens", OPENS)
@pytest.mark.parametrize("restores", [renamed_over, copied_over, copied_over_with_its_time])
async def test_a_log_that_is_not_this_files_is_refused_and_nothing_is_written(
    torn: tuple[Path, Path], restores: Callable[[Path, Path], None], opens: Callable[[Path], Awaitable[None]]
) -> None:
    """SQLite puts it over the file: it counted 180, found half of them, and took more. Mutant: no look at the note."""
    path, backup = torn
    restores(path, backup)
    before = path.read_bytes(), log(path).read_bytes()
    await opens(path)
    assert (path.read_bytes(), log(path).read_bytes()) == before
    log(path).unlink()
    assert await opened(path) == HALF
    async with sqlite(path) as store:
        await store.put(datum("new"))
    assert await opened(path) == HALF + 1


async def test_a_file_in_the_place_of_another_is_not_opened_beside_the_log_of_that(tmp_path: Path) -> None:
    """A log that holds every page of its file fits any file: it opened, and made of a backup what was there before."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup.db"
    async with sqlite(path.with_name("source.db")) as store:
        await store.put(datum("kept"))
        await store.database.backup(backup)
    count = crashed(path, 0, HALF)
    path.rename(tmp_path / "before")
    backup.rename(path)
    before = path.read_bytes(), log(path).read_bytes()
    for opens in OPENS:
        await opens(path)
    assert (path.read_bytes(), log(path).read_bytes()) == before
    log(path).rename(log(tmp_path / "before"))
    assert await opened(path) == 1
    assert await opened(tmp_path / "before") == count


async def test_a_file_and_its_log_that_were_replaced_together_open_without_the_note(tmp_path: Path) -> None:
    path = tmp_path / "membrane.db"
    count = crashed(path, 0, HALF)
    renamed_over(path, path)  # as a tool that copies a file which has another time, and leaves the log that has not
    with pytest.raises(Corrupt, match=r"remove .*membrane\.db\.lock"):
        await opened(path)
    path.with_name(f"{path.name}.lock").unlink()
    assert await opened(path) == count


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files that were read whole since."""
    checked: list[Path] = []
    real = sqlite_engine.check_whole

    def check(path: Path) -> None:
        checked.append(path)
        real(path)

    monkeypatch.setattr(sqlite_engine, "check_whole", check)
    return checked


async def test_a_crash_is_no_reason_to_read_everything(tmp_path: Path, checks: list[Path]) -> None:
    path = tmp_path / "membrane.db"
    for start in range(0, 3 * HALF, HALF):
        crashed(path, start, start + HALF)
        async with sqlite(path) as store:
            assert await store.count() == start + HALF
            await store.put(datum(name(0)))
    crashed(path, 3 * HALF, 4 * HALF, 3 * HALF + 5)
    assert await opened(path) == 4 * HALF + 1
    assert checks == []


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
async def test_a_whole_folder_may_be_copied_with_its_log(
    tmp_path: Path, checks: list[Path], copy: Callable[..., Any]
) -> None:
    """It is read whole, once, since its inodes are others."""
    path = tmp_path / "here" / "membrane.db"
    path.parent.mkdir(mode=0o700)
    count = crashed(path, 0, HALF, HALF // 2)
    shutil.copytree(path.parent, tmp_path / "there", copy_function=copy)
    moved = tmp_path / "there" / path.name
    assert await opened(moved) == count
    assert checks == [moved]
    assert crashed(moved, HALF, HALF + 3) == count + 3
    assert await opened(moved) == count + 3
    assert checks == [moved]


async def test_both_files_may_be_restored_or_the_file_alone(torn: tuple[Path, Path], tmp_path: Path) -> None:
    path, backup = torn
    both = tmp_path / "both"
    both.mkdir(mode=0o700)
    for file in (path, log(path)):
        shutil.copy2(file, both / file.name)
    log(path).unlink()
    renamed_over(path, backup)
    assert await opened(path) == HALF
    for file in (path, log(path)):
        shutil.copy2(both / file.name, file)
    assert await opened(path) == 3 * HALF + 1


async def test_a_store_whose_lock_file_is_gone_is_read_whole_and_opened(
    torn: tuple[Path, Path], checks: list[Path]
) -> None:
    path, _ = torn
    path.with_name(f"{path.name}.lock").unlink()
    assert await opened(path) == 3 * HALF + 1
    assert checks == [path]


async def test_a_log_that_was_removed_after_a_crash_is_missed(torn: tuple[Path, Path]) -> None:
    """Its commits were acknowledged, and are in no other file."""
    path, _ = torn
    aside = log(path).rename(path.with_name("aside"))
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"is gone or was emptied.*remove .*lock"):
            await opened(path)
    aside.rename(log(path))
    assert await opened(path) == 3 * HALF + 1
    crashed(path, 3 * HALF, 4 * HALF)
    log(path).write_bytes(b"")
    with pytest.raises(Corrupt, match="is gone or was emptied"):
        await opened(path)
    path.with_name(f"{path.name}.lock").unlink()
    assert await opened(path) == 3 * HALF + 1


def put_when_told(pipe: Connection, _: int, path: Path) -> None:
    """Open a store, put when told, and wait to be killed: called in a process."""

    async def main() -> None:
        store = SQLiteBackend(path)
        await store.prepare()
        for id in ("", "more"):
            if id:
                await store.put(datum(id))
            pipe.send("done")
            pipe.recv()

    asyncio.run(main())


async def test_who_closes_without_having_written_leaves_the_note_of_who_did(tmp_path: Path) -> None:
    """Mutant: closing notes what was known when the file was opened."""
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("first"))
    with started(1, put_when_told, path) as [child]:
        child.answer()
        async with sqlite(path) as store:
            assert await store.count() == 1
            child.answers.send("put")
            child.answer()
        child.process.kill()
        child.process.join()
    log(path).unlink()
    with pytest.raises(Corrupt, match="is gone or was emptied"):
        await opened(path)


@pytest.mark.parametrize("file", ["gone", "emptied"])
async def test_a_log_without_its_file_is_kept(torn: tuple[Path, Path], file: str) -> None:
    """SQLite removes it, and with it what was committed last."""
    path, _ = torn
    aside = path.rename(path.with_name("aside"))
    if file == "emptied":
        path.touch(0o600)
    before = log(path).read_bytes()
    with pytest.raises(Corrupt, match=r"holds commits, but .* is gone or empty"):
        await opened(path)
    assert log(path).read_bytes() == before
    aside.rename(path)
    assert await opened(path) == 3 * HALF + 1


async def by_put(store: SQLiteBackend, id: str) -> None:
    await store.put(datum(id))


async def by_transaction(store: SQLiteBackend, id: str) -> None:
    async with store.database.transaction() as tx:
        await store.joined(tx).put(datum(id))


@pytest.mark.parametrize("write", [by_put, by_transaction])
@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_a_file_removed_under_an_open_store_is_noticed_before_the_next_answer(
    tmp_path: Path, end: str, write: Callable[[SQLiteBackend, str], Awaitable[None]]
) -> None:
    """And what was acknowledged before is in the file, although the store is never closed.

    Mutant: without the look 50 puts were acknowledged, and none was there after a kill.
    """
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.prepare()
        for n in range(20):
            await write(store, name(n))
        path.with_name(path.name + end).unlink()
        for n in range(20, 24):
            with pytest.raises(Corrupt, match="removed or replaced"):
                await write(store, name(n))
        await noticed(store)
        copy = tmp_path / "copy" / "membrane.db"  # what a kill would leave
        copy.parent.mkdir(mode=0o700)
        for file in (path, log(path)):
            if file.exists():
                shutil.copy(file, copy.parent)
        assert await opened(copy) == 20
    assert await opened(path) == 20


async def test_a_file_removed_under_a_synchronous_program(tmp_path: Path) -> None:
    path = tmp_path / "membrane.db"
    engine = sync_engine(str(path))
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(text("CREATE TABLE plain (n INTEGER)"))
        log(path).unlink()
        for _ in range(2):
            with pytest.raises(Corrupt, match="removed or replaced"), connection.begin():
                connection.execute(text("INSERT INTO plain VALUES (1)"))


async def test_a_log_removed_while_something_is_committed_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("a"))

        def remove(connection: Any) -> None:
            connection.execute(text("CREATE TABLE plain (n INTEGER)"))
            log(path).unlink()

        with pytest.raises(OutcomeUnknown):
            await store.database.write(remove)
        with pytest.raises(Corrupt):
            await store.put(datum("b"))


async def test_a_lock_file_that_is_removed_is_made_again(tmp_path: Path) -> None:
    """Else who makes a new one does not meet who has the old one."""
    path = tmp_path / "membrane.db"
    lock = path.with_name(f"{path.name}.lock")
    async with sqlite(path) as one, sqlite(path) as other:
        for n in range(4):
            await one.put(datum(f"one{n}"))
            await other.put(datum(f"other{n}"))
            lock.unlink()
        await one.put(datum("last"))
        assert one.database._writer.lock._fd >= 0  # type: ignore[attr-defined]
        assert os.fstat(one.database._writer.lock._fd).st_ino == lock.stat().st_ino  # type: ignore[attr-defined]
        assert await other.count() == 9


@pytest.mark.parametrize("write", [by_put, by_transaction])
async def test_a_backup_copied_over_an_open_file_is_noticed_and_left_as_it_is(
    tmp_path: Path, write: Callable[[SQLiteBackend, str], Awaitable[None]]
) -> None:
    """Also by readers; and closing puts nothing of the log over it.

    Mutant: without the look at size and time, 200 were gone without an error.
    """
    path, backup = tmp_path / "membrane.db", tmp_path / "backup"
    async with sqlite(path) as store:
        await store.put_many([datum(name(n)) for n in range(HALF)])
    shutil.copy2(path, backup)
    async with sqlite(path) as store:
        await store.put_many([datum(name(n)) for n in range(HALF, 2 * HALF)])
        copied_over(path, backup)
        for _ in range(3):
            with pytest.raises(Corrupt, match="was written while it was open, not by D-gent"):
                await write(store, "new")
        await noticed(store)
    assert path.read_bytes() == backup.read_bytes()
    log(path).unlink()
    assert await opened(path) == HALF


async def opened_by_a_store(path: Path) -> None:
    await opened(path)


async def written_by_a_store(path: Path) -> None:
    async with sqlite(path) as store:
        await store.put(datum("theirs"))


async def written_by_a_synchronous_program(path: Path) -> None:
    with sync_engine(str(path)).begin() as connection:
        connection.execute(text("CREATE TABLE plain (n INTEGER)"))


async def looked_at_and_written(path: Path) -> None:
    await migrations.current(f"sqlite:///{path}")
    await written_by_a_store(path)


@pytest.mark.parametrize(
    "goes_on", [opened_by_a_store, written_by_a_store, written_by_a_synchronous_program, looked_at_and_written]
)
async def test_a_restored_file_that_another_goes_on_with_is_no_checkpoint_of_ours(
    tmp_path: Path, goes_on: Callable[[Path], Awaitable[None]]
) -> None:
    """Whoever had it open before is told so, also after the other closed. Mutant: a note without a generation."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup"
    async with sqlite(path) as store:
        await store.put_many([datum(name(n)) for n in range(HALF)])
    shutil.copy2(path, backup)
    async with sqlite(path) as store:
        await store.put_many([datum(name(n)) for n in range(HALF, 2 * HALF)])
    async with sqlite(path) as before:
        assert await before.count() == 2 * HALF
        copied_over(path, backup)
        await goes_on(path)
        for _ in range(3):
            with pytest.raises(Corrupt, match="was written while it was open, not by D-gent"):
                await before.put(datum("new"))
        await noticed(before)
        await written_once_more(path)
        with pytest.raises(Corrupt):
            await before.put(datum("new"))
    async with sqlite(path) as store:
        assert await store.get(name(HALF)) is None
        assert await store.get("since") is not None


async def written_once_more(path: Path) -> None:
    async with sqlite(path) as store:
        await store.put(datum("since"))


async def test_whoever_opens_after_somebody_was_killed_in_his_checkpoint_stops_nobody_else(tmp_path: Path) -> None:
    """The newcomer and who was there before go on with one file. Mutant: a new generation in spite of the mark."""
    path = tmp_path / "membrane.db"
    async with sqlite(path) as before:
        await before.put(datum("ours"))
        with started(1, checkpoint_and_hang, path) as [child]:
            child.answer()
            child.process.kill()
            child.process.join()
        async with sqlite(path) as newcomer:
            await newcomer.put(datum("newcomer"))
            await before.put(datum("before"))
            for store in (newcomer, before):
                await store.put(Datum(f"large{store is before}", bytes(8 * 2**20), 1.0))  # which checkpoints
            assert await newcomer.count() == await before.count() == 7


async def test_another_time_counts_as_written_by_another_until_it_is_opened_anew(tmp_path: Path) -> None:
    """As docs/promises.md says: nothing tells a `touch` from a backup of the same size."""
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("a"))
        path.touch()
        with pytest.raises(Corrupt, match="close it and open it again"):
            await store.put(datum("b"))
    async with sqlite(path) as store:
        await store.put(datum("b"))
        assert await store.count() == 2


def test_a_note_of_another_format_counts_as_none() -> None:
    note = Note((1, 2, 3, 4), 5, pending=True, in_doubt=False, generation=6, progress=None)
    come_far = note._replace(progress=Progress(2**64 - 1, 2**32 - 1, 9, 8, 7))
    for each in (note, come_far):
        assert Note.load(each.dump()) == each
        assert Note.load(each.dump().replace(b"dgent 3", b"dgent 4")) is None
    assert Note.load(come_far.dump().replace(b" 7\n", b"\n")) is None
    assert Note.load(b"dgent 1 1 2 3 4 5 1 0\n") is None
    assert Note.load(b"dgent 2 1 2 3 4 5 1 0 6\n") is None


async def test_readers_alone_notice_a_backup_copied_over_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put_many([datum(name(n)) for n in range(HALF)])
        assert await store.get(name(1))
        path.write_bytes(path.read_bytes())
        await noticed(store)


async def noticed(store: SQLiteBackend) -> None:
    """Wait until reads notice: they look from time to time."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.get(name(1))
            except Corrupt:
                return
            await asyncio.sleep(0.001)


async def test_a_checkpoint_of_another_process_is_none_of_that(tmp_path: Path) -> None:
    """Nor is one by a program that is not ours: `test_foreign` has more of those."""
    path = tmp_path / "membrane.db"
    async with sqlite(path) as one, sqlite(path) as other:
        for round in range(4):
            for store in (one, other):
                changed = path.stat().st_mtime_ns if path.exists() else 0
                n = 0
                while not path.exists() or path.stat().st_mtime_ns == changed:
                    await store.put(Datum(f"{round}{store is one}{n}", os.urandom(100_000), 1.0))
                    n += 1
                assert (await one.get("0True0")) is not None
        count = await other.count()
        foreign = sqlite3.connect(path)
        await one.put(datum("before"))
        foreign.execute("PRAGMA wal_checkpoint(PASSIVE)")
        foreign.close()
        await one.put(datum("after"))
    assert await opened(path) == count + 2


def checkpoint_and_hang(pipe: Connection, _: int, path: Path) -> None:
    """Commit so much that it checkpoints, and stop before that is noted: called in a process."""

    def hang(files: Files) -> None:
        pipe.send(files.path.stat().st_mtime_ns)
        pipe.recv()

    async def main() -> None:
        store = SQLiteBackend(path)
        await store.put(datum("theirs"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Files, "settle", hang)
            await store.put(Datum("large", bytes(8 * 2**20), 1.0))

    asyncio.run(main())


async def test_somebody_killed_between_his_checkpoint_and_his_note_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read whole then, and on it goes. Mutant: no mark left behind the note, and every put is refused."""
    checked: list[Path] = []
    monkeypatch.setattr(file_identity, "check_whole", checked.append)
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("ours"))
        changed = path.stat().st_mtime_ns
        with started(1, checkpoint_and_hang, path) as [child]:
            assert child.answer() != changed
            child.process.kill()
            child.process.join()
        await store.put(datum("after"))
        async with store.database.transaction() as tx:
            await store.joined(tx).put(datum("more"))
        assert await store.count() == 5
        assert checked == [path]
        path.write_bytes(path.read_bytes())
        with pytest.raises(Corrupt, match="not by D-gent"):
            await store.put(datum("last"))


@pytest.mark.parametrize("happened", ["removed", "replaced", "older", "longer", "same size"])
async def test_a_jsonl_file_exchanged_under_an_open_store_is_corrupt(tmp_path: Path, happened: str) -> None:
    path = tmp_path / "memory.jsonl"
    store = JSONLBackend(path)
    try:
        await store.put(datum("a"))
        older = path.read_bytes()
        await store.put(datum("b"))
        whole = path.read_bytes()
        if happened == "removed":
            path.unlink()
        elif happened == "replaced":
            path.with_name("new").write_bytes(whole)
            path.with_name("new").chmod(0o600)
            path.with_name("new").rename(path)
        elif happened == "older":
            path.write_bytes(older)
        elif happened == "longer":  # an older one that another program went on with
            path.write_bytes(older)
            other = JSONLBackend(path)
            await other.put(Datum("z", b"z" * 5000, 1.0))  # one line, over where the first one stopped
            await other.close()
        else:
            path.write_bytes(older + whole[len(older) :].replace(b"bbb", b"ccc"))
        before = path.read_bytes() if path.exists() else None
        for use in (store.put(datum("c")), store.get("a"), store.count()):
            with pytest.raises(Corrupt):
                await use
        assert (path.read_bytes() if path.exists() else None) == before, "nothing was written"
    finally:
        await store.close()
