"""How `queue-1.db` and `queue-1.jsonl` were made, by the first format of what waits for a store elsewhere.

The modules that it imports are gone, so it runs no more: it says what is in the two files, which stand for those that are
out there. The failover's spill for the target "first" lies in both, the table of the outbox in the database.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from dgent.bridge.outbox import _ALL, _SET_ASIDE, Outbox, add
from dgent.database import open_database
from dgent.datum import Datum
from dgent.memory.jsonl import JSONLBackend
from dgent.memory.spill import Operation, Spill
from dgent.memory.sqlite import SQLiteBackend
from dgent.memory.volatile import MemoryBackend
from dgent.settings import Settings

AT = 1_700_000_000.0


async def spill(store):
    s = Spill(store, "first")
    await s.append(
        "notes", [Operation("a", Datum("a", b"one\ntwo", 1.5, "root", {"tags": ["x"]})), Operation("b", None)], AT
    )
    await s.append("notes/deep", [Operation("a", Datum("a", b"\xff\x00", 2.5), 1e9)], AT)
    await s.append("notes", [Operation("a", Datum("a", b"three", 3.5))], AT)
    (page,) = [p async for p in s.entries()]
    await s.set_aside(
        [
            replace(
                page[1],
                key="01900000-0000-7000-8000-000000000001",
                reason="the first store was given another version meanwhile",
            )
        ]
    )
    await s.append("notes", [Operation("gone", None)], AT)
    last = [e async for p in s.entries() for e in p if e.id == "gone"]
    await s.forget(last)
    await store.close()


async def main():
    folder = Path(sys.argv[1])
    await spill(JSONLBackend(folder / "queue-1.jsonl"))
    path = folder / "queue-1.db"
    await spill(SQLiteBackend(path))
    db = open_database(Settings.load(database_url=f"sqlite:///{path}", data_dir=folder / "x"))
    for ns in ("one", "two"):
        box = Outbox(db, MemoryBackend(ns))
        await box.prepare()
        await db.write(
            lambda c: add(
                c,
                ns,
                [
                    ("a", Datum("a", b"1", 1.0, None, {"k": ns}), None),
                    ("a", Datum("a", b"2", 2.0), 1e9),
                    ("b", None, None),
                    ("c", Datum("c", b"", 3.0), "keep"),
                ],
            )
        )
    rows = await db.read(lambda c: _ALL.rows(c, "two"))
    await db.write(
        lambda c: _SET_ASIDE.run(c, "two", rows[2][1], "CausalCycle: 'a' descends from 'b', so it cannot be its parent")
    )
    await db.write(lambda c: c.exec_driver_sql("SELECT 1"))
    await db.close()


asyncio.run(main())
