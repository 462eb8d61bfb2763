"""Crystals: a page of them against the same rows, read inline and decoded by msgspec."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import Case
from dgent import Query, SQLiteBackend, Universe
from dgent.crystal.default_schemas import WitnessMark
from dgent.memory.metadata_index import terms_for

MARKS = 10_000
PAGES = 20
SQL = (
    "SELECT d.* FROM dgent_terms t JOIN dgent_datums d ON d.namespace = t.namespace AND d.id = t.id AND "
    "d.version = t.version WHERE t.namespace = 'default' AND t.term = ? AND d.live = 1 "
    "ORDER BY t.created_at DESC, t.id DESC LIMIT ?"
)


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; a mark has a reasoning of about `size` bytes."""
    if importlib.util.find_spec("msgspec") is None:
        print(" crystals  msgspec is not installed: pip install msgspec")
        return
    path = folder / "crystals.db"
    memory = SQLiteBackend(path)
    universe = Universe(memory)
    marks = [WitnessMark(f"act {n}", "r" * size, "Ada", tags=("a", f"t{n % 100}")) for n in range(MARKS)]
    await universe.store_many([universe.crystal(mark) for mark in marks])
    for limit in (100, 1000):
        yield _page(universe, path, size, limit)
    yield _decode(marks, size)
    await memory.close()


def _page(universe: Universe, path: Path, size: int, limit: int) -> Case:
    from msgspec.json import Decoder

    query = Query(schema="witness.mark", limit=limit)
    term = terms_for(query)[0]
    bare = sqlite3.connect(path)
    decode = Decoder(WitnessMark).decode

    async def ours() -> int:
        for _ in range(PAGES):
            assert len(await universe.query(query)) == limit
        return PAGES * limit

    def floor() -> int:
        for _ in range(PAGES):
            rows = bare.execute(SQL, (term, limit)).fetchall()
            assert len([decode(row[10]) for row in rows]) == limit
        return PAGES * limit

    return Case(f"crystal query, page of {limit}, {size} B", "the same join, msgspec", 0.40, ours, floor)


def _decode(marks: list[WitnessMark], size: int) -> Case:
    from msgspec.json import Decoder

    schema = WitnessMark.schema
    contents = [schema.encode(mark) for mark in marks]
    decode = Decoder(WitnessMark).decode

    async def ours() -> int:
        return len([schema.decode(content) for content in contents])

    def floor() -> int:
        return len([decode(content) for content in contents])

    return Case(f"crystal decode alone, {size} B", "msgspec", 0.40, ours, floor)
