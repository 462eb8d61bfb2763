"""What every store with data of its own can be asked for: tables, how much, a check, a copy, and an erasure."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, inspect, text
from tests.portable import each, exported, resealed

from dgent import Datum, Query, StorageProvider
from dgent.causal import MaintainedLog, SigningKey
from dgent.exceptions import ChainBroken, Conflict, Corrupt, InvalidFile
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.maintenance import MaintainedMemory
from dgent.models.brain import Crystal
from dgent.sql.maintained import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dgent.sql import Database

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))


@pytest.fixture(params=["sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageProvider]:
    """Return a storage with every table in place, on each database in turn."""
    given: dict[str, Any] = {"data_dir": tmp_path / "data"}
    if request.param == "postgres":
        given["database_url"] = request.getfixturevalue("postgres_url")
    async with await StorageProvider.from_config(**given) as opened:
        await opened.run_migrations()
        yield opened


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[StorageProvider]:
    """Return another storage, with nothing in it."""
    async with await StorageProvider.from_config(data_dir=tmp_path / "elsewhere") as opened:
        yield opened


async def run(database: Database, *statements: str) -> None:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await database.write(work)


async def checked(storage: StorageProvider) -> list[tuple[str, str, str, int]]:
    return [found[:4] for store in storage.maintained async for found in store.check()]


async def fill(storage: StorageProvider) -> None:
    """Put versions, tombstones, causes, tags and times to live into two namespaces."""
    for memory in (storage.memory, storage.memory.within("agents/ada")):
        await memory.put_many(Datum.create(data=n, id=f"many-{n:04}") for n in range(BATCH + 7))
        await memory.put(Datum.create("one", id="root", tags=["maps", "old"]))
        await memory.put(Datum.create("two", id="root", tags=["maps"]))
        await memory.put(Datum.create("child", id="child", causal_parent="root", created_at=1.5), ttl=3600)
        await memory.put_many(Datum.create(bytes(2**20), id=f"large-{n}") for n in range(9))
        await memory.delete_many(f"large-{n}" for n in range(9))
        await memory.put(Datum.create("gone", id="gone"))
        await memory.delete("gone")


async def answers(memory: SqlBackend) -> list[Any]:
    """Return what a namespace answers, whatever the time at which it is asked."""
    ids = ["root", "child", "gone", "many-0003"]
    pages = [await memory.query(Query(limit=10_000, order="seq")), await memory.query(Query(tags={"maps"}))]  # type: ignore[arg-type]
    return [
        [await memory.history(id) for id in ids],
        [[(one, one.version, one.seq) for one in page] for page in pages],
        await memory.query(Query(tags={"old"})),  # type: ignore[arg-type]
        await memory.causal_chain("child"),
        await memory.stats(),
        await memory.as_of(time.time() + 7200),
    ]


async def test_every_table_of_ours_is_on_the_list(storage: StorageProvider) -> None:
    await fill(storage)
    await storage.log.append("audit", "ada", b"x")
    names = await storage.database.read(lambda connection: inspect(connection).get_table_names())
    ours = {name for name in names if name.startswith(("dgent_", "_agent_store_"))} - {"dgent_meta"}
    listed = [name for store in storage.maintained for name in store.tables]
    assert ours <= set(listed)
    assert len(listed) == len(set(listed))
    assert {store.name for store in storage.maintained} == {"memory", "log", "tables"}
    assert await checked(storage) == []


async def test_status_tells_how_much_there_is(storage: StorageProvider) -> None:
    await storage.memory.put(Datum.create("x"))
    await storage.log.append_many("audit", "ada", [b"x", b"y"])
    await storage.log.append("audit", "bob", b"x")
    await storage.generation("turns").bump()
    async with storage.transaction() as tx:
        tx.session.add(Crystal(id="c", content_hash="h", summary="s", tags=[], datum_id="d"))
    holds: Any = (await storage.status())["holds"]
    assert holds["memory"] == {"namespaces": 1, "stored": 1}
    assert holds["log"] == {"logs": 2, "entries": 3, "checkpoints": 0, "generations": 1}
    assert holds["tables"]["brain_crystals"] == 1


async def test_status_makes_nothing(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path, chain=("jsonl",)) as storage:
        holds: Any = (await storage.status())["holds"]
        assert (holds["memory"], holds["tables"]) == ({"namespaces": 0, "stored": 0}, {})
        assert await checked(storage) == []
        assert [record["kind"] for record in await exported(MaintainedMemory(storage.database))] == ["end"]
        assert await MaintainedLog(storage.database).erase("ada") == 0
        assert not (tmp_path / "membrane.db").exists()


async def test_a_check_names_what_is_damaged_and_goes_on(storage: StorageProvider) -> None:
    await fill(storage)
    await storage.log.append_many("audit", "ada", [b"1", b"2", b"3"])
    await storage.log.within("agent-store/1").append("audit", "bob", b"1")
    await run(
        storage.database,
        "UPDATE dgent_datums SET created_at = 7 WHERE namespace = 'agents/ada' AND id = 'many-0003'",
        "UPDATE dgent_datums SET metadata = '{}' WHERE namespace = 'default' AND id = 'root' AND version = 1",
        "DELETE FROM dgent_heads WHERE namespace = 'agents/ada'",
        "UPDATE dgent_heads SET seq = 1 WHERE namespace = 'default'",
        "UPDATE dgent_log SET payload = content_hash WHERE seq = 2",
        "DELETE FROM _agent_store_log",
        "INSERT INTO _agent_store_log (stream, writer, seq, content_hash, payload) "
        "SELECT stream, writer, 2, content_hash, payload FROM dgent_log WHERE seq = 1",
    )
    assert await checked(storage) == [
        ("dgent_datums", "agents/ada", "many-0003", 1),
        ("dgent_datums", "default", "root", 1),
        ("dgent_heads", "agents/ada", "", 0),
        ("dgent_heads", "default", "", 0),
        ("dgent_log", "ada in audit", "", 2),
        ("_agent_store_log", "ada in audit", "", 1),
    ]


async def test_a_check_names_marks_of_being_live_that_are_wrong(storage: StorageProvider) -> None:
    memory = storage.memory
    for id in ("hidden", "risen", "twice"):
        await memory.put_many([Datum.create("1", id=id), Datum.create("2", id=id)])
    await memory.put(Datum.create("gone", id="gone"))
    await memory.delete("gone")
    assert await checked(storage) == []
    mark = "UPDATE dgent_datums SET live = {} WHERE id = '{}' AND version = {}"
    await run(
        storage.database,
        mark.format("false", "hidden", 2),
        mark.format("false", "risen", 2),
        mark.format("true", "risen", 1),
        mark.format("true", "twice", 1),
        mark.format("true", "gone", 2),
    )
    assert await memory.count() == 4  # of three that are live
    assert await checked(storage) == [
        ("dgent_datums", "default", "gone", 2),
        ("dgent_datums", "default", "hidden", 2),
        ("dgent_datums", "default", "risen", 1),
        ("dgent_datums", "default", "risen", 2),
        ("dgent_datums", "default", "twice", 1),
    ]


async def test_a_check_names_what_an_index_lacks_and_what_it_has_of_nothing(storage: StorageProvider) -> None:
    await fill(storage)
    await run(
        storage.database,
        "INSERT INTO dgent_terms SELECT namespace, term + 1, created_at, 'ghost', 1 FROM dgent_terms "
        "WHERE namespace = 'default'",
        "DELETE FROM dgent_terms WHERE namespace = 'agents/ada' AND id = 'root'",
        "UPDATE dgent_terms SET version = 1 WHERE namespace = 'default' AND id = 'root'",
    )
    assert sorted(await checked(storage)) == [
        ("dgent_terms", "agents/ada", "root", 2),
        ("dgent_terms", "default", "ghost", 1),
        ("dgent_terms", "default", "root", 1),
        ("dgent_terms", "default", "root", 2),
    ]


async def test_a_check_beside_writers_names_nothing(storage: StorageProvider) -> None:
    done = False

    async def write(which: str) -> None:
        for n in count():
            id = f"{which}-{n % 7}"
            await storage.memory.put(Datum.create(str(n), id=id, tags=[str(n % 3)], metadata={"n": n}))
            await storage.memory.delete(f"{which}-{n * 3 % 7}")
            if done:
                return

    writers = [asyncio.create_task(write(which)) for which in "ab"]
    try:
        for _ in range(20):
            assert await checked(storage) == []
    finally:
        done = True
        await asyncio.gather(*writers)


async def test_a_check_names_the_rows_that_cannot_be_read(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path) as storage:
        await storage.run_migrations()
        async with storage.transaction() as tx:
            tx.session.add_all(Crystal(id=id, content_hash="h", summary="s", tags=[], datum_id="d") for id in "abc")
        await run(storage.database, "UPDATE brain_crystals SET created_at = 'never' WHERE id IN ('a', 'c')")
        found = await checked(storage)
        assert sorted(found) == [("brain_crystals", "", "a", 1), ("brain_crystals", "", "c", 1)]


async def test_memory_comes_back_as_it_was_with_all_versions(
    storage: StorageProvider, elsewhere: StorageProvider
) -> None:
    await fill(storage)
    source, target = MaintainedMemory(storage.database), MaintainedMemory(elsewhere.database)
    records = await exported(source)
    assert await target.import_(each(records)) == sum(record["kind"] == "version" for record in records)
    for namespace in ("default", "agents/ada"):
        there, here = (SqlBackend(one.database, namespace) for one in (storage, elsewhere))
        assert await answers(here) == await answers(there)
        assert (await here.put(Datum.create("next", id="gone"))).seq == (await there.head()) + 1
    assert await checked(elsewhere) == []
    assert await exported(target, "agents/ada") != await exported(source, "agents/ada")  # which has one more now
    with pytest.raises(Conflict, match="erase it first"):
        await target.import_(each(records))


async def test_one_namespace_is_exported_and_erased_alone(storage: StorageProvider, elsewhere: StorageProvider) -> None:
    await fill(storage)
    keeper = MaintainedMemory(storage.database)
    records = await exported(keeper, "agents/ada")
    assert {record["namespace"] for record in records[:-1]} == {"agents/ada"}
    head = await SqlBackend(storage.database, "agents/ada").head()
    assert await keeper.erase("agents/ada") == len(records) - 2
    assert await keeper.erase("agents/ada") == 0
    ada = SqlBackend(storage.database, "agents/ada")
    assert (await ada.count(), await ada.query(Query(tags={"maps"}))) == (0, [])  # type: ignore[arg-type]
    assert await ada.history("root") == []
    assert await SqlBackend(storage.database).count() == BATCH + 9
    assert (await ada.put(Datum.create("new"))).seq == head + 1  # whoever reads behind the head hears of it
    assert await MaintainedMemory(elsewhere.database).import_(each(records)) == len(records) - 2


async def test_what_is_damaged_is_not_exported_and_what_was_changed_not_imported(
    storage: StorageProvider, elsewhere: StorageProvider
) -> None:
    await storage.memory.put_many([Datum.create("a", id="a"), Datum.create("b", id="b", tags=["x"])])
    source, target = MaintainedMemory(storage.database), MaintainedMemory(elsewhere.database)
    records = await exported(source)
    for harm in (
        {"content": "AAAA"},
        {"seq": 9},
        {"id": "c"},
        {"namespace": "other"},
        {"expires_at": 1.0},
        {"digest": "zz"},
        {"metadata": "{"},
        {"id": ""},
        {"kind": "entry"},
        {"parent": 7},
    ):
        *before, last, end = records
        for changed in ({**last, **harm}, {k: v for k, v in last.items() if k not in harm}):
            with pytest.raises(InvalidFile):
                await target.import_(each(await resealed([*before, changed, end])))
    assert await SqlBackend(elsewhere.database).count() == 0
    await run(storage.database, "UPDATE dgent_datums SET stored_at = 1 WHERE id = 'b'")
    with pytest.raises(Corrupt, match="'b'"):
        await exported(source)
    for harm in ("UPDATE dgent_heads SET seq = 1", "DELETE FROM dgent_heads"):
        await run(storage.database, harm)
        with pytest.raises(Corrupt, match="stands before the seq 2"):
            await exported(source)
    assert len(await exported(source, "another")) == 1


async def test_logs_come_back_as_they_were(storage: StorageProvider, elsewhere: StorageProvider) -> None:
    await storage.log.append_many("audit", "ada", [str(n).encode() for n in range(BATCH + 7)])
    await storage.log.within("agent-store/1").append_many("audit", "bob", [b"1", b"2"])
    await storage.generation("turns").set(41)
    checkpoint = await storage.log.sign("audit", "ada", KEY)
    source, target = MaintainedLog(storage.database), MaintainedLog(elsewhere.database)
    records = await exported(source)
    assert await target.import_(each(records)) == BATCH + 7 + 2 + 1
    assert await target.import_(each(records)) == 0
    for log in (elsewhere.log, elsewhere.log.within("agent-store/1")):
        there = storage.log.within(log.format)
        for writer in ("ada", "bob"):
            assert await log.entries("audit", writer) == await there.entries("audit", writer)
            assert await log.verify("audit", writer) == await there.head("audit", writer)
    assert await elsewhere.log.latest("audit", "ada") == checkpoint
    assert await elsewhere.generation("turns").current() == 41
    assert await exported(target) == records
    assert {record.get("writer", "bob") for record in await exported(target, "bob")} == {"bob"}
    await storage.log.append("audit", "ada", b"more")  # and an import goes on where the last one ended
    assert await target.import_(each(await exported(source))) == 1


async def test_a_log_that_differs_is_refused(storage: StorageProvider, elsewhere: StorageProvider) -> None:
    await storage.log.append_many("audit", "ada", [b"1", b"2", b"3"])
    source, target = MaintainedLog(storage.database), MaintainedLog(elsewhere.database)
    records = await exported(source)
    for harm in ({"payload": "AAAA"}, {"content_hash": "00" * 32}, {"format": "other"}, {"seq": "3"}, {"prev_hash": 7}):
        with pytest.raises(InvalidFile):
            await target.import_(each(await resealed([*records[:-2], {**records[-2], **harm}, records[-1]])))
    with pytest.raises(InvalidFile, match="taken out"):
        await target.import_(each(await resealed(records[1:])))
    assert await elsewhere.log.streams() == []
    await elsewhere.log.append("audit", "ada", b"another")
    with pytest.raises(Conflict, match="another entry"):
        await target.import_(each(records))
    await run(storage.database, "UPDATE dgent_log SET payload = content_hash WHERE seq = 2")
    with pytest.raises(ChainBroken):
        await exported(source)


async def test_a_writer_is_erased_from_every_stream(storage: StorageProvider) -> None:
    for stream in ("audit", "events"):
        for writer in ("ada", "bob"):
            await storage.log.append_many(stream, writer, [b"1", b"2"])
            await storage.log.within("agent-store/1").append(stream, writer, b"1")
    await storage.log.sign("audit", "ada", KEY)
    await storage.log.sign("audit", "bob", KEY)
    keeper = MaintainedLog(storage.database)
    assert await keeper.erase("ada") == 6
    assert await keeper.erase("ada") == 0
    assert await storage.log.writers("audit") == ["bob"]
    assert await storage.log.signed_places() == [("audit", "bob")]
    assert (await storage.log.verify("events", "bob")).seq == 2
    assert (await keeper.stats())["entries"] == 6
