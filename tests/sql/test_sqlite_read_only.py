"""A file that can only be read is read: by its file system, its modes, or as the URL says; writes say why not."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from tests.faults.processes import output
from tests.faults.stores import sqlite, sync_engine
from tests.faults.test_disk import read_only
from tests.faults.test_sqlite_files import HALF, PATIENCE, crashed, log, name

from dgent import StorageProvider, migrations
from dgent.datum import Datum
from dgent.exceptions import Corrupt, ReadOnly, SchemaOutdated, StoreClosed
from dgent.memory.sql import reads
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings


def datum(id: str) -> Datum:
    return Datum(id, b"x", 1.0)


async def made(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    async with sqlite(path) as store:
        await store.put_many([datum("a"), datum("b")])
        async with store.database.transaction() as tx:
            await tx.session.execute(text("CREATE TABLE plain (n INTEGER)"))


def by_url(path: Path, **options: str) -> SQLiteBackend:
    url = URL.create("sqlite+aiosqlite", database=str(path), query=options)
    return SQLiteBackend(path, settings=Settings.load(database_url=url))


async def can_be_read_only(store: SQLiteBackend, why: str) -> None:
    """Every way to read answers, every way to write says why it does not."""
    assert (await store.get("a")) == datum("a")
    assert {found.id for found in await store.list()} == {"a", "b"}
    assert await store.count() == 2
    assert await store.prepare()
    assert await store.is_available()
    assert why in str((await store.status())["read_only"])
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put(datum("c")),
        lambda: store.delete("a"),
        lambda: store.purge("a"),
        store.compact,
        lambda: store.database.write(lambda connection: connection.execute(text("INSERT INTO plain VALUES (1)"))),
    ]
    for write in writes:
        with pytest.raises(ReadOnly, match=why):
            await write()
    with pytest.raises(ReadOnly, match=why):
        async with store.database.transaction():
            pass
    assert await store.database.read(lambda c: c.execute(text("SELECT count(*) FROM plain")).scalar()) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": "ro"}, "mode=ro"),
        ({"immutable": "1"}, "immutable"),
        ({"mode": "ro", "immutable": "true"}, "immutable"),
    ],
)
async def test_a_url_may_say_so(tmp_path: Path, options: dict[str, str], why: str) -> None:
    path = tmp_path / "folder" / "membrane.db"
    await made(path)
    before = path.read_bytes()
    store = by_url(path, **options)
    await can_be_read_only(store, why)
    await store.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"mode": "ro"}, {"mode": "rw"}, {"immutable": "1"}])
async def test_what_must_be_there_is_not_made(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "folder" / "membrane.db"
    store = by_url(path, **options)
    for use in (store.get("a"), store.put(datum("a")), store.prepare()):
        with pytest.raises(ReadOnly, match="is not there"):
            await use
    await store.close()
    assert not path.parent.exists()
    await made(path)
    async with sqlite(path) as other:
        await other.put(datum("c"))
    store = by_url(path, mode="rw")
    await store.put(datum("d"))
    assert await store.count() == 4
    await store.close()


async def test_a_file_system_may_say_so(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    await made(path)
    with read_only(path.parent):
        async with sqlite(path) as store:
            await can_be_read_only(store, "can only be read")
        engine = sync_engine(str(path)).execution_options(dgent_read=True)
        with engine.begin() as connection:
            assert reads.count(connection, "default", None, 0.0) == 2
        with pytest.raises(ReadOnly, match="can only be read"), sync_engine(str(path)).begin():
            pass
        assert await migrations.current(f"sqlite:///{path}") is None
        with pytest.raises(ReadOnly, match="can only be read"):
            await migrations.upgrade(f"sqlite:///{path}")
        storage = await StorageProvider.from_config(database_url=f"sqlite:///{path}")
        assert await storage.memory.count() == 2
        with pytest.raises(ReadOnly):
            await storage.memory.put(datum("c"))
        assert storage.database.read_only
        await storage.close()
    assert not log(path).exists()
    async with sqlite(path) as store:
        await store.put(datum("c"))


async def test_tables_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    path.parent.mkdir(mode=0o700)
    async with sqlite(path) as store:
        await store.database.write(
            lambda connection: connection.execute(text("CREATE TABLE plain (n INTEGER)")) and None
        )
    store = by_url(path, mode="ro")
    with pytest.raises(SchemaOutdated, match=r"the memory tables: the tables are not there"):
        await store.get("a")
    await store.close()


async def test_what_a_crash_left_in_the_log_is_read_where_it_can_be(tmp_path: Path) -> None:
    """With the -shm it can, without it the file alone would be an older one; a foreign -wal is refused here, too."""
    path = tmp_path / "folder" / "membrane.db"
    path.parent.mkdir(mode=0o700)
    crashed(path, 0, HALF)
    index = path.with_name(f"{path.name}-shm")
    with read_only(path.parent):
        async with sqlite(path) as store:
            assert await store.count() == HALF
            assert await store.exists(name(HALF - 1))
    index.unlink()
    with read_only(path.parent):
        async with sqlite(path) as store:
            with pytest.raises(ReadOnly, match="holds commits in its -wal"):
                await store.count()
    aside = log(path).rename(tmp_path / "aside")
    with read_only(path.parent):
        async with sqlite(path) as store:
            with pytest.raises(Corrupt, match="is gone or was emptied"):
                await store.count()
    aside.rename(log(path))
    async with sqlite(path) as store:
        assert await store.count() == HALF


async def test_it_is_read_beside_who_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    await made(path)
    async with sqlite(path) as writer:
        await writer.put(datum("c"))
        store = by_url(path, mode="ro")
        assert await store.count() == 3
        await writer.put(datum("d"))
        assert await store.count() == 4
        await store.close()
        await writer.put(datum("e"))
    async with sqlite(path) as store:
        assert await store.count() == 5


async def refused(store: SQLiteBackend, kind: type[Exception], why: str) -> None:
    """Read until that is refused: reads look from time to time."""

    async def read_on() -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                await store.get("a")
                await asyncio.sleep(0.001)

    with pytest.raises(kind, match=why):
        await read_on()


async def test_what_was_opened_as_immutable_and_is_written_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    await made(path)
    store = by_url(path, immutable="1")
    assert await store.count() == 2
    async with sqlite(path) as writer:
        await writer.put(datum("c"))
    try:
        await refused(store, StoreClosed, "open it again")
    finally:
        await store.close()


async def test_a_file_exchanged_under_a_reader_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    await made(path)
    store = by_url(path, immutable="1")
    assert await store.count() == 2
    shutil.copy(path, tmp_path / "other")
    (tmp_path / "other").rename(path)
    await refused(store, Corrupt, "removed or replaced")
    await store.close()


AS_NOBODY = """
import asyncio, os, sys
from dgent.datum import Datum
from dgent.exceptions import ReadOnly
from dgent.memory.sql.sqlite_backend import SQLiteBackend
os.environ["HOME"] = os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
os.chdir("/")

async def main(path, scratch):
    store = SQLiteBackend(scratch)  # imports what another user cannot see
    await store.put(Datum("c", b"", 1.0))
    await store.list()
    await store.close()
    os.setgid(65534), os.setuid(65534)
    store = SQLiteBackend(path)
    assert await store.count() == 2
    assert await store.get("a")
    try:
        await store.put(Datum("c", b"", 1.0))
    except ReadOnly as error:
        print("ReadOnly", "mode" in str(error))
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("folder", "file"), [(0o555, 0o444), (0o777, 0o444), (0o555, 0o644)])
async def test_modes_may_say_so(tmp_path: Path, folder: int, file: int) -> None:
    """Root looks at no modes, so another user reads."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    path = Path(tempfile.mkdtemp(prefix="dgent-")) / "membrane.db"  # whose parents others can enter
    await made(path)
    try:
        path.with_name(f"{path.name}.lock").chmod(0o644)
        path.chmod(file)
        path.parent.chmod(folder)
        assert output(AS_NOBODY, path, tmp_path / "scratch.db") == "ReadOnly True"
    finally:
        shutil.rmtree(path.parent)
