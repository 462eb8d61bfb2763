"""Law L-W3: a file of the crate `agent-store` is verified and written here, and the crate's rule still holds in it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.assets.freeze_agent_store import ENTRIES, GENERATIONS, TABLES, add, chains, make
from tests.causal.log_locations import async_database, verified
from tests.faults.stores import sync_engine

from dgent.causal.generation import Generation
from dgent.causal.hash_chain import AGENT_STORE
from dgent.causal.log_tables import TABLES as OURS
from dgent.causal.writer_log import WriterLog
from dgent.exceptions import ChainBroken

if TYPE_CHECKING:
    from sqlalchemy import Engine

FROZEN = Path(__file__).resolve().parent.parent / "assets" / "agent-store-0.1.db"
LOG = WriterLog(AGENT_STORE)
PLACE = ("conv:demo", "alice")


@pytest.fixture(params=["frozen", "made"])
def file(request: pytest.FixtureRequest, sqlite_path: Path) -> Path:
    """A file of the crate's: the one that was frozen, or one made now."""
    if request.param == "frozen":
        shutil.copyfile(FROZEN, sqlite_path)
    else:
        make(sqlite_path)
    sqlite_path.chmod(0o600)
    return sqlite_path


def columns(path: Path, table: str) -> list[tuple[object, ...]]:
    """Return name, type, and place in the primary key of each column, and whether it may be null where it is no key."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return [(name, kind, key, key > 0 or required) for _, name, kind, required, _, key in rows]


def check_rule(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert chains(connection)


def test_l_w3_a_file_of_the_crate_verifies_and_goes_on_here(file: Path) -> None:
    before = {table: columns(file, table) for table in ("_agent_store_log", "_agent_store_meta")}
    engine = sync_engine(str(file))
    with engine.begin() as connection:
        OURS.prepare(connection)
        places = {entry[:2] for entry in ENTRIES}
        assert verified(connection, LOG) == dict.fromkeys(places)
        for stream, writer in places:
            payloads = [entry[2] for entry in ENTRIES if entry[:2] == (stream, writer)]
            assert [entry.payload for entry in LOG.entries(connection, stream, writer)] == payloads
            assert LOG.head(connection, stream, writer).seq == len(payloads)
        assert LOG.append(connection, *PLACE, b"ours").seq == 4
        assert [entry.seq for entry in LOG.append_many(connection, *PLACE, [b"", b"y" * 9000])] == [5, 6]
        assert LOG.append(connection, "conv:new", "carol", b"first").prev_hash is None
        assert [entry.writer for entry in LOG.merged(connection, "conv:demo", limit=2)] == ["alice", "bob"]
        assert Generation("report").current(connection) == GENERATIONS["report"] == 2
        assert Generation("report").bump(connection) == 3
        assert Generation("new").bump(connection) == 1
    engine.dispose()
    check_rule(file)
    with closing(sqlite3.connect(file)) as connection, connection:  # and there again
        assert add(connection, *PLACE, b"theirs") == 7
        assert dict(connection.execute("SELECT * FROM _agent_store_meta")) == {**GENERATIONS, "report": 3, "new": 1}
    engine = sync_engine(str(file))
    with engine.begin() as connection:
        assert LOG.verify(connection, *PLACE).seq == 7
        assert LOG.append(connection, *PLACE, b"ours again").seq == 8
    engine.dispose()
    check_rule(file)
    assert {table: columns(file, table) for table in before} == before


async def test_l_w3_through_the_asynchronous_database(file: Path) -> None:
    database = async_database(str(file))
    try:
        await database.write(OURS.prepare)
        assert (await database.read(lambda connection: LOG.verify(connection, *PLACE))).seq == 3
        assert (await database.write(lambda connection: LOG.append(connection, *PLACE, b"ours"))).seq == 4
    finally:
        await database.close()
    check_rule(file)


def test_l_w3_damage_to_a_file_of_the_crate_is_found(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE _agent_store_log SET payload = x'00' WHERE stream = 'conv:demo' AND seq = 2")
    engine = sync_engine(str(file))
    with engine.begin() as connection, pytest.raises(ChainBroken, match="'alice' in 'conv:demo' is broken at seq 2"):
        LOG.verify(connection, *PLACE)
    engine.dispose()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_l_w3_a_file_of_ours_has_the_tables_of_the_crate(engine: Engine, place: str, tmp_path: Path) -> None:
    """The crate's `CREATE TABLE IF NOT EXISTS` changes nothing, and its statements fit."""
    with engine.begin() as connection:
        LOG.append_many(connection, *PLACE, [b"hello world", b"2"])
    engine.dispose()
    theirs = tmp_path / "theirs.db"
    make(theirs)
    for table in ("_agent_store_log", "_agent_store_meta"):
        assert columns(Path(place), table) == columns(theirs, table)
    with closing(sqlite3.connect(place)) as connection, connection:
        for statement in TABLES:
            connection.execute(statement)
        assert add(connection, *PLACE, b"theirs") == 3
    check_rule(Path(place))
    with engine.begin() as connection:
        assert LOG.verify(connection, *PLACE).seq == 3
    engine.dispose()


def test_l_w3_the_frozen_file_is_what_is_made_now(tmp_path: Path) -> None:
    make(tmp_path / "made.db")
    copy = shutil.copyfile(FROZEN, tmp_path / "frozen.db")
    found = []
    for path in (tmp_path / "made.db", copy):
        with closing(sqlite3.connect(path)) as connection:
            found.append(sorted(connection.execute("SELECT * FROM _agent_store_log"), key=lambda row: row[:3]))
    assert found[0] == found[1]
    assert len(found[0]) == len(ENTRIES)
