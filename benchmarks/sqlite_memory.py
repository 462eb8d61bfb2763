"""Agent memory on SQLite against stdlib sqlite3: same thread, same durability, same tables and indexes."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Case, spread
from dgent.conditions import Gt
from dgent.datum import Datum
from dgent.memory.metadata_index import terms_for, terms_of
from dgent.memory.sql.datum_tables import digest
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query

INSERT = "INSERT INTO dgent_datums VALUES (?, ?, 1, ?, 1, ?, ?, NULL, ?, ?, ?, ?)"
_seq = itertools.count(1)


class Floor:
    """The bare driver on a second file with the same tables."""

    def __init__(self, path: Path, template: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, cached_statements=512)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16384"):
            self.db.execute(f"PRAGMA {pragma}")
        schema = sqlite3.connect(template)
        for (sql,) in schema.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name LIKE '%dgent%'"):
            self.db.execute(sql)
        schema.close()

    def row(self, datum: Datum, namespace: str = "f") -> tuple[Any, ...]:
        seq, now = next(_seq), time.time()
        rest = (datum.causal_parent, datum.metadata_json, datum.content)
        checked = digest(namespace, datum.id, 1, seq, datum.created_at, now, None, *rest)
        return (namespace, datum.id, seq, datum.created_at, now, *rest, checked)

    def put(self, datums: list[Datum]) -> Callable[[], int]:
        def run() -> int:
            for row in [self.row(datum) for datum in datums]:
                self.db.execute("BEGIN IMMEDIATE")
                self.db.execute(INSERT, row)
                self.db.execute("COMMIT")
            return len(datums)

        return run

    def put_many(self, rows: list[tuple[Any, ...]]) -> int:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany(INSERT, rows)
        self.db.execute("COMMIT")
        return len(rows)

    def fetch(self, sql: str, calls: list[tuple[Any, ...]]) -> int:
        for values in calls:
            self.db.execute(sql, values).fetchall()
        return len(calls)


def _fresh(count: int, size: int) -> list[Datum]:
    return [Datum.create(b"x" * size) for _ in range(count)]


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; each prepares its own data."""
    store = SQLiteBackend(folder / "ours.db", "f")
    await store.prepare()
    floor = Floor(folder / "floor.db", folder / "ours.db")
    for part in (_puts, _gets, _newest, _narrow, _chains, _changes, _nearest, _queries, _erasures):
        async for case in part(store, floor, size):
            yield case
    floor.db.close()
    await store.close()


