"""The bridge on SQLite against stdlib sqlite3 on the same tables: rows as datums, both tracks in one transaction."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import Case
from dgent import Datum, StorageProvider
from dgent.models.brain import Crystal
from dgent.models.town import CitizenConversation, ConversationTurn

_next = itertools.count()
STAMP = "2026-01-01T00:00:00.000000Z"
ROW = (
    "INSERT INTO conversation_turns (id, conversation_id, turn_number, role, content, created_at, updated_at, version, "
    "causal_parent) VALUES (?, 'c', ?, 'user', ?, ?, ?, 1, ?)"
)
CRYSTAL = (
    "INSERT INTO brain_crystals (id, content_hash, summary, tags, created_at, updated_at, version) "
    "VALUES (?, 'h', ?, '[\"a\",\"b\"]', ?, ?, 1)"
)
TAG = "INSERT INTO brain_crystal_tags (crystal_id, tag) VALUES (?, ?)"
DATUM = (
    "INSERT INTO dgent_datums (namespace, id, version, seq, live, created_at, stored_at, metadata, content, digest) "
    "VALUES ('floor', ?, 1, ?, 1, 1.0, 1.0, '{}', ?, x'00')"
)


class Floor:
    """The bare driver on the same file, which nobody else uses meanwhile."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.execute("PRAGMA synchronous=FULL")

    def fetch(self, sql: str, calls: list[tuple[object, ...]]) -> int:
        for values in calls:
            self.db.execute(sql, values).fetchall()
        return len(calls)

    def write(self, count: int, size: int, *, both: bool) -> int:
        for at in itertools.islice(_next, count):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(ROW, (f"f{at}", 1_000_000 + at, "x" * size, STAMP, STAMP, None))
            if both:
                self.db.execute(DATUM, (f"f{at}", at, b"x" * size))
            self.db.execute("COMMIT")
        return count

    def write_tagged(self, count: int, size: int) -> int:
        for at in itertools.islice(_next, count):
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute(CRYSTAL, (f"f{at}", "x" * size, STAMP, STAMP))
            self.db.executemany(TAG, [(f"f{at}", "a"), (f"f{at}", "b")])
            self.db.execute("COMMIT")
        return count


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; each prepares its own data."""
    async with await StorageProvider.from_config(data_dir=folder, chain=("sqlite",)) as storage:
        await storage.run_migrations()
        await storage.memory.put(Datum.create("the tables are there"))
        async with storage.transaction() as tx:
            tx.session.add(CitizenConversation(id="c", citizen_name="a"))
            tx.session.add(Crystal(id="k", content_hash="h", summary="s"))
            tx.session.add_all(
                ConversationTurn(
                    id=f"t{at}",
                    conversation_id="c",
                    turn_number=at,
                    role="user",
                    content="x" * size,
                    causal_parent=f"t{at - 1}" if at % 100 else None,
                )
                for at in range(2000)
            )
        floor = Floor(storage.settings.sqlite_path)
        for part in (_points, _lists, _both):
            async for case in part(storage, floor, size):
                yield case
        floor.db.close()


async def _points(storage: StorageProvider, floor: Floor, size: int) -> AsyncIterator[Case]:
    turns = storage.table(ConversationTurn)
    ids = [f"t{at}" for at in range(1000)]

    async def get() -> int:
        for id in ids:
            await turns.get(id)
        return len(ids)

    by_key = "SELECT * FROM conversation_turns WHERE id = ?"
    yield Case(
        f"TableAdapter get, {size} B", "select by key", 0.15, get, lambda: floor.fetch(by_key, [(i,) for i in ids])
    )

    template = await turns.get("t0")
    assert template is not None

    async def put() -> int:
        for at in itertools.islice(_next, 200):
            data = {**template.data, "id": f"o{at}", "turn_number": 1_000_000 + at, "causal_parent": None}
            await turns.put(Datum.create(data=data, id=f"o{at}", created_at=template.created_at))
        return 200

    yield Case(f"TableAdapter put, {size} B", "insert + commit", 0.40, put, lambda: floor.write(200, size, both=False))

    crystals = storage.table(Crystal)

    async def put_tagged() -> int:
        for at in itertools.islice(_next, 200):
            data = {"content_hash": "h", "summary": "x" * size, "tags": ["a", "b"]}
            await crystals.put(Datum.create(data=data, id=f"o{at}"))
        return 200

    yield Case(
        f"TableAdapter put with two tags, {size} B",
        "three inserts, one commit",
        0.40,
        put_tagged,
        lambda: floor.write_tagged(200, size),
    )


async def _lists(storage: StorageProvider, floor: Floor, size: int) -> AsyncIterator[Case]:
    turns = storage.table(ConversationTurn)

    async def newest() -> int:
        for _ in range(40):
            assert len(await turns.list(limit=100)) == 100
        return 40

    sql = "SELECT * FROM conversation_turns ORDER BY created_at DESC, id DESC LIMIT 100"
    yield Case(
        f"TableAdapter list 100, {size} B", "the same, tuples", 0.25, newest, lambda: floor.fetch(sql, [()] * 40)
    )

    async def chain() -> int:
        for _ in range(40):
            assert len(await turns.causal_chain("t199")) == 100
        return 40

    recursive = (
        "WITH RECURSIVE up(id, depth) AS (SELECT id, 0 FROM conversation_turns WHERE id = ? UNION ALL SELECT "
        "t.causal_parent, depth + 1 FROM up JOIN conversation_turns t ON t.id = up.id WHERE t.causal_parent NOT NULL) "
        "SELECT t.* FROM up JOIN conversation_turns t ON t.id = up.id ORDER BY depth DESC"
    )
    yield Case(
        f"TableAdapter chain 100, {size} B",
        "recursive query",
        0.40,
        chain,
        lambda: floor.fetch(recursive, [("t199",)] * 40),
    )


async def _both(storage: StorageProvider, floor: Floor, size: int) -> AsyncIterator[Case]:
    async def both() -> int:
        for at in itertools.islice(_next, 100):
            async with storage.transaction() as tx:
                datum = Datum.create(b"x" * size)
                await tx.memory.put(datum)
                tx.session.add(
                    ConversationTurn(
                        id=f"b{at}", conversation_id="c", turn_number=1_000_000 + at, role="user", content="x" * size
                    )
                )
        return 100

    yield Case(
        f"two-track transaction, {size} B",
        "both inserts, one commit",
        0.25,
        both,
        lambda: floor.write(100, size, both=True),
    )
