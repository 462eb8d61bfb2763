"""An index is written in the transactions of its store: it holds what is live, whatever the verbs were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    MetaData,
    Table,
    delete,
    insert,
    inspect,
    make_url,
    select,
    text,
)

from dgent.datum import Datum
from dgent.exceptions import (
    AccessRefused,
    IntegrityViolation,
    InvalidInput,
    InvalidQuery,
    ReadOnly,
    SchemaOutdated,
    SchemaTooNew,
)
from dgent.memory import datum_index
from dgent.memory.metadata_index import MetadataIndex
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.datum_tables import Row, is_whole
from dgent.memory.sql.maintenance import MaintainedMemory
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


READER = "reads_and_no_more"
lasts = Table(
    "dgent_test_lasts",
    MetaData(),
    Column("namespace", BYTEWISE, primary_key=True),
    Column("id", BYTEWISE, primary_key=True),
    Column("last", BYTEWISE, CheckConstraint("last <> 'z'"), nullable=False),
)


class LastLetter:
    """One that has what it does not take: an empty content, and a z at its end."""

    name = "last"
    tables = TableSet("the index of last letters", "format.index.last", lasts.metadata, 1)

    def add(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        for row in rows:
            if not row.content:
                raise ValueError(row.id)
            values = {"namespace": namespace, "id": row.id, "last": row.content.decode()[-1:]}
            connection.execute(insert(lasts).values(values))

    def remove(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        for row in rows:
            connection.execute(delete(lasts).where(lasts.c.namespace == namespace, lasts.c.id == row.id))

    def erase(self, connection: Connection, namespace: str) -> None:
        connection.execute(delete(lasts).where(lasts.c.namespace == namespace))

    def search(self, connection: Connection, namespace: str, question: Any, limit: int) -> list[str]:
        found = select(lasts.c.id).where(lasts.c.namespace == namespace, lasts.c.last == question)
        return list(connection.execute(found.order_by(lasts.c.id).limit(limit)).scalars())

    def confirms(self, question: Any, datum: Datum) -> bool:
        return datum.text.endswith(question)


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


@pytest.fixture
def keeps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what lets this process be one that keeps these indexes, beside that of metadata."""

    def keep(*indexes: datum_index.DatumIndex) -> None:
        monkeypatch.setattr(datum_index, "_registered", [MetadataIndex(), *indexes])

    return keep


async def test_who_had_the_store_open_before_an_index_was_made_is_refused(keeps: Callable[..., None], url: str) -> None:
    old, new = opened(url), opened(url)
    try:
        before = SqlBackend(old)
        await before.put_many([datum("1", "apple"), datum("2", "bee")])
        await before.put(datum("3", "ant"))
        keeps(FirstLetter())
        assert [each.id for each in await SqlBackend(new).search("first", "a")] == ["1", "3"]
        keeps()
        writes = {
            "put": lambda: before.put(datum("4", "axe")),
            "a put over another": lambda: before.put(datum("1", "cat")),
            "put many": lambda: before.put_many([datum(f"n{at}", "axe") for at in range(70)]),
            "delete": lambda: before.delete("1"),
            "purge": lambda: before.purge("1"),
            "compact": before.compact,
            "a new namespace": lambda: before.within("new").put(datum("1", "axe")),
            "import": lambda: MaintainedMemory(old).erase("default"),
        }
        for name, write in writes.items():
            with pytest.raises(SchemaTooNew, match="kept with the index first"):
                pytest.fail(f"{name}: {await write()}")
        async with old.transaction() as transaction:
            with pytest.raises(SchemaTooNew):
                await before.joined(transaction).put(datum("4", "axe"))
        assert await before.get("1") == datum("1", "apple")  # who only reads leaves nothing behind
        keeps(FirstLetter())
        assert (await SqlBackend(new).put(datum("1", "cat"))).version == 2
        assert [each.id for each in await SqlBackend(new).search("first", "a")] == ["3"]
        await before.put(datum("4", "axe"))  # as if that process knew it by now
        assert [each.id for each in await SqlBackend(new).search("first", "a")] == ["3", "4"]
    finally:
        await old.close()
        await new.close()


