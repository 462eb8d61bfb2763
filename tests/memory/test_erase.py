"""What is erased is in no table and in no file, beside whatever else happens: the laws are in `dgent.testing`."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text
from tests.faults.breakpoints import Pause, statements
from tests.faults.stores import sync_engine

from dgent.datum import Datum
from dgent.erasure_request import Erased
from dgent.exceptions import InvalidInput, StorageTimeout
from dgent.memory.change import Change
from dgent.memory.datum_index import TABLES
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.maintenance import MaintainedMemory
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.memory.sql.writes import apply_each
from dgent.operations import Put
from dgent.query import Query
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.store import Backend

NEVER = 10**6
_TAGGED = Query(tags=frozenset({"t"}))
_numbers = count()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return str(sqlite_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def opened(place: str, **named: Any) -> Any:
    return PostgresBackend(place, **named) if place.startswith("postgresql") else SQLiteBackend(place, **named)


def secrets(number: int, chance: random.Random) -> Datum:
    """Return a datum with a name in everything that a store may keep of it, and of any size."""
    return Datum.create(
        b"secret-content" * chance.choice([1, 1, 5, 50, 400]),
        id=f"secret-id-{chance.random()}",
        metadata={"secret-key": f"secret-value-{number}", "tags": ["secret-tag"]},
        causal_parent=f"secret-id-parent-{number}",
    )


async def fill(store: Backend, rounds: int, chance: random.Random) -> None:
    """Put secrets and others in turns, so that they share pages, and delete and supersede some of both."""
    secret, beside = store.within("secret-name"), store.within("beside")
    for number in range(rounds):
        mine = [secrets(number * 20 + n, chance) for n in range(20)]
        await secret.put_many(mine)
        others = [Datum.create(b"x" * chance.choice([1, 200, 3000]), id=f"{chance.random()}") for _ in range(20)]
        await beside.put_many(others)
        await secret.delete_many([datum.id for datum in mine[:5]])
        await secret.put_many([datum.replace(content=b"secret-again") for datum in mine[5:8]])
        await beside.delete_many([datum.id for datum in others[:5]])


def rows_of(place: str) -> list[str]:
    """Return every row of every table of agent memory."""
    engine = sync_engine(place)
    with engine.connect() as connection:
        tables = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in TABLES.names]
    engine.dispose()
    return [str(tuple(row)) for table in tables for row in table]


async def test_l_q4_no_table_has_a_row_that_tells_of_it(place: str) -> None:
    chance = random.Random(1)
    store = opened(place)
    await fill(store, 2, chance)
    assert any("secret" in row for row in rows_of(place))
    secret, kept = store.within("secret-name"), sum("beside" in row for row in rows_of(place))
    await secret.erase(prefix="secret-id-0.1")
    assert not [row for row in rows_of(place) if "secret-id-0.1" in row]
    assert any("secret" in row for row in rows_of(place))
    await secret.erase(everything=True)
    assert not [row for row in rows_of(place) if "secret" in row]
    assert sum("beside" in row for row in rows_of(place)) == kept
    assert [damage async for damage in MaintainedMemory(store.database).check()] == []
    assert (await MaintainedMemory(store.database).stats())["namespaces"] == 1
    await store.close()


@pytest.mark.parametrize("seed", range(3))
async def test_l_q4_no_file_has_a_byte_of_it(sqlite_path: Path, seed: int) -> None:
    """Mutant: no VACUUM. Free pages are overwritten, but copies stay that SQLite left where it moved rows."""
    store = SQLiteBackend(sqlite_path)
    await fill(store, 8, random.Random(seed))
    erased = await store.within("secret-name").erase(everything=True, vacuum=True)
    assert (erased.ids, erased.namespaces) == (160, 1)
    for path in sqlite_path.parent.iterdir():
        assert b"secret" not in path.read_bytes(), path
    await store.close()
    assert b"secret" not in sqlite_path.read_bytes()
    with closing(sqlite3.connect(sqlite_path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_l_q4_no_line_has_a_byte_of_it(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    store = JSONLBackend(path)
    await fill(store, 2, random.Random(1))
    path.with_name("store.jsonl.torn-1").write_bytes(b'{"b3":"0","line":9,"ops":[{"ns":"secret-name"')
    beside = await store.within("beside").count()
    await store.within("secret-name").erase(everything=True)
    for each in tmp_path.iterdir():
        assert b"secret" not in each.read_bytes(), each
    await store.close()
    again = JSONLBackend(path)
    assert await again.within("beside").count() == beside
    assert (await again.within("new").put(Datum.create(b"x"))).seq > 56
    await again.close()


async def test_every_connection_that_writes_overwrites_what_it_deletes(sqlite_path: Path) -> None:
    store = SQLiteBackend(sqlite_path)

    def asked(connection: Any) -> int:
        return int(connection.exec_driver_sql("PRAGMA secure_delete").scalar())

    assert await store.database.write(asked) == 1
    async with store.database.transaction() as transaction:
        assert await transaction.write(asked) == 1
    await store.close()
    engine = sync_engine(str(sqlite_path))
    with engine.begin() as connection:
        assert asked(connection) == 1
    engine.dispose()


async def test_l_q4_a_kill_before_any_statement_leaves_all_or_nothing(sqlite_path: Path, tmp_path: Path) -> None:
    """What lies in the folder at each statement, and at the end, is what a kill there would leave."""
    store = SQLiteBackend(sqlite_path)
    at, passed, images = 0, NEVER, count()

    async def look() -> tuple[int, int]:
        folder = tmp_path / f"image-{next(images)}"
        folder.mkdir()
        for path in sqlite_path.parent.glob(f"{sqlite_path.name}*"):
            if path.is_file() and not path.name.endswith((".lock", "-shm")):
                shutil.copy(path, folder / path.name)
        image = SQLiteBackend(folder / sqlite_path.name)
        here = image.within(mine.namespace)
        found = (await here.stats()).versions, len(await here.query(_TAGGED))
        assert [damage async for damage in MaintainedMemory(image.database).check()] == []
        await image.close()
        return found

    while at < passed:
        mine = store.within(f"n{at}")
        await mine.put_many([Datum.create(b"x", id=f"k{n}", tags=["t"]) for n in range(4)])
        await mine.put(Datum.create(b"y", id="k0", tags=["t"]))
        pause = Pause(at, look)
        with statements(pause):
            assert (await mine.erase(everything=at % 2 == 0, prefix=None if at % 2 == 0 else "k")).versions == 5
        if pause.task is None:
            passed = pause.passed
        else:
            assert await pause.task == (5, 4)
            assert await look() == (0, 0)
            at += 1
    assert at > 2
    await store.close()


async def test_l_q4_who_begins_a_namespace_beside_an_erasure_uses_no_seq_again(place: str) -> None:
    """A put is stopped before each of its statements while somebody else makes, fills and erases what it puts into.

    Mutant: the head row of a namespace begins at the mark that was there when its INSERT began.
    """
    one, other = opened(place), opened(place)
    await one.put(Datum.create(b"x"))
    at, passed = 0, NEVER
    async with asyncio.timeout(patience(120)):
        while at < passed:
            mine = one.within(f"n{next(_numbers)}")
            theirs = other.within(mine.namespace)
            seqs = [(await theirs.put(Datum.create(b"before"))).seq]
            await mine.put(Datum.create(b"it knows the head"))
            await theirs.erase(everything=True)

            async def meanwhile(store: Any = theirs, seqs: list[int] = seqs) -> None:
                for _ in range(2):
                    put = await store.put_many([Datum.create(b"x", id=f"k{n}") for n in range(3)])
                    seqs += [datum.seq for datum in put]
                    await store.erase(everything=True)

            pause = Pause(at, meanwhile)
            with statements(pause):
                put = await mine.put(Datum.create(b"mine", id="mine"))
            if pause.task is None:
                passed = pause.passed
            else:
                await pause.task
            last = await theirs.put(Datum.create(b"last"))
            assert len({*seqs, put.seq, last.seq}) == len(seqs) + 2
            assert last.seq > max(*seqs, put.seq)
            at += 1
    assert at > 2
    await one.close()
    await other.close()


async def test_l_q4_one_that_sees_an_older_moment_uses_no_seq_again(postgres_url: str) -> None:
    """At REPEATABLE READ the mark that it sees may be an older one: then it is refused."""
    store = PostgresBackend(postgres_url, "n")
    await store.within("elsewhere").put(Datum.create(b"x"))
    engine = sync_engine(postgres_url).execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection, connection.begin():
        assert connection.execute(text("SELECT count(*) FROM dgent_heads WHERE namespace = 'n'")).scalar() == 0
        await store.put(Datum.create(b"x"))
        await store.erase(everything=True)
        with pytest.raises(psycopg.errors.SerializationFailure):
            apply_each(connection, "n", [[Put(Datum.create(b"x"))]], time.time)
    engine.dispose()
    assert (await store.put(Datum.create(b"x"))).seq == 2
    await store.close()


async def test_an_erasure_takes_part_in_a_transaction_and_vacuums_none(place: str) -> None:
    store = opened(place)
    await store.put_many([Datum.create(b"x", id=id) for id in ("a", "ab", "b")])
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with store.database.transaction() as transaction:
            assert (await store.joined(transaction).erase(everything=True)).versions == 3
            raise ZeroDivisionError
    assert await store.count() == 3
    async with store.database.transaction() as transaction:
        inside = store.joined(transaction)
        with pytest.raises(InvalidInput, match="within a transaction"):
            await inside.erase(prefix="a", vacuum=True)
        assert await inside.erase(prefix="a") == Erased(2, 2, 1)
        assert [datum.id for datum in await inside.list()] == ["b"]
    assert await store.erase(everything=True, vacuum=True) == Erased(1, 1, 1)
    await store.close()


async def test_an_erasure_is_told_once_for_each_namespace(place: str) -> None:
    heard: list[Change] = []
    store = opened(place, on_change=heard.append)
    for name in ("a", "a/b", "c"):
        await store.within(name).put(Datum.create(b"x", id="k1"))
    heard.clear()
    await store.within("a").erase(prefix="k", below=True)
    await store.within("c").erase(everything=True)
    await store.within("c").erase(everything=True)
    assert heard == [Change("erase", "a", "k"), Change("erase", "a/b", "k"), Change("erase", "c", "")]
    await store.close()


async def test_what_is_damaged_is_erased_too(place: str) -> None:
    store = opened(place)
    await store.put_many([Datum.create(b"x", id=id, tags=["t"]) for id in ("a", "ab")])
    engine = sync_engine(place)
    with engine.begin() as connection:
        connection.execute(text("UPDATE dgent_datums SET metadata = '[1]', content = 'y' WHERE id = 'a'"))
    engine.dispose()
    assert (await store.erase(prefix="a")).ids == 2
    assert not [row for row in rows_of(place) if "'ab'" in row or "'a'" in row]
    await store.close()


async def test_who_reads_for_too_long_keeps_the_log_and_that_is_told(sqlite_path: Path) -> None:
    store = SQLiteBackend(sqlite_path, settings=Settings.load(data_dir=sqlite_path.parent, busy_timeout=0.05))
    await store.put(Datum.create(b"secret-content", id="a"))
    with closing(sqlite3.connect(sqlite_path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM dgent_datums").fetchone() == (1,)
        with pytest.raises(StorageTimeout, match="vacuum again"):
            await store.erase(everything=True, vacuum=True)
        assert await store.list() == []
    assert await store.erase(everything=True, vacuum=True) == Erased()
    assert not [path for path in sqlite_path.parent.iterdir() if b"secret" in path.read_bytes()]
    await store.close()
