"""Law L-C3: a query answers the same on all backends, and as `matches` over a full scan; what it holds is data."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import asyncpg
import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.crystal.stores import KINDS, SHARED, opened

from dgent.crystal import Crystal, Schema, Schemas, Universe
from dgent.datum import Datum
from dgent.exceptions import InvalidQuery
from dgent.query import Order, Query
from dgent.sql.statement import Statement
from dgent.store import Backend
from dgent.testing.contract_base import fresh

HOSTILE = [
    "'; DROP TABLE dgent_datums; --",
    "\" OR \"\"=\"", "1; DELETE FROM dgent_heads", "' OR '1'='1", "--", "%s", "%(ns)s",
    ":name", ":ns", "$1", "?", "?1", "@x", "$.a", "$[0]", "a->>'b'", "#>>'{a}'", "/* */", "\\", "%", "_", "{0}", "é",
    "[*]", "a ? (@ > 1)", "';SELECT pg_sleep(9);--", "tags", "schema", "", " ", "\n",
]  # fmt: skip
laws = settings(
    max_examples=max(30, settings().max_examples // 2),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@dataclass(frozen=True)
class Note:
    text: str
    tags: tuple[str, ...] = ()
    author: str = ""
    more: dict[str, Any] | None = None


@dataclass(frozen=True)
class Count:
    n: int


NOTE: Schema[Note] = Schema(
    "law.note", 3, Note, {1: lambda data: {"text": data["words"]}, 2: lambda data: {**data, "tags": ["migrated"]}}
)
COUNT = Schema("law.count", 1, Count)
KNOWN = Schemas([NOTE, COUNT])


@pytest_asyncio.fixture
async def stores(tmp_path: Path, postgres_url: str) -> AsyncIterator[list[Backend]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(opened(kind, postgres_url if kind == "postgres" else str(tmp_path)))
            for kind in KINDS
        ]


words = st.sampled_from(["a", "b", "A", *HOSTILE])
moments = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0])
scalars = words | st.sampled_from([0, 1, 1.0, True, None, 2**53 + 1, -0.5])
notes = st.builds(
    Note,
    words,
    st.lists(words, max_size=2).map(tuple),
    words,
    st.none() | st.dictionaries(words, scalars | st.lists(scalars, max_size=2), max_size=2),
)


def crystal(value: Any, schema: Schema[Any], about: dict[str, Any], at: float) -> Datum:
    return Crystal.create(value, schema, id="x", created_at=at, metadata=about).datum


labels = st.fixed_dictionaries({}, optional={"a": scalars, "k": st.dictionaries(words, scalars, max_size=2)})
older = st.builds(
    lambda words, about, at, version: Datum(
        "x",
        orjson.dumps({"words": words} if version == 1 else {"text": words}),
        at,
        metadata={**about, "schema": "law.note", **({"schema_version": 2} if version == 2 else {})},
    ),
    words,
    labels,
    moments,
    st.sampled_from([1, 2]),
)
raw = st.builds(
    lambda content, about, at: Datum("x", content, at, metadata=about),
    st.binary(max_size=3) | scalars.map(orjson.dumps) | st.dictionaries(words, scalars, max_size=2).map(orjson.dumps),
    st.fixed_dictionaries(
        {},
        optional={
            "schema": st.sampled_from(["unknown", 5, *HOSTILE[:3]]),
            "schema_version": st.integers(-1, 5),
            "tags": st.lists(words, max_size=2) | words,
            "author": words,
            "a": scalars,
        },
    ),
    moments,
)
datums = st.lists(
    st.one_of(
        st.builds(crystal, notes, st.just(NOTE), labels, moments),
        st.builds(crystal, st.builds(Count, st.integers(0, 2)), st.just(COUNT), labels, moments),
        older,
        raw,
    ),
    max_size=8,
).map(lambda found: [datum.replace(id=f"{'ab'[at % 2]}{at}") for at, datum in enumerate(found)])


def quoted(*names: str) -> str:
    return "".join(f"[{json.dumps(name)}]" for name in names)


paths = st.one_of(
    st.sampled_from(["text", "n", "tags[0]", "tags[-1]", "words", "metadata.a", "metadata.schema_version", "more"]),
    st.builds(lambda name: f"more{quoted(name)}", words),
    st.builds(lambda name: f"metadata.k{quoted(name)}", words),
    st.builds(quoted, words),
    words,  # as it stands: a path, or a typed error
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "schema": st.sampled_from(["law.note", "law.count", "unknown", *HOSTILE[:3]]),
        "tags": st.frozensets(words | st.just("migrated"), max_size=2),
        "author": words | st.just("system"),
        "since": moments,
        "until": moments,
        "after": moments,
        "prefix": st.sampled_from(["a", "b", "", "'", "%"]),
        "where": st.dictionaries(paths, scalars, max_size=2),
        "order": st.sampled_from(get_args(Order)),
        "limit": st.integers(1, 4),
    },
)


async def joined(universe: Universe, asked: dict[str, Any]) -> list[Any]:
    """Return what a query finds, page after page."""
    found: list[Any] = []
    cursor = None
    while True:
        page = await universe.query(Query(**asked, cursor=cursor))
        assert len(page) <= asked.get("limit", 100)
        found += page
        cursor = page.cursor
        if cursor is None:
            return found


def scanned(stored: list[Datum], query: Query) -> list[Datum]:
    """Return what a query means: every datum looked at, in the order asked for."""
    found = [datum for datum in stored if query.matches(datum)]
    keys: dict[str, Callable[[Datum], Any]] = {
        "id": lambda datum: datum.id,
        "seq": lambda datum: datum.seq,
        "oldest": lambda datum: (datum.created_at, datum.id),
    }
    key = keys[{"newest": "oldest"}.get(query.order, query.order).removeprefix("-")]
    return sorted(found, key=key, reverse=query.order in {"newest", "-id", "-seq"})


@laws
@given(datums, st.lists(filters, min_size=1, max_size=4))
async def test_l_c3_a_query_answers_as_matches_over_a_full_scan_on_every_backend(
    stores: list[Backend], written: list[Datum], asked: list[dict[str, Any]]
) -> None:
    namespace = fresh()
    expected: list[list[Datum]] = []
    for store in (each.within(namespace) for each in stores):
        stored = await store.put_many(written)
        universe = Universe(store, schemas=KNOWN)
        answers = []
        for filters in asked:
            try:
                query = Query(**filters)
            except InvalidQuery:
                continue
            answers.append(scanned(stored, query))
            found = await joined(universe, filters)
            here = [each.datum if isinstance(each, Crystal) else each for each in found]
            assert here == answers[-1]
            assert [(datum.version, datum.seq) for datum in here] == [(each.version, each.seq) for each in answers[-1]]
            for each in found:
                datum = each.datum if isinstance(each, Crystal) else each
                known = KNOWN.find(str(datum.schema))
                assert isinstance(each, Crystal) == (known is not None)
                if known is not None:
                    assert each.value == known.decode(datum.content, datum.metadata.get("schema_version", 1))
        assert answers == (expected or answers)
        expected = answers
        assert len(await store.list()) == len(written), "something was done to the store"


async def test_l_c3_what_is_asked_for_is_data(store: Backend) -> None:
    for at, hostile in enumerate(HOSTILE):
        await ask_for(hostile, store.within(f"hostile/{at}"))


async def ask_for(hostile: str, store: Backend) -> None:
    universe = Universe(store, schemas=KNOWN)
    note = Note(hostile, (hostile,) if hostile else (), hostile, {hostile: hostile})
    stored = await universe.store(Crystal.create(note, NOTE, id="x", metadata={"m": {hostile: hostile}}))
    await universe.store(Crystal.create(Note("other", ("other",), "other"), NOTE, id="y"))
    conditions: list[dict[str, Any]] = [
        {"where": {"text": hostile}},
        {"where": {f"more{quoted(hostile)}": hostile}},
        {"where": {f"metadata.m{quoted(hostile)}": hostile}},
    ]
    if hostile:
        conditions += [{"tags": {hostile}}, {"author": hostile}]
    for asked in conditions:
        assert [each.id for each in await universe.query(Query(**asked))] == [stored], asked
    nothing: list[dict[str, Any]] = [
        {"schema": hostile},
        {"where": {f"more{quoted(hostile)}": "other"}},
        {"where": {f"metadata.m{quoted(hostile, hostile)}": hostile}},
        {"prefix": hostile + "zz"},
    ]
    for asked in nothing:
        assert await universe.query(Query(**asked)) == [], asked
    assert await store.count() == 2


# Plans


class Spy:
    """Every statement that ran, as the driver saw it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, Any]] = []
        run = Statement._run

        def recording(statement: Statement, connection: Any, values: Any) -> Any:
            compiled = statement._for(connection.dialect)
            self.seen.append((compiled.sql, compiled.arrange(values) if compiled.arrange else values))
            return run(statement, connection, values)

        monkeypatch.setattr(Statement, "_run", recording)