async def test_a_transaction_under_way_while_an_index_is_made_is_in_it(keeps: Callable[..., None], url: str) -> None:
    old, new = opened(url), opened(url)
    try:
        before = SqlBackend(old)
        await before.put(datum("1", "apple"))
        async with old.transaction() as transaction:
            await before.joined(transaction).put(datum("2", "ant"))
            keeps(FirstLetter())
            made = asyncio.create_task(SqlBackend(new).prepare())
            await asyncio.sleep(0.2)  # by now it waits for us
            assert not made.done()
        await made
        assert [each.id for each in await SqlBackend(new).search("first", "a")] == ["1", "2"]
    finally:
        await old.close()
        await new.close()


@pytest.mark.parametrize("verb", ["put", "delete", "put_many"])
async def test_a_write_that_waits_while_an_index_is_made_is_refused(
    keeps: Callable[..., None], url: str, verb: str
) -> None:
    old, new = opened(url), opened(url)
    try:
        before = SqlBackend(old)
        await before.put(datum("1", "apple"))
        await before.put(datum("2", "ant"))  # by now it knows the head
        writes = {
            "put": lambda: before.put(datum("3", "axe")),
            "delete": lambda: before.delete("1"),
            "put_many": lambda: before.put_many([datum("3", "axe"), datum("4", "arc")]),
        }
        async with new.transaction() as transaction:
            keeps(FirstLetter())
            await SqlBackend(new).joined(transaction).prepare()
            keeps()
            waiting = asyncio.create_task(writes[verb]())
            await asyncio.sleep(0.2)
            assert not waiting.done()
        with pytest.raises(SchemaTooNew):
            await waiting
        assert (await new.read(held))[0] == {("default", "1"), ("default", "2")}
        assert await before.count() == 2
    finally:
        await old.close()
        await new.close()


async def test_an_index_that_is_registered_late_is_made_by_the_next_write_or_search(
    keeps: Callable[..., None], url: str
) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put(datum("1", "apple"))
        keeps(FirstLetter())
        await store.put(datum("2", "ant"))
        assert [each.id for each in await store.search("first", "a")] == ["1", "2"]
        keeps(FirstLetter(), LastLetter())
        assert [each.id for each in await store.search("last", "t")] == ["2"]
        keeps(LastLetter(), FirstLetter())
        assert await store.purge("2") == 1
        assert await store.search("last", "t") == await store.search("first", "t") == []
    finally:
        await database.close()


async def test_who_joins_a_transaction_makes_an_index_that_was_registered_late_in_it(
    keeps: Callable[..., None], url: str
) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put(datum("1", "apple"))
        keeps(FirstLetter())
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the whole block is what fails
            async with database.transaction() as transaction:
                inside = store.joined(transaction)
                await inside.put(datum("2", "ant"))
                assert [each.id for each in await inside.search("first", "a")] == ["1", "2"]
                1 / 0  # noqa: B018
        await store.put(datum("3", "axe"))
        assert [each.id for each in await store.search("first", "a")] == ["1", "3"]
    finally:
        await database.close()


async def test_who_only_reads_needs_no_index_and_may_know_less(
    keeps: Callable[..., None], url: str, request: pytest.FixtureRequest
) -> None:
    database = opened(url)
    await SqlBackend(database).put(datum("1", "apple", None, "t"))
    await database.close()
    keeps(FirstLetter())
    async with only_reading(url) as readable:
        store = SqlBackend(readable)
        assert await store.get("1") == datum("1", "apple", None, "t")
        assert len(await store.query(Query(tags={"t"}))) == 1
        with pytest.raises((SchemaOutdated, ReadOnly, AccessRefused)):
            await store.search("first", "a")
    database = opened(url)
    await SqlBackend(database).prepare()
    await database.close()
    async with only_reading(url) as readable:
        assert len(await SqlBackend(readable).search("first", "a")) == 1
    keeps()
    async with only_reading(url) as readable:
        store = SqlBackend(readable)
        assert await store.get("1") == datum("1", "apple", None, "t")
        with pytest.raises((ReadOnly, AccessRefused)):
            await store.put(datum("2", "ant"))


