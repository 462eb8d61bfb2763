"""An index is written in the transactions of its store: it holds what is live, whatever the verbs were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, MetaData, Table, delete, insert, inspect, select, text

from dgent.datum import Datum
from dgent.exceptions import InvalidInput, SchemaTooNew
from dgent.memory import datum_index
from dgent.memory.metadata_index import MetadataIndex
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.datum_tables import Row, is_whole
from dgent.operations import Delete, Put
from dgent.query import Query
from dgent.settings import Settings
from dgent.sql import Database, open_database
from dgent.sql.constructs import BYTEWISE
from dgent.sql.table_set import TableSet
from dgent.testing.contract_base import examples
from dgent.testing.manual_clock import ManualClock

metadata = MetaData()
firsts = Table(
    "dgent_test_firsts",
    metadata,
    Column("namespace", BYTEWISE, primary_key=True),
    Column("id", BYTEWISE, primary_key=True),
    Column("first", BYTEWISE, nullable=False),
)


class FirstLetter:
    """An index of a third party: datums by the first letter of their content."""

    name = "first"
    tables = TableSet("the index of first letters", "format.index.first", metadata, 1)

    def add(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        if rows:
            values = [(namespace, row.id, (row.content or b"").decode()[:1]) for row in rows]
            connection.execute(insert(firsts), [dict(zip(firsts.c.keys(), each, strict=True)) for each in values])

    def remove(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        if rows:
            ids = [row.id for row in rows]
            connection.execute(delete(firsts).where(firsts.c.namespace == namespace, firsts.c.id.in_(ids)))

    def erase(self, connection: Connection, namespace: str) -> None:
        connection.execute(delete(firsts).where(firsts.c.namespace == namespace))

    def search(self, connection: Connection, namespace: str, question: Any, limit: int) -> list[str]:
        if not isinstance(question, str):
            raise InvalidInput("ask for a letter")
        found = select(firsts.c.id).where(firsts.c.namespace == namespace, firsts.c.first == question)
        return list(connection.execute(found.order_by(firsts.c.id).limit(limit)).scalars())

    def confirms(self, question: Any, datum: Datum) -> bool:
        return datum.text.startswith(question)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datum_index, "_registered", [MetadataIndex()])
    datum_index.register(FirstLetter())


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('sqlite_path')}"
    return str(request.getfixturevalue("postgres_url"))


def opened(url: str) -> Database:
    return open_database(Settings.load(database_url=url))


def datum(id: str, content: str, parent: str | None = None, *tags: str) -> Datum:
    return Datum(id, content.encode(), 1.0, parent, {"tags": list(tags)} if tags else {})


def held(connection: Connection) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the ids in both indexes, by namespace."""
    both = [
        connection.execute(text(f"SELECT namespace, id FROM {name}")) for name in ("dgent_test_firsts", "dgent_terms")
    ]
    one, other = ({(namespace, id) for namespace, id in rows} for rows in both)
    return one, other


async def test_a_third_party_finds_by_its_own_index(registered: None, url: str) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put_many([datum("1", "apple"), datum("2", "bee"), datum("3", "ant")])
        await store.within("other").put(datum("4", "axe"))
        assert [each.id for each in await store.search("first", "a")] == ["1", "3"]
        assert [each.id for each in await store.search("first", "a", limit=1)] == ["1"]
        await store.put(datum("1", "cat"))
        await store.apply([Delete("3"), Put(datum("2", "arc"))])
        assert [each.id for each in await store.search("first", "a")] == ["2"]
        assert await store.purge("2") == 2
        assert await store.search("first", "a") == []
        with pytest.raises(InvalidInput, match="there are first, metadata"):
            await store.search("last", "a")
        with pytest.raises(InvalidInput, match="ask for a letter"):
            await store.search("first", 7)
    finally:
        await database.close()


async def test_a_name_is_given_once(registered: None) -> None:
    with pytest.raises(InvalidInput, match="another name"):
        datum_index.register(FirstLetter())


async def test_metadata_are_an_index_like_others(url: str) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put_many([datum("1", "x", None, "a"), datum("2", "x", None, "a", "b"), datum("3", "x", None, "b")])
        found = await store.search("metadata", Query(tags={"a", "b"}))
        assert [each.id for each in found] == ["2"]
        with pytest.raises(InvalidInput, match="give one of these"):
            await store.search("metadata", Query())
    finally:
        await database.close()


