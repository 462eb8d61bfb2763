"""A full disk and a read-only one: a typed error, nothing acknowledged lost, and on it goes when they are mended."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from tests.faults.processes import output
from tests.faults.stores import make, opened, sqlite

from dgent.datum import Datum
from dgent.exceptions import DiskFull, ReadOnly, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dgent.memory.sql.sqlite_backend import SQLiteBackend
    from dgent.store import Backend


def put(id: str, size: int = 700) -> Datum:
    return Datum(id, id.encode() * (size // len(id)), 1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user cannot mount a file system: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def fill(store: Backend) -> list[str]:
    """Put until the disk is full; return what was acknowledged."""
    ids: list[str] = []
    with suppress(DiskFull):
        while True:
            id = f"k{len(ids)}"
            await store.put(put(id, 20_000))
            ids.append(id)
    assert len(ids) > 10
    return ids


async def all_right(store: Backend, ids: list[str]) -> None:
    """Check that exactly these are there, whole."""
    found = {datum.id: datum.content for datum in await store.list(limit=1000)}
    assert found == {id: put(id, 20_000).content for id in ids}


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_a_full_disk_is_an_error_and_no_loss(small_disk: Path, kind: str) -> None:
    ballast, path = small_disk / "ballast", small_disk / "store"
    ballast.write_bytes(bytes(2**20))
    async with opened(kind, path) as store:
        ids = await fill(store)
        await all_right(store, ids)
        for _ in range(3):
            with pytest.raises(DiskFull):
                await store.put_many([put("small"), put("large", 2**20)])
            answers = await asyncio.gather(
                *(store.put(put(f"lost-{n}", 200_000)) for n in range(5)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {DiskFull}
        await all_right(store, ids)
    async with opened(kind, path) as store:
        await all_right(store, ids)
        ballast.unlink()
        for id in ("after", "again"):
            await store.put(put(id, 20_000))
        await all_right(store, [*ids, "after", "again"])
    async with opened(kind, path) as store:
        await all_right(store, [*ids, "after", "again"])


async def test_a_backup_to_a_full_disk_leaves_nothing_there(small_disk: Path, tmp_path: Path) -> None:
    """Each try left a journal of what SQLite would have undone."""
    async with sqlite(tmp_path / "memory.db") as store:
        await store.put_many(put(f"k{n}", 100_000) for n in range(60))
        for _ in range(2):
            with pytest.raises(DiskFull):
                await store.database.backup(small_disk / "copy.db")
            assert list(small_disk.iterdir()) == []


async def test_a_full_disk_ends_a_transaction_whatever_its_body_does(small_disk: Path) -> None:
    """SQLite rolls all of it back by itself, and what the body writes then must not commit on its own.

    Mutant: without the error hook of the engine, the rows written after the error were there.
    """
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20))
    async with sqlite(small_disk / "store") as store:
        await store.prepare()
        await store.database.write(lambda c: c.execute(text("CREATE TABLE plain (n INTEGER, b BLOB)")) and None)
        ids = await fill(store)
        with pytest.raises(StorageError):
            await go_on_regardless(store)
        with pytest.raises(DiskFull):
            await run(store, "INSERT INTO plain VALUES (3, zeroblob(6000000))")
        ballast.unlink()
        await all_right(store, ids)
        assert await rows(store) == []
        async with store.database.transaction() as tx:
            await tx.session.execute(text("INSERT INTO plain VALUES (4, '')"))
            await store.joined(tx).put(put("after", 20_000))
        assert await rows(store) == [4]
        await all_right(store, [*ids, "after"])


async def go_on_regardless(store: SQLiteBackend) -> None:
    """Write in a transaction, meet the full disk, and write again."""
    async with store.database.transaction() as tx:
        await tx.session.execute(text("INSERT INTO plain VALUES (1, '')"))
        with pytest.raises(DiskFull):
            await store.joined(tx).put(put("large", 20 * 2**20))  # more than the cache: it meets the disk now
        with suppress(Exception):
            await tx.session.execute(text("INSERT INTO plain VALUES (2, '')"))
        with suppress(Exception):
            await store.joined(tx).put(put("small", 10))


async def run(store: SQLiteBackend, statement: str) -> None:
    async with store.database.transaction() as tx:
        await tx.session.execute(text(statement))


async def rows(store: SQLiteBackend) -> list[int]:
    return await store.database.read(lambda c: list(c.execute(text("SELECT n FROM plain")).scalars()))


async def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    for kind in ("sqlite", "jsonl"):
        with suppress(OSError):
            ballast.write_bytes(bytes(5 * 2**20))
        store = make(kind, small_disk / kind)
        with pytest.raises((DiskFull, ReadOnly)):
            await store.put(put("a"))
        ballast.unlink()
        await store.put(put("a"))
        assert await store.exists("a")
        await store.close()


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """The same without a file system of our own, with `ulimit -f`: it works for every user."""
    source = """
import asyncio, resource, sys
from dgent.datum import Datum
from dgent.exceptions import DiskFull
from dgent.memory.sql.sqlite_backend import SQLiteBackend

async def main(path):
    store, n = SQLiteBackend(path), 0
    await store.put(Datum("first", b"x", 1.0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    try:
        while True:
            await store.put(Datum(f"k{n}", b"x" * 3000, 1.0))
            n += 1
    except DiskFull as error:
        assert path in str(error), error
    for _ in range(3):
        try:
            async with store.database.transaction() as tx:
                await store.joined(tx).put(Datum("in tx", b"y" * 300_000, 1.0))
            raise SystemExit("no error")
        except DiskFull:
            pass
    assert await store.count() == n + 1 and n > 10, n
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await store.put(Datum("large", b"y" * 900_000, 1.0))).seq == n + 2
    await store.close()
    again = SQLiteBackend(path)
    assert await again.count() == n + 2
    await again.close()
    print("fine")

asyncio.run(main(sys.argv[1]))
"""
    assert output(source, tmp_path / "store") == "fine"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder and what is in it read-only, by a mount for root, who looks at no modes."""
    if os.geteuid():
        files = [folder, *folder.iterdir()]
        modes = [file.stat().st_mode for file in files]
        for file, mode in zip(files, modes, strict=True):
            file.chmod(mode & ~0o222)
        yield
        for file, mode in zip(files, modes, strict=True):
            file.chmod(mode)
        return
    try:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user cannot mount a file system: {error}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_a_read_only_folder_is_an_error_and_not_an_empty_store(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with read_only(folder):
        async with opened(kind, folder / "store") as store:
            for use in (store.put(put("a")), store.get("a"), store.count()):
                with pytest.raises(ReadOnly, match=str(folder)):
                    await use
            assert await store.is_available() is False
    async with opened(kind, folder / "store") as store:
        await store.put(put("a", 20_000))
    with read_only(folder):
        async with opened(kind, folder / "store") as store:
            with pytest.raises(ReadOnly):
                await store.put(put("b"))
            with suppress(ReadOnly):  # reading may be refused, but not answered with nothing
                assert await store.exists("a")
    async with opened(kind, folder / "store") as store:
        await store.put(put("b", 20_000))
        await all_right(store, ["a", "b"])
