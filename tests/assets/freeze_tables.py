"""Freeze the tables outside Alembic, as this version makes them: `python tests/assets/freeze_tables.py 1`.

It makes `tables-1.db` for SQLite, `tables-1.sql` for PostgreSQL, and beside each what every verb answers over it, as
JSON. Never make one again for a format that was released: they stand for the databases that are there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgent.causal.generation import AsyncGeneration
from dgent.causal.hash_chain import FORMATS
from dgent.causal.async_log import AsyncLog
from dgent.datum import Datum
from dgent.memory.sql.backend import SqlBackend
from dgent.query import Query
from dgent.settings import Settings
from dgent.sql import open_database

if TYPE_CHECKING:
    from dgent.page import Page
    from dgent.sql import Database

HERE = Path(__file__).resolve().parent
NAMESPACES = ["agents/ada", "default"]
GENERATIONS = ["report", "board"]
PG_DUMP = os.environ.get("PG_DUMP", "pg_dump")  # it has to be of the server's own version
OPTIONS = ["--inserts", "--schema=public", "--no-owner", "--no-privileges", "--no-comments"]
OF_PSQL = ("\\", "--", "SET ", "SELECT ", "CREATE SCHEMA")  # lines that a test has no use for
SIGNED = ("audit", "ada")


async def fill(database: Database) -> None:
    """Write what each verb writes, and what waits for a store elsewhere, in its first format."""
    await fill_tables(database)
    await _fill_outbox(database)
    await _fill_spill(SqlBackend(database))


async def fill_tables(database: Database) -> None:
    """Write what each verb writes, through the public face."""
    memory = SqlBackend(database)
    await _fill_memory(memory)
    await memory.within("agents/ada").put_many(
        [Datum("note", b"another tenant", 1.5, metadata={"tags": ["tea"]}), Datum("%_'\"", b"", -1e9)]
    )
    await _fill_logs(AsyncLog(database))
    for key in GENERATIONS:
        await AsyncGeneration(database, key).bump()
    await AsyncGeneration(database, "report").set(40)


async def _fill_memory(memory: SqlBackend) -> None:
    await memory.put(Datum("root", b"The map is not the territory.", 1000.25, metadata={"tags": ["maps", "Karten"]}))
    await memory.put(Datum("child", "ünïcode ☃".encode(), 2000.0, "root", {"n": 1.0, "deep": {"a": [None, True]}}))
    await memory.put(Datum("grandchild", b"\x00\xff" * 3000, 3000.0, "child"))
    await memory.put(Datum("root", b"It never was.", 1000.5, metadata={"tags": ["maps"], "author": "ada"}))
    await memory.put(Datum("gone", b"for a while", 1.0))
    await memory.delete("gone")
    await memory.put(Datum("back", b"first", 2.0))
    await memory.delete("back")
    await memory.put(Datum("back", b"second", 3.0))
    await memory.put(Datum("lease", b"for a very long time", 4.0), ttl=1e10)
    await memory.put(Datum("expired", b"at once", 5.0), ttl=1e-3)
    await memory.put(Datum("purged", b"never to be seen", 6.0))
    await memory.purge("purged")
    await memory.put_many([Datum(f"many/{n:03}", bytes([n]), float(n), metadata={"n": n}) for n in range(8)])


async def _fill_logs(logs: AsyncLog) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from dgent.causal.keys import SigningKey

    for format in FORMATS:
        log = logs.within(format)
        for stream, writer in [SIGNED, ("audit", "grace"), ("board", "ada")]:
            await log.append_many(stream, writer, [f"{stream} of {writer}: {n}".encode() for n in range(5)])
        key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        await log.sign(*SIGNED, key)
        await log.append(*SIGNED, b"after the checkpoint")


async def _fill_outbox(database: Database) -> None:
    from dgent.bridge import outbox  # of the version that is frozen

    box = outbox.Outbox(database, SqlBackend(database))
    await box.prepare()
    writes = [
        ("a", Datum("a", b"waits", 7.0, metadata={"tags": ["x"]}), None),
        ("a", None, None),
        ("b", Datum("b", b"", 8.0), 60.0),
    ]
    for namespace in NAMESPACES:
        await database.write(lambda connection, namespace=namespace: outbox.add(connection, namespace, writes))
    await database.write(
        lambda connection: outbox.add(connection, "default", [("c", Datum("c", b"kept", 9.0), "keep")])
    )


async def _fill_spill(memory: SqlBackend) -> None:
    from dgent.memory.spill import Operation, Spill  # of the version that is frozen

    spill = Spill(memory, "postgres:frozen")
    await spill.append("default", [Operation("x", Datum("x", b"spilled", 10.0)), Operation("y", None)], 11.0)
    await spill.append("agents/ada", [Operation("x", Datum("x", b"elsewhere", 12.0), 1e10)], 13.0)
    pages = [page async for page in spill.entries()]
    await spill.set_aside([pages[0][1]])


async def answers(database: Database) -> dict[str, Any]:
    """Return what each verb that reads answers over the frozen data."""
    memory = SqlBackend(database)
    found: dict[str, Any] = {"namespaces": [name for name in await memory.namespaces() if not name.startswith(".")]}
    for namespace in NAMESPACES:
        found[namespace] = await _memory(memory.within(namespace))
    for format in FORMATS:
        found[format] = await _log(AsyncLog(database).within(format))
    found["generations"] = {key: await AsyncGeneration(database, key).current() for key in GENERATIONS}
    return found


async def _memory(memory: SqlBackend) -> dict[str, Any]:
    everything = await memory.query(Query(order="oldest", limit=1000))
    ids = sorted({*(datum.id for datum in everything), "gone", "expired", "purged", "absent"})
    times = sorted({one.stored_at for id in ids for one in await memory.history(id)})
    stats = await memory.stats()
    return {
        "oldest": _page(everything),
        "tagged": _page(await memory.query(Query(tags=frozenset({"maps"})))),
        "where": _page(await memory.query(Query(where={"metadata.n": 7}))),
        "by seq": _page(await memory.query(Query(order="seq", limit=1000))),
        "history": {
            id: [[one.version, one.seq, one.stored_at, _text(one.datum)] for one in await memory.history(id)]
            for id in ids
        },
        "live": {id: _text(await memory.get(id)) for id in ids},
        "chains": {id: [one.id for one in await memory.causal_chain(id)] for id in ids},
        "as of": {str(time): [one.id for one in await memory.as_of(time, limit=1000)] for time in times},
        "stats": [stats.live, stats.versions, stats.seq],
    }


async def _log(log: AsyncLog) -> dict[str, Any]:
    streams = {}
    for stream in await log.streams():
        entries = await log.merged(stream)
        streams[stream] = [[one.writer, one.seq, one.content_hash.hex(), one.payload.decode()] for one in entries]
        for writer in await log.writers(stream):
            head = await log.verify(stream, writer)
            streams[f"head of {writer} in {stream}"] = [head.seq, head.hash and head.hash.hex()]
    signed = await log.latest(*SIGNED)
    return {"streams": streams, "checkpoint": signed and signed.to_json()}


def _page(page: Page) -> list[str | None]:
    return [_text(datum) for datum in page]


def _text(datum: Datum | None) -> str | None:
    return datum and f"{datum.version} {datum.seq} {datum.to_json()}"


async def _frozen(url: str) -> dict[str, Any]:
    database = open_database(Settings(database_url=url))
    try:
        await fill(database)
        return await answers(database)
    finally:
        await database.close()


async def freeze_sqlite(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.db"
        found = await _frozen(f"sqlite:///{source}")
        connection = sqlite3.connect(source)
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM INTO ?", (str(HERE / f"{name}.db"),))  # refuses a file that is there
        connection.close()
    _save(name, "db", found)


async def freeze_postgres(name: str, url: str) -> None:
    found = await _frozen(url)
    dump = subprocess.run([PG_DUMP, *OPTIONS, "--dbname", url], check=True, stdout=subprocess.PIPE, text=True).stdout
    with (HERE / f"{name}.sql").open("x") as file:
        file.writelines(f"{line}\n" for line in dump.splitlines() if line and not line.startswith(OF_PSQL))
    _save(name, "sql", found)


def _save(name: str, kind: str, found: dict[str, Any]) -> None:
    with (HERE / f"{name}-{kind}.json").open("x") as file:
        json.dump(found, file, indent=0, ensure_ascii=False, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    asyncio.run(freeze_sqlite(f"tables-{sys.argv[1]}"))
    asyncio.run(freeze_postgres(f"tables-{sys.argv[1]}", os.environ["KGENTS_TEST_POSTGRES_URL"]))