async def plans(kind: str, place: str, statements: list[tuple[str, Any]]) -> list[str]:
    """Return how the database would run these."""
    if kind == "sqlite":
        with sqlite3.connect(Path(place) / "memory.db") as bare:
            found = [
                "\n".join(row[3] for row in bare.execute(f"EXPLAIN QUERY PLAN {sql}", tuple(values)))
                for sql, values in statements
            ]
        bare.close()
        return found
    connection = await asyncpg.connect(place)
    try:
        await connection.execute("ANALYZE")
        return [
            "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *values)) for sql, values in statements
        ]
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("order", ["newest", "oldest", "seq"])
async def test_l_c3_a_query_by_schema_uses_an_index(
    kind: str, place: str, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(kind, place) as store:
        for at in range(3):  # several versions of most, as in a store that lives
            await store.put_many(
                Datum(f"{n}", b'{"n":%d}' % at, float(n), metadata={"schema": "other"}) for n in range(2_000)
            )
        universe = Universe(store, schemas=KNOWN)
        await universe.store_many(
            Crystal.create(Count(n), COUNT, id=f"c{n}", created_at=float(n), tags=["t"]) for n in range(40)
        )
        spy = Spy(monkeypatch)
        first = await universe.query(Query(schema="law.count", order=order, limit=10))
        await universe.query(Query(schema="law.count", order=order, limit=10, cursor=first.cursor))
        await universe.query(Query(schema="law.count", tags=frozenset("t"), order=order, since=5.0))
        assert len(first) == 10
    assert len(spy.seen) >= 3
    for plan in await plans(kind, place, spy.seen):
        assert "Seq Scan on dgent_" not in plan
        assert "SCAN dgent_" not in plan
        assert "dgent_terms" in plan
