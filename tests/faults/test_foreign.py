"""Another program writes and checkpoints a SQLite file that is open here: that is no damage, and a copy still is.

Another program is a bare `sqlite3` connection: of a host in this process, or in a process of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.processes import Child, ready, started, together
from tests.faults.stores import sqlite, sync_engine

from dgent.datum import Datum
from dgent.exceptions import Corrupt
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.sql.sqlite import engine as sqlite_engine
from dgent.sql.sqlite.file_note import Note
from dgent.sql.sqlite.wal_index import Progress, WalIndex
from dgent.testing.contract_base import patience

MODES = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
THEIRS = "CREATE TABLE IF NOT EXISTS theirs (n INTEGER PRIMARY KEY, x BLOB)"
WRITE = "INSERT INTO theirs (x) VALUES (zeroblob(5000))"
WRITE_MUCH = "INSERT INTO theirs (x) VALUES (zeroblob(100000))"

Run = Callable[[str], list[Any]]
"""Runs a statement as another program, and returns its rows."""


def datum(id: str) -> Datum:
    return Datum(id, id.encode() * 300, 1.0)


def large(id: str) -> Datum:
    """Return what makes the commit that it is in checkpoint."""
    return Datum(id, bytes(8 * 2**20), 1.0)


def obey(pipe: Connection, _: int, path: Path) -> None:
    """Run what comes until nothing does: called in a process."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    while sql := pipe.recv():
        try:
            pipe.send(connection.execute(sql).fetchall())
        except sqlite3.Error as error:
            pipe.send(error)
    connection.close()


@contextmanager
def program(where: str, path: Path) -> Iterator[Run]:
    """Open the file as another program, here or elsewhere, for the length of a block."""
    if where == "here":
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            yield lambda sql: connection.execute(sql).fetchall()
        finally:
            connection.close()
        return
    with started(1, obey, path) as [child]:

        def run(sql: str) -> list[Any]:
            child.answers.send(sql)
            rows = child.answer()
            if isinstance(rows, Exception):
                raise rows
            return rows

        try:
            yield run
        finally:
            child.answers.send("")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep a snapshot open for the length of a block."""
    with program("here", path) as run:
        run("BEGIN")
        run("SELECT count(*) FROM sqlite_master")
        yield


def kill(child: Child) -> None:
    child.process.kill()
    child.process.join()


def driver(store: SQLiteBackend) -> Any:
    return store.database._writer.open().connection.dbapi_connection  # type: ignore[attr-defined]


def checkpoint(store: SQLiteBackend, mode: str) -> None:
    """Checkpoint as the store's own commits do."""
    driver(store).execute(f"PRAGMA wal_checkpoint({mode})")
    store.database._writer.files.note()  # type: ignore[attr-defined]


def copied_over(path: Path, backup: Path) -> None:
    """Copy in a process of its own: to close the file here would drop the locks of SQLite."""
    time.sleep(0.01)  # a tick of the clock that files get their time from: nothing else may tell a copy of itself
    subprocess.run(["cp", backup, path], check=True)


async def holds(path: Path, ids: list[str], theirs: int) -> None:
    """Make sure that a file holds all that was acknowledged, and is whole, when it is opened again."""
    async with sqlite(path) as store:
        assert sorted(found.id for found in await store.list(limit=10_000)) == sorted(ids)
    with program("here", path) as run:
        assert run("SELECT count(*) FROM theirs") == [(theirs,)]
        assert run("PRAGMA integrity_check") == [("ok",)]