@asynccontextmanager
async def only_reading(url: str) -> AsyncIterator[Database]:
    """Open a database for one that may read it only."""
    if url.startswith("sqlite"):
        database = opened(f"{url}?mode=ro")
    else:
        await run_sql(url, f"CREATE ROLE {READER} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
        database = opened(str(make_url(url).set(username=READER)))
    try:
        yield database
    finally:
        await database.close()
        if not url.startswith("sqlite"):
            await run_sql(url, f"DROP OWNED BY {READER}", f"DROP ROLE {READER}")


async def run_sql(url: str, *commands: str) -> None:
    database = opened(url)
    for command in commands:
        await database.write(lambda connection, command=command: connection.execute(text(command)) and None)
    await database.close()


async def test_what_an_index_refuses_undoes_no_put_that_is_written_beside_it(
    keeps: Callable[..., None], url: str
) -> None:
    keeps(LastLetter())
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put(datum("start", "x"))
        for id, content, error in [("x3", "", ValueError), ("x7", "fizz", IntegrityViolation)]:
            puts = [datum(f"x{at}", content if f"x{at}" == id else f"a{at}") for at in range(10)]
            answers = await asyncio.gather(*map(store.put, puts), return_exceptions=True)
            assert [type(one) for one in answers if isinstance(one, Exception)] == [error]
            assert await store.get(id) is None
            assert await store.count() == 10
            assert len({each.seq for each in await store.list()}) == 10
            assert await store.head() == max(each.seq for each in await store.list())
            for at in range(10):
                await store.delete(f"x{at}")
    finally:
        await database.close()


async def test_a_search_goes_on_until_the_limit_is_filled(keeps: Callable[..., None], url: str) -> None:
    keeps(FirstLetter())
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put_many([datum(f"a{at:03}", "gone", None, "t") for at in range(150)], ttl=0.05)
        await store.put_many([datum(f"b{at}", "good", None, "t") for at in range(5)])
        await asyncio.sleep(0.1)
        live = [f"b{at}" for at in range(5)]
        assert [each.id for each in await store.search("first", "g", limit=7)] == live
        assert [each.id for each in await store.search("first", "g", limit=3)] == live[:3]
        assert await store.search("first", "g", limit=0) == []
        assert sorted(each.id for each in await store.search("metadata", Query(tags={"t"}))) == live
        await store.put_many([Datum(f"z{at}", b"x", 0.5, None, {"tags": ["t"]}) for at in range(3)])
        found = await store.search("metadata", Query(tags={"t"}, prefix="z"), limit=2)
        assert [each.id for each in found] == ["z2", "z1"]
        refused: list[Any] = [{"order": "oldest"}, {"limit": 3}, {"cursor": "x"}, {"as_of": 1.0}, {"expired": True}]
        for named in refused:
            with pytest.raises(InvalidQuery, match=r"use query\(\)"):
                await store.search("metadata", Query(tags={"t"}, **named))
    finally:
        await database.close()


@pytest.mark.parametrize("verb", ["purge", "put"])
async def test_what_a_damaged_mark_hides_leaves_the_indexes(registered: None, url: str, verb: str) -> None:
    database = opened(url)
    try:
        store = SqlBackend(database)
        await store.put(datum("1", "apple", None, "t"))
        await run_sql(url, "UPDATE dgent_datums SET live = false WHERE id = '1'")
        if verb == "purge":
            assert await store.purge("1") == 1
            assert await database.read(held) == (set(), set())
        assert (await store.put(datum("1", "bee", None, "u"))).version == (1 if verb == "purge" else 2)
        assert await store.search("first", "a") == await store.search("metadata", Query(tags={"t"})) == []
        await store.put(datum("1", "bee"))
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