async def _puts(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    def bare() -> int:
        return floor.put(_fresh(300, size))()

    for tasks, count, budget in ((1, 300, 0.70), (16, 3000, 4.0), (256, 12_000, 14.0)):

        async def ours(tasks: int = tasks, count: int = count) -> int:
            return await spread(_fresh(count, size), tasks, store.put)()

        yield Case(f"put, {tasks} task{'s' * (tasks > 1)}, {size} B", "insert + commit", budget, ours, bare)

    batches = [_fresh(10_000, size) for _ in range(9)]
    rows = [[floor.row(datum) for datum in _fresh(10_000, size)] for _ in range(9)]

    async def put_many() -> int:
        return len(await store.put_many(batches.pop()))

    yield Case(f"put_many, 10 000, {size} B", "executemany", 0.60, put_many, lambda: floor.put_many(rows.pop()))


async def _gets(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    datums = _fresh(5000, size)
    await store.put_many(datums)
    floor.put_many([floor.row(datum) for datum in datums])
    known = [datum.id for datum in datums]
    by_key = "SELECT * FROM dgent_datums WHERE namespace = ? AND id = ? ORDER BY version DESC LIMIT 1"
    calls = [("f", id) for id in known]
    for tasks, budget in ((1, 0.50), (64, 0.60)):
        name = f"get, {tasks} task{'s' * (tasks > 1)}, {size} B"
        yield Case(name, "select by key", budget, spread(known, tasks, store.get), lambda: floor.fetch(by_key, calls))

    async def get_many() -> int:
        for at in range(0, 3200, 64):
            await store.get_many(known[at : at + 64])
        return 50

    in_query = f"SELECT * FROM dgent_datums WHERE namespace = ? AND id IN ({', '.join('?' * 64)})"
    chunks = [("f", *known[at : at + 64]) for at in range(0, 3200, 64)]
    yield Case(f"get_many, 64 ids, {size} B", "one IN query", 0.60, get_many, lambda: floor.fetch(in_query, chunks))


async def _newest(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    async def newest() -> int:
        for _ in range(60):
            await store.list(limit=100)
        return 60

    sql = "SELECT * FROM dgent_datums WHERE namespace = ? AND live = 1 ORDER BY created_at DESC, id DESC LIMIT 100"
    calls = [("f",)] * 60
    yield Case(f"list newest 100, {size} B", "the same, tuples", 0.35, newest, lambda: floor.fetch(sql, calls))


async def _narrow(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    datums = [Datum.create(b"x" * size, id=f"{group:04}/{at:02}") for group in range(50) for at in range(100)]
    await store.put_many(datums)
    floor.put_many([floor.row(datum) for datum in datums])

    async def ours() -> int:
        for group in range(50):
            await store.list(prefix=f"{group:04}/", limit=100)
        return 50

    sql = (
        "SELECT * FROM dgent_datums WHERE namespace = ? AND id >= ? AND id < ? AND live = 1 "
        "ORDER BY +created_at DESC, id DESC LIMIT 100"
    )
    calls = [("f", f"{group:04}/", f"{group:04}0") for group in range(50)]
    yield Case(f"list by narrow prefix, {size} B", "id range", 0.30, ours, lambda: floor.fetch(sql, calls))


async def _chains(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    sql = (
        "WITH RECURSIVE chain(id, parent, version, depth) AS (SELECT id, parent, version, 0 FROM dgent_datums WHERE "
        "namespace = ?1 AND id = ?2 AND live = 1 UNION ALL SELECT d.id, d.parent, d.version, depth + 1 FROM chain "
        "JOIN dgent_datums d ON d.namespace = ?1 AND d.id = chain.parent AND d.live = 1) SELECT d.* FROM chain JOIN "
        "dgent_datums d ON d.namespace = ?1 AND d.id = chain.id AND d.version = chain.version ORDER BY depth DESC"
    )
    for depth in (100, 1000):
        chain: list[Datum] = []
        for at in range(depth):
            parent = chain[-1].id if chain else None
            chain.append(Datum.create(b"x" * size, id=f"chain-{depth}-{at}", causal_parent=parent))
        await store.put_many(chain)
        floor.put_many([floor.row(datum) for datum in chain])

        async def ours(last: str = chain[-1].id, depth: int = depth) -> int:
            for _ in range(5000 // depth):
                assert len(await store.causal_chain(last)) == depth
            return 5000 // depth

        def bare(last: str = chain[-1].id, depth: int = depth) -> int:
            return floor.fetch(sql, [("f", last)] * (5000 // depth))

        yield Case(f"causal_chain, depth {depth}, {size} B", "recursive query, tuples", 0.45, ours, bare)


async def _changes(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Read what changed. The floor is ours: a list in the order of seq."""
    await store.put_many(_fresh(3000, size))

    async def ours() -> int:
        for at in range(60):
            assert len(await store.changes(at * 20, limit=100)) == 100
        return 60

    async def listed() -> int:
        for at in range(60):
            assert len(await store.query(Query(order="seq", after_seq=at * 20))) == 100
        return 60

    yield Case(f"changes, 100, {size} B", "our list by seq", 0.90, ours, listed)


async def _nearest(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Read the nearest causes. The floor is ours: as many gets."""
    chain = [Datum.create(b"x" * size, id=f"c{at}", causal_parent=f"c{at - 1}" if at else None) for at in range(3000)]
    await store.put_many(chain)

    async def gets() -> int:
        for at in range(2000, 3000):
            for above in range(3):
                await store.get(f"c{at - above}")
        return 1000

    for name, version in (("", None), (" of a version", 1)):

        async def ours(version: int | None = version) -> int:
            for at in range(2000, 3000):
                assert len(await store.causal_chain(f"c{at}", version=version, limit=3)) == 3
            return 1000

        yield Case(f"causal_chain{name}, 3 of 3 000, {size} B", "3 of our gets", 0.90, ours, gets)


async def _queries(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Find 100 of 100 000. The floor walks the same index of terms, and knows the term."""
    there = store.within("q")
    for start in range(0, 100_000, 10_000):
        datums = [
            Datum.create(b"x" * size, metadata={"tags": [f"t{at % 1000}"], "n": at % 1000})
            for at in range(start, start + 10_000)
        ]
        await there.put_many(datums)
        floor.put_many([floor.row(datum, "q") for datum in datums])
        floor.db.executemany(
            "INSERT INTO dgent_terms VALUES ('q', ?, ?, ?, 1)",
            ((term, datum.created_at, datum.id) for datum in datums for term in terms_of(datum.metadata_json)),
        )
    sql = (
        "SELECT d.* FROM dgent_terms t JOIN dgent_datums d ON d.namespace = t.namespace AND d.id = t.id AND "
        "d.version = t.version WHERE t.namespace = 'q' AND t.term = ? AND d.live = 1 "
        "ORDER BY t.created_at DESC, t.id DESC LIMIT 100"
    )
    kinds = {
        "tag": [Query(tags=frozenset([f"t{at}"])) for at in range(50)],
        "metadata path": [Query(where={"metadata.n": at}) for at in range(50)],
    }
    for name, queries in kinds.items():
        wanted = [(*terms_for(query),) for query in queries]

        async def ours(queries: list[Query] = queries) -> int:
            for query in queries:
                assert len(await there.query(query)) == 100
            return len(queries)

        def bare(wanted: list[tuple[Any, ...]] = wanted) -> int:
            return floor.fetch(sql, wanted)

        yield Case(f"query by {name}, 100 of 100 000, {size} B", "the same join, tuples", 0.40, ours, bare)
    async for case in _ranges(there, floor, size):
        yield case


async def _ranges(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Find the 100 of 100 000 beyond a bound, which have to be looked at one by one."""
    sql = (
        "SELECT * FROM dgent_datums WHERE namespace = 'q' AND live = 1 AND json_extract(metadata, '$.n') > ? "
        "ORDER BY created_at DESC, id DESC LIMIT 101"
    )

    async def ours() -> int:
        for _ in range(3):
            assert len(await store.query(Query(where={"metadata.n": Gt(998)}))) == 100
        return 3

    yield Case(
        f"query by range, 100 of 100 000, {size} B",
        "the same scan, tuples",
        0.50,
        ours,
        lambda: floor.fetch(sql, [(998,)] * 3),
    )


async def _erasures(store: SQLiteBackend, floor: Floor, size: int) -> AsyncIterator[Case]:
    """Erase 600 datums with two terms each, beside as many that stay, which both sides put in before."""
    prepared = itertools.count()

    async def fill(name: str) -> SQLiteBackend:
        here = store.within(name)
        for kind in ("gone", "kept"):
            made = [Datum.create(b"x" * size, id=f"{kind}-{n:04}", tags=["a", "b"]) for n in range(600)]
            await here.put_many(made)
        return here

    def bare_fill(name: str) -> None:
        for kind in ("gone", "kept"):
            made = [Datum.create(b"x" * size, id=f"{kind}-{n:04}", tags=["a", "b"]) for n in range(600)]
            floor.put_many([floor.row(datum, name) for datum in made])
            terms = [(name, t, each.created_at, each.id, 1) for each in made for t in terms_of(each.metadata_json)]
            floor.db.executemany("INSERT INTO dgent_terms VALUES (?, ?, ?, ?, ?)", terms)

    turns = 9  # one to warm up, seven that count
    names = [f"erase{next(prepared)}" for _ in range(2 * turns)]
    ours = [await fill(name) for name in names]
    for name in names:
        bare_fill(name)
    for at, (what, everything) in enumerate((("a namespace", True), ("a prefix", False))):
        mine, theirs = iter(ours[at * turns :]), iter(names[at * turns :])

        async def run(mine: Any = mine, everything: bool = everything) -> int:
            asked = {"everything": True} if everything else {"prefix": "gone-"}
            return (await next(mine).erase(**asked)).ids

        def bare(theirs: Any = theirs, everything: bool = everything) -> int:
            name = next(theirs)
            more = "" if everything else " AND id >= 'gone-' AND id < 'gone.'"
            floor.db.execute("BEGIN IMMEDIATE")
            count = floor.db.execute(f"DELETE FROM dgent_datums WHERE namespace = ?{more}", [name]).rowcount
            floor.db.execute(f"DELETE FROM dgent_terms WHERE namespace = ?{more}", [name])
            floor.db.execute("COMMIT")
            return int(count)

        yield Case(f"erase {what} of {1200 if everything else 600}, {size} B", "one DELETE a table", 1 / 3, run, bare)