@pytest.fixture(params=["here", "elsewhere"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_another_program_may_write_so_much_that_it_checkpoints(tmp_path: Path, where: str) -> None:
    """After a thousand pages SQLite does so by itself. Mutant: no look at the index, and every verb is refused."""
    path, ids, seen = tmp_path / "membrane.db", ["first"], set()
    async with sqlite(path) as store:
        await store.put(datum("first"))
        with program(where, path) as run:
            run(THEIRS)
            for n in range(120):
                run(WRITE_MUCH)
                seen.add(path.stat().st_mtime_ns)
                ids.append(f"k{n}")
                if n % 3:
                    await store.put(datum(ids[-1]))
                else:
                    async with store.database.transaction() as tx:
                        await store.joined(tx).put(datum(ids[-1]))
                assert await store.get(ids[n // 2]) is not None
            assert len(seen) > 2
            assert await store.count() == len(ids)
    await holds(path, ids, 120)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("held", [False, True], ids=["alone", "with a reader"])
async def test_a_checkpoint_of_another_program_is_no_copy(tmp_path: Path, where: str, mode: str, *, held: bool) -> None:
    """Before and after checkpoints of ours, which are whole or, for a reader, are not."""
    path, ids = tmp_path / "membrane.db", ["first"]
    async with sqlite(path) as store:

        async def put(value: Datum) -> None:
            await store.put(value)
            ids.append(value.id)

        await store.put(datum("first"))
        with program(where, path) as run:
            run(THEIRS)
            run("PRAGMA busy_timeout=0")
            for round in range(3):
                await put(datum(f"a{round}"))
                run(f"PRAGMA wal_checkpoint({mode})")
                await put(datum(f"b{round}"))
                checkpoint(store, "PASSIVE")
                with reading(path) if held else program("here", path):
                    run(WRITE)
                    run(f"PRAGMA wal_checkpoint({mode})")
                    assert await store.get("first") is not None
                    run(f"PRAGMA wal_checkpoint({mode})")
                    await put(datum(f"c{round}"))
                    run(WRITE)
                    await put(large(f"d{round}"))
                    run(f"PRAGMA wal_checkpoint({mode})")
                await put(datum(f"e{round}"))
            assert await store.count() == len(ids)
    await holds(path, ids, 6)


async def readers_go_on(store: SQLiteBackend) -> None:
    for _ in range(30):
        assert await store.get("first") is not None
        await asyncio.sleep(0.001)


async def a_transaction_goes_on(store: SQLiteBackend) -> None:
    async with store.database.transaction() as tx:
        await store.joined(tx).put(datum("more"))


async def a_put_goes_on(store: SQLiteBackend) -> None:
    await store.put(datum("more"))


@pytest.mark.parametrize("goes_on", [readers_go_on, a_transaction_goes_on, a_put_goes_on])
async def test_whoever_looks_first_goes_on(
    tmp_path: Path, where: str, goes_on: Callable[[SQLiteBackend], Awaitable[None]]
) -> None:
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("first"))
        assert await store.get("first") is not None
        with program(where, path) as run:
            for mode in MODES:
                run(THEIRS)
                run(WRITE)
                run(f"PRAGMA wal_checkpoint({mode})")
                await goes_on(store)
            run(WRITE)
            run("PRAGMA wal_checkpoint(PASSIVE)")
        await goes_on(store)


def test_a_synchronous_program_goes_on(tmp_path: Path, where: str) -> None:
    path = tmp_path / "membrane.db"
    with sync_engine(str(path)).connect() as connection, program(where, path) as run:
        for mode in MODES:
            with connection.begin():
                connection.exec_driver_sql(THEIRS)
                connection.exec_driver_sql(WRITE)
            run(WRITE)
            run(f"PRAGMA wal_checkpoint({mode})")
        with connection.begin():
            assert connection.exec_driver_sql("SELECT count(*) FROM theirs").scalar() == 2 * len(MODES)


@pytest.mark.parametrize("restarts", ["TRUNCATE", "PASSIVE"])
async def test_a_log_that_was_appended_to_after_our_checkpoint_and_begun_anew(tmp_path: Path, restarts: str) -> None:
    """Its index says that nothing of it is in the file, as after a checkpoint of ours and one commit.

    Mutant: the commits in the log are not counted.
    """
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("first"))
        with program("here", path) as run:
            run(THEIRS)
            with reading(path):  # who began before the checkpoint, so that the log cannot begin anew
                checkpoint(store, "PASSIVE")
                run(WRITE)
            run(f"PRAGMA wal_checkpoint({restarts})")
            if restarts == "PASSIVE":
                run(WRITE)
            await store.put(datum("after"))
    await holds(path, ["first", "after"], 1 + (restarts == "PASSIVE"))


@pytest.mark.parametrize("their", ["commit", "commit after our checkpoint", "look", "checkpoint that we saw"])
async def test_a_copy_is_noticed_for_all_that_another_program_does_but_checkpoint(
    tmp_path: Path, where: str, their: str
) -> None:
    """Mutant: a log that begins anew counts as a checkpoint."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup"
    async with sqlite(path) as store:
        await store.put(datum("first"))
    shutil.copy(path, backup)
    async with sqlite(path) as store:
        await store.put(datum("second"))
        with program(where, path) as run:
            run(THEIRS)
            if their == "checkpoint that we saw":
                run("PRAGMA wal_checkpoint(PASSIVE)")
                await store.put(datum("third"))
                checkpoint(store, "PASSIVE")
            elif their == "commit after our checkpoint":
                checkpoint(store, "PASSIVE")
            run("SELECT count(*) FROM theirs" if their == "look" else WRITE)
            copied_over(path, backup)
            for _ in range(2):
                with pytest.raises(Corrupt, match="was written while it was open, not by D-gent"):
                    await store.put(datum("new"))
            await store.close()
            assert path.read_bytes() == backup.read_bytes()


@pytest.mark.parametrize("closes", [False, True], ids=["who stays", "who closes"])
async def test_a_copy_after_a_checkpoint_of_another_of_ours_is_noticed(tmp_path: Path, *, closes: bool) -> None:
    """Mutant: what is known of checkpoints is what was known here, not what the other noted."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup"
    async with sqlite(path) as store, sqlite(path) as another:
        await store.put(datum("first"))
        subprocess.run(["cp", path, backup], check=True)
        await another.put(large("second"))
        if closes:
            await another.close()
        copied_over(path, backup)
        with pytest.raises(Corrupt, match="was written while it was open, not by D-gent"):
            await store.put(datum("new"))


async def test_a_copy_after_a_crash_is_noticed_though_the_index_is_a_new_one(tmp_path: Path) -> None:
    """SQLite makes the index anew from the log. Mutant: what is noted of the index is not noted anew at a start."""
    path, backup = tmp_path / "membrane.db", tmp_path / "backup"
    with started(1, put_and_wait, path) as [child]:
        child.answer()
        kill(child)
    shutil.copy(path, backup)
    async with sqlite(path) as before:
        await before.prepare()
        copied_over(path, backup)
        async with sqlite(path) as newcomer:
            await newcomer.count()
        with pytest.raises(Corrupt, match="was written while it was open, not by D-gent"):
            await before.put(datum("new"))


def put_and_wait(pipe: Connection, _: int, path: Path) -> None:
    """Put, checkpoint, put and wait to be killed: called in a process."""

    async def main() -> None:
        store = SQLiteBackend(path)
        await store.put(large("first"))
        await store.put(datum("second"))
        pipe.send("ready")
        pipe.recv()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["PASSIVE", "TRUNCATE"])
async def test_who_opens_after_a_checkpoint_of_another_program_stops_nobody(
    tmp_path: Path, where: str, mode: str
) -> None:
    """Mutant: a new generation for whatever the note does not describe."""
    path, ids = tmp_path / "membrane.db", ["first"]
    async with sqlite(path) as before:
        await before.put(datum("first"))
        with program(where, path) as run:
            run(THEIRS)
            for round in range(3):
                run(WRITE)
                run(f"PRAGMA wal_checkpoint({mode})")
                async with sqlite(path) as newcomer:
                    for store, name in ((newcomer, "newcomer"), (before, "before")):
                        ids.append(f"{name}{round}")
                        await store.put(datum(ids[-1]))
                    run(WRITE)
                    run(f"PRAGMA wal_checkpoint({mode})")
                    assert await newcomer.get("first") is not None
                ids.append(f"again{round}")
                await before.put(datum(ids[-1]))
    await holds(path, ids, 6)


async def test_closing_after_a_checkpoint_of_another_program_leaves_nothing_to_read_whole(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: whatever another program wrote into the file is no reason to checkpoint over it."""
    checked: list[Path] = []
    monkeypatch.setattr(sqlite_engine, "check_whole", checked.append)
    path = tmp_path / "membrane.db"
    async with sqlite(path) as store:
        await store.put(datum("first"))
        with program(where, path) as run:
            run(THEIRS)
            run("PRAGMA wal_checkpoint(PASSIVE)")
            run(WRITE)
    assert not path.with_name(f"{path.name}-wal").exists()
    await holds(path, ["first"], 1)
    assert checked == []


def put_often(pipe: Connection, number: int, path: Path, times: int) -> None:
    """Put so many: called in a process."""

    async def main() -> None:
        async with sqlite(path) as store:
            for n in range(times):
                await store.put(datum(f"{number}-{n}"))

    ready(pipe)
    try:
        asyncio.run(main())
        pipe.send(None)
    except BaseException as error:
        pipe.send(error)


async def test_processes_of_ours_and_another_program_write_at_once(tmp_path: Path, *, full_size: bool) -> None:
    path, times, written = tmp_path / "membrane.db", 2000 if full_size else 100, 0
    async with sqlite(path) as store:
        await store.put(datum("first"))
    with program("elsewhere", path) as run, started(2, put_often, path, times) as children:
        run(THEIRS)
        run("PRAGMA wal_autocheckpoint=20")
        together(children)
        while not all(child.answers.poll() for child in children):
            run(WRITE)
            written += 1
        assert [child.answer() for child in children] == [None, None]
    await holds(path, ["first", *(f"{number}-{n}" for number in range(2) for n in range(times))], written)


async def test_puts_go_on_while_another_program_is_in_its_checkpoint(tmp_path: Path, *, full_size: bool) -> None:
    """It changes the file again after a put has seen it do so."""
    path, ids = tmp_path / "membrane.db", ["first"]
    rounds = 10 if full_size else 3
    async with sqlite(path) as store:
        await store.put(datum("first"))
        with started(1, obey, path) as [child]:
            for round in range(rounds):
                for sql in (THEIRS, "PRAGMA wal_autocheckpoint=0", *[WRITE_MUCH] * 100, "PRAGMA wal_checkpoint"):
                    child.answers.send(sql)
                for n in range(103):
                    while n == 102 and not child.answers.poll():
                        ids.append(f"{round}-{len(ids)}")
                        await store.put(datum(ids[-1]))
                    assert not isinstance(child.answer(), Exception)
            child.answers.send("")
    await holds(path, ids, 100 * rounds)


def hold_lock(pipe: Connection, _: int, path: Path) -> None:
    """Hold the lock of whoever checkpoints, and no other, until told to go on: called in a process."""
    with path.with_name(f"{path.name}-shm").open("r+b") as index:
        fcntl.lockf(index, fcntl.LOCK_EX, 1, 121)
        pipe.send("locked")
        pipe.recv()


async def test_a_checkpoint_that_goes_on_explains_what_changes_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody died in does not. Mutant: no look at who holds the lock."""
    path = tmp_path / "membrane.db"
    half = Progress(1, 2, frames=8, begun=6, done=4)
    async with sqlite(path) as store:
        await store.put(datum("first"))
        monkeypatch.setattr(WalIndex, "read", lambda _: half)
        with started(1, hold_lock, path) as [child]:
            child.answer()
            assert WalIndex(path).checkpointed_since(half) == half
            assert WalIndex(path).checkpointed_since(half._replace(begun=4)) == half
            child.answers.send("go on")
        assert WalIndex(path).checkpointed_since(half) is None
        assert WalIndex(path).checkpointed_since(half._replace(begun=4)) == half


def fail_half_way(pipe: Connection, _: int, path: Path) -> None:
    """Checkpoint into a file that must not grow so far: called in a process."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(THEIRS)
    for _ in range(40):
        connection.execute(WRITE_MUCH)
    limit = path.stat().st_size + 50 * 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        pipe.send(str(error))
    pipe.recv()


async def test_another_program_that_fails_in_its_checkpoint_stops_nobody(tmp_path: Path) -> None:
    path, ids = tmp_path / "membrane.db", ["first"]
    async with sqlite(path) as store:
        await store.put(datum("first"))
        changed = path.stat().st_mtime_ns
        with started(1, fail_half_way, path) as [child]:
            assert isinstance(child.answer(), str)
            assert path.stat().st_mtime_ns != changed
            kill(child)
        for value in (datum("a"), large("b"), datum("c"), large("d")):
            await store.put(value)
            ids.append(value.id)
    await holds(path, ids, 40)


async def test_where_nothing_tells_a_checkpoint_from_a_copy_it_counts_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a system without /proc; and opening anew goes on."""
    path = tmp_path / "membrane.db"
    monkeypatch.setattr(WalIndex, "_address", lambda _: None)
    async with sqlite(path) as store:
        await store.put(datum("first"))
        with program("here", path) as run:
            run(THEIRS)
            run("PRAGMA wal_checkpoint(PASSIVE)")
        with pytest.raises(Corrupt, match="not by D-gent"):
            await store.put(datum("after"))
    await holds(path, ["first"], 0)


async def test_a_note_of_the_format_before_is_read_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read whole, once, and noted in the format of now."""
    checked: list[Path] = []
    monkeypatch.setattr(sqlite_engine, "check_whole", checked.append)
    path = tmp_path / "membrane.db"
    with started(1, put_and_wait, path) as [child]:
        child.answer()
        kill(child)
    lock = path.with_name(f"{path.name}.lock")
    note = Note.load(lock.read_bytes())
    assert note is not None
    before = f"dgent 2 {' '.join(map(str, note.main))} {note.log} 1 0 {note.generation}\n"
    lock.write_bytes(before.encode().ljust(255) + b" ")
    for _ in range(2):
        async with sqlite(path) as store:
            await store.put(datum("more"))
        assert checked == [path]
    assert lock.read_bytes().startswith(b"dgent 3 ")


class Machine:
    """A store, another program and a reader at one file, and what all of them wrote.

    Attributes:
        seen: whether a verb of the store that writes came after the last checkpoint of the other program. While
            somebody reads, one of ours may have come further, too, and have written nothing by which that shows.
    """

    OURS = ("put", "put_much", "transact", "look", "checkpoint", "reopen", "open_another", "read")
    THEIRS = ("write", "write_and_checkpoint", *MODES)

    def __init__(self, path: Path) -> None:
        self.path, self.backup, self.store = path, path.with_name("backup"), SQLiteBackend(path)
        self.ids: list[str] = []
        self.theirs, self.seen, self.reads = 0, True, False

    async def run(self, steps: list[str], *, copy: bool) -> None:
        try:
            await self.put()
            with program("here", self.path) as self.sql, program("here", self.path) as self.reader:
                self.sql(THEIRS)
                self.sql("PRAGMA busy_timeout=0")
                subprocess.run(["cp", self.path, self.backup], check=True)
                for step in steps:
                    await self.take(step)
                if copy:
                    await self.copy()
                    return
                await self.put()
        finally:
            await self.store.close()
        await holds(self.path, self.ids, self.theirs)

    async def take(self, step: str) -> None:
        if step in self.OURS:
            await getattr(self, step)()
            return
        self.sql(f"PRAGMA wal_autocheckpoint={int(step == 'write_and_checkpoint')}")
        if step in MODES:
            self.sql(f"PRAGMA wal_checkpoint({step})")
        else:
            self.sql(f"PRAGMA busy_timeout={int(1000 * patience(10))}")  # our writer may still be at a checkpoint
            self.sql(WRITE)
            self.sql("PRAGMA busy_timeout=0")  # but no checkpoint of theirs waits for a reader
            self.theirs += 1
        self.seen = self.seen and step == "write"

    def name(self) -> str:
        self.ids.append(f"k{len(self.ids)}")
        return self.ids[-1]

    async def put(self, size: int = 1) -> None:
        await self.store.put(Datum(self.name(), bytes(size), 1.0))
        self.seen = not self.reads

    async def put_much(self) -> None:
        await self.put(100_000)

    async def transact(self) -> None:
        async with self.store.database.transaction() as tx:
            await self.store.joined(tx).put(datum(self.name()))
        self.seen = not self.reads

    async def look(self) -> None:
        assert await self.store.get("k0") is not None
        assert await self.store.count() == len(self.ids)

    async def checkpoint(self) -> None:
        await self.put()  # which takes a checkpoint of theirs down
        checkpoint(self.store, "PASSIVE")

    async def reopen(self) -> None:
        await self.store.close()
        self.store = SQLiteBackend(self.path)
        await self.put()

    async def open_another(self) -> None:
        async with sqlite(self.path) as another:
            assert await another.count() == len(self.ids)
            await another.put(datum(self.name()))
            await self.put()
            await another.put(datum(self.name()))

    async def read(self) -> None:
        self.reader("ROLLBACK" if self.reads else "BEGIN")
        self.reader("SELECT count(*) FROM sqlite_master")
        self.reads = not self.reads

    async def copy(self) -> None:
        copied_over(self.path, self.backup)
        if self.seen:  # else a checkpoint explains the copy as well: see docs/promises.md
            with pytest.raises(Corrupt):
                await self.store.put(datum("new"))
            with pytest.raises(Corrupt):
                await self.transact()
            await self.store.close()
            assert self.path.read_bytes() == self.backup.read_bytes()


@given(steps=st.lists(st.sampled_from(Machine.OURS + Machine.THEIRS), max_size=20), copy=st.booleans())
def test_whatever_ours_and_another_program_do_nothing_is_lost_and_a_copy_is_noticed(
    steps: list[str], copy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In any order. Every fifteen pages we checkpoint, the other program at every commit, or when it says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_engine, "CHECKPOINT_PAGES", 15)
        asyncio.run(Machine(tmp_path_factory.mktemp("any") / "membrane.db").run(steps, copy=copy))
