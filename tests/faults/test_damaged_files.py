"""A file that is damaged, cut, exchanged or no database is an error that says so, never an empty or a wrong answer."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.exceptions import Corrupt, ReadOnly, SchemaTooNew, StorageError
from dgent.memory.sql.datum_tables import FORMAT
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.page import Page
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MARK = b"the content of the one that is looked at, "
HEADER = 100  # bytes, of a SQLite file
pytestmark = pytest.mark.filterwarnings("ignore::dgent.warnings.DamagedWarning")


def datum(n: int, version: int = 0) -> Datum:
    return Datum(f"k{n}", b"%b%d.%d" % (MARK * 4, n, version), float(n), f"k{n - 1}" if n else None, {"tags": ["t"]})


async def written(path: Path) -> None:
    """Make a store of some pages, with history, and close it, so that all of it is in one file."""
    async with sqlite(path) as store:
        await store.put_many([datum(n) for n in range(40)])
        await store.put(datum(7, 1))
        await store.delete("k8")


async def truth(store: SQLiteBackend) -> dict[str, Any]:
    """Ask in every way what the store holds; an answer may be an error."""
    asked: dict[str, Awaitable[Any]] = {
        "get": store.get("k7"),
        "old": store.get("k7", version=1),
        "gone": store.get("k8"),
        "many": store.get_many([f"k{n}" for n in range(0, 40, 3)]),
        "list": whole_page(store.list(limit=1000)),
        "prefix": whole_page(store.list("k1", limit=50)),
        "chain": store.causal_chain("k5"),
        "history": store.history("k7"),
    }
    answers = await asyncio.gather(*asked.values(), return_exceptions=True)
    return dict(zip(asked, answers, strict=True))


async def whole_page(page: Awaitable[Page]) -> Page:
    return (await page).whole()


async def look(path: Path) -> dict[str, Any]:
    """Open a file and ask, and write to it; the errors must be ours."""
    async with sqlite(path) as store:
        found = await truth(store)
        with suppress(StorageError):
            await store.put(datum(100))
    errors = [answer for answer in found.values() if isinstance(answer, Exception)]
    assert all(isinstance(error, StorageError) for error in errors), errors
    return found


@pytest.fixture
async def whole(tmp_path: Path) -> bytes:
    path = tmp_path / "whole.db"
    await written(path)
    return path.read_bytes()


def place(path: Path, content: bytes) -> Path:
    for end in ("-wal", "-shm", ".lock"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


async def never_wrong(path: Path, content: bytes, right: dict[str, Any]) -> set[str]:
    """Look at a damaged file: each answer is right, or an error. Return what kinds of answers there were."""
    kinds = set()
    for question, answer in (await look(place(path, content))).items():
        if isinstance(answer, Exception):
            kinds.add(type(answer).__name__)
        else:
            assert answer == right[question], f"a wrong answer to {question!r}"
            kinds.add("right")
    return kinds


@pytest.mark.parametrize(
    "content",
    [b"hello", b"{}\n" * 4000, b"\0" * 8192, b"SQLite format 2\0" + bytes(4080), random.Random(1).randbytes(9000)],
)
async def test_a_file_of_something_else_is_refused_and_left_alone(sqlite_path: Path, content: bytes) -> None:
    place(sqlite_path, content)
    async with sqlite(sqlite_path) as store:
        for use in (lambda: store.get("a"), lambda: store.put(datum(0)), store.list):
            with pytest.raises(Corrupt, match=str(sqlite_path)):
                await use()
        with pytest.raises(Corrupt):
            async with store.database.transaction():
                pass
        assert await store.is_available() is False
    assert sqlite_path.read_bytes() == content


async def test_a_flipped_bit_in_a_content_is_corrupt_and_never_an_answer(
    sqlite_path: Path, whole: bytes, full_size: bool
) -> None:
    """The other rows are still read; the damaged one can be purged. Mutant: the digest not compared."""
    right = await look(place(sqlite_path, whole))
    start = whole.index(datum(20).content)
    chance = random.Random(0)
    for _ in range(400 if full_size else 25):
        at, bit = start + chance.randrange(len(datum(20).content)), chance.randrange(8)
        place(sqlite_path, whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        async with sqlite(sqlite_path) as store:
            for use in (store.get("k20"), store.get("k20", version=1), store.history("k20")):
                with pytest.raises(Corrupt, match="k20"):
                    await use
            page = await store.list(limit=100)
            assert (len(page), [each.id for each in page.damaged]) == (38, ["k20"])
            with pytest.raises(Corrupt, match="k20"):
                await store.causal_chain("k21")
            assert await store.get("k7") == right["get"]
            several = await asyncio.gather(store.get("k20"), store.get("k19"), return_exceptions=True)
            assert [type(answer) for answer in several] == [Corrupt, Datum]
            assert await store.purge("k20") == 1
            assert len(await store.list(limit=100)) == 38


async def test_a_flipped_bit_in_the_header_is_an_error_or_harmless(
    sqlite_path: Path, whole: bytes, full_size: bool
) -> None:
    right, kinds = await look(place(sqlite_path, whole)), set()
    for bit in range(0, HEADER * 8, 1 if full_size else 11):
        at = bit // 8
        kinds |= await never_wrong(sqlite_path, whole[:at] + bytes([whole[at] ^ 1 << bit % 8]) + whole[at + 1 :], right)
    assert {"right", "Corrupt"} <= kinds <= {"right", "Corrupt", "ReadOnly"}


async def test_a_file_cut_short_is_an_error(sqlite_path: Path, whole: bytes, full_size: bool) -> None:
    """SQLite takes the rest of its last page for zeros, in which nothing is found.

    An emptied file is left to the manifest: for SQLite up to one byte is a new database.
    """
    right, kinds = await look(place(sqlite_path, whole)), set()
    for size in range(2, len(whole), 512 if full_size else 4096 * 2 - 1):
        found = await never_wrong(sqlite_path, whole[:size], right)
        assert "right" not in found, f"cut at {size} and not noticed at once"
        kinds |= found
    assert "Corrupt" in kinds


async def test_a_file_of_a_newer_format_is_refused(sqlite_path: Path) -> None:
    await written(sqlite_path)
    with sqlite3.connect(sqlite_path) as connection:
        connection.execute("UPDATE dgent_meta SET value = ? WHERE key = 'format'", (str(FORMAT + 1),))
    connection.close()
    async with sqlite(sqlite_path) as store:
        for use in (store.get("k7"), store.put(datum(0)), store.list(), store.purge("k7")):
            with pytest.raises(SchemaTooNew, match=f"format {FORMAT + 1}.* knows {FORMAT}"):
                await use
    with sqlite3.connect(sqlite_path) as connection:
        assert connection.execute("SELECT count(*) FROM dgent_datums").fetchone() == (42,)
    connection.close()


def removed(path: Path, aside: Path) -> None:
    path.rename(aside / path.name)


def replaced(path: Path, aside: Path) -> None:
    path.rename(aside / path.name)
    shutil.copy(aside / path.name, path)


def emptied(path: Path, aside: Path) -> None:
    path.rename(aside / path.name)
    path.touch(0o600)


@pytest.mark.parametrize("happened", [removed, replaced, emptied])
async def test_a_file_exchanged_under_an_open_store_is_corrupt(
    sqlite_path: Path, tmp_path: Path, happened: Callable[[Path, Path], None]
) -> None:
    """No write is acknowledged that only the unlinked file would have; once it is back, all goes on.

    Mutant: without the look at the inode every put was acknowledged, and gone.
    """
    aside = tmp_path / "aside"
    aside.mkdir()
    async with sqlite(sqlite_path) as store:
        await store.put_many([datum(n) for n in range(10)])
        async with store.database.transaction() as tx:
            await store.joined(tx).put(datum(10))
        assert await store.count() == 11
        happened(sqlite_path, aside)
        with pytest.raises(Corrupt, match="removed or replaced"):
            await store.put(datum(11))
        with pytest.raises(Corrupt, match="removed or replaced"):
            async with store.database.transaction() as tx:
                await store.joined(tx).put(datum(12))
        await noticed(store)
        for use in (store.get("k1"), store.list(limit=1000), store.count()):
            with pytest.raises(Corrupt, match="removed or replaced"):
                await use
        sqlite_path.unlink(missing_ok=True)
        (aside / sqlite_path.name).rename(sqlite_path)
        await store.put(datum(11))
        await asyncio.sleep(0.05)
        assert await store.count() == 12
    async with sqlite(sqlite_path) as store:
        assert {found.id for found in await store.list()} == {f"k{n}" for n in range(12)}


async def noticed(store: SQLiteBackend) -> None:
    """Wait until reads notice: they look at the name of the file from time to time, each write looks."""
    deadline = time.monotonic() + patience(10)
    while time.monotonic() < deadline:
        try:
            await store.get("k1")
        except Corrupt:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("reads go on in the file that was removed")


async def test_a_folder_removed_under_an_open_store(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum(0))
        path.parent.rename(tmp_path / "elsewhere")
        with pytest.raises((Corrupt, ReadOnly)):
            await store.put(datum(1))
        (tmp_path / "elsewhere").rename(path.parent)
        await store.put(datum(1))
        assert await store.exists("k1")