async def test_an_index_that_is_new_is_filled_and_one_that_was_dropped_is_built_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        many = [datum(f"{at:04}", "ab"[at % 2], None, "t") for at in range(2 * datum_index.BATCH + 7)]
        await store.put_many(many)
        await store.within("other").put(datum("4", "axe"))
        await store.delete("0000")

        def drop(connection: Connection) -> None:
            connection.execute(text("DROP TABLE dgent_terms"))
            connection.execute(text("DELETE FROM dgent_meta WHERE key = 'format.index.metadata'"))

        await database.write(drop)
    finally:
        await database.close()
    monkeypatch.setattr(datum_index, "_registered", [MetadataIndex(), FirstLetter()])
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.prepare()
        one, other = await database.read(held)
        live = {("default", each.id) for each in many[1:]}
        assert one == live | {("other", "4")}
        assert other == live
        assert len(await store.query(Query(tags={"t"}, limit=5000))) == len(live)
    finally:
        await database.close()


async def test_who_does_not_keep_an_index_is_refused_and_changes_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datum_index, "_registered", [MetadataIndex(), FirstLetter()])
    database = opened(url)
    await SqlBackend(database).put(datum("1", "apple"))
    await database.close()
    monkeypatch.setattr(datum_index, "_registered", [MetadataIndex()])
    database = opened(url)
    try:
        with pytest.raises(SchemaTooNew, match="kept with the index first"):
            await SqlBackend(database).put(datum("2", "ant"))
        assert await database.read(held) == ({("default", "1")}, set())
    finally:
        await database.close()


async def test_an_index_is_part_of_the_transaction(registered: None, url: str) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put(datum("1", "apple"))

        async def fail() -> None:
            async with database.transaction() as transaction:
                inside = store.joined(transaction)
                await inside.put(datum("2", "ant", None, "t"))
                await inside.delete("1")
                assert [each.id for each in await inside.search("first", "a")] == ["2"]
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert [each.id for each in await store.search("first", "a")] == ["1"]
        assert await database.read(held) == ({("default", "1")}, set())
    finally:
        await database.close()


IDS = st.sampled_from("abc")
CONTENTS = st.sampled_from(["apple", "ant", "bee", ""])
STEPS = st.one_of(
    st.tuples(st.just("put"), IDS, CONTENTS, st.sampled_from([None, None, 1.0])),
    st.tuples(st.just("apply"), st.lists(st.tuples(IDS, CONTENTS | st.none()), max_size=4)),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("purge"), IDS),
    st.tuples(st.just("tick")),
    st.tuples(st.just("compact"), st.integers(0, 2)),
    st.tuples(st.just("damage"), IDS),
)


async def take(step: tuple[Any, ...], store: SqlBackend, clock: ManualClock) -> None:
    match step:
        case ("put", id, content, ttl):
            await store.put(datum(id, content, None, content or "none"), ttl=ttl)
        case ("apply", writes):
            await store.apply(
                [Delete(id) if content is None else Put(datum(id, content, None, "t")) for id, content in writes]
            )
        case ("tick",):
            clock.advance(1.0)
        case ("compact", keep):
            await store.compact(keep_versions=keep)
        case ("damage", id):
            sql = 'UPDATE dgent_datums SET metadata = \'{"tags":["other"]}\' WHERE id = :id AND live'
            await store.database.write(lambda connection: connection.execute(text(sql), {"id": id}))
        case (verb, id):
            await getattr(store, verb)(id)


async def check(store: SqlBackend) -> None:
    """Compare both indexes with the rows that are live and whole; of a damaged one more may be left of its terms."""

    def compare(connection: Connection) -> None:
        rows = [Row(*row) for row in connection.execute(text("SELECT * FROM dgent_datums WHERE live"))]
        one, other = held(connection)
        assert one == {(row.namespace, row.id) for row in rows}
        assert {(row.namespace, row.id) for row in rows if is_whole(row) and row.metadata != "{}"} <= other
        assert other <= one

    await store.database.read(compare)


@examples(2)
@given(steps=st.lists(STEPS, max_size=25))
async def test_an_index_holds_what_is_live_after_any_verbs(registered: None, steps: list[tuple[Any, ...]]) -> None:
    clock = ManualClock()
    database = opened(f"sqlite:////{uuid4()}?vfs=memdb")
    try:
        store = SqlBackend(database, clock=clock)
        await store.prepare()
        for step in steps:
            await take(step, store, clock)
            await check(store)
    finally:
        await database.close()


async def test_an_index_has_its_own_tables(registered: None, url: str) -> None:
    database = opened(url)
    try:
        await SqlBackend(database).prepare()
        names = await database.read(lambda connection: inspect(connection).get_table_names())
        assert {"dgent_datums", "dgent_terms", "dgent_test_firsts"} <= set(names)
    finally:
        await database.close()
