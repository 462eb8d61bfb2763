"""A query of a typed table answers as its `matches` over a full scan, whatever SQL took on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.bridge import TableAdapter, table_query
from dgent.datum import Datum
from dgent.exceptions import CapabilityMissing, InvalidCursor, InvalidQuery, LimitExceeded
from dgent.limits import Limits
from dgent.models import Crystal
from dgent.query import Query
from dgent.testing.contract_base import examples, pages
from dgent.testing.reading_laws import some_of

from .test_rows import insert, wide
from .wide_models import Counted, Note, Paired, Wide

if TYPE_CHECKING:
    from dgent.sql import Database

TIMES = [
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC),
]
SECONDS = st.sampled_from([time.timestamp() for time in TIMES] + [0.0, 9e14, -9e14, TIMES[0].timestamp() + 5e-7])
TAGS = ["t", "t%", "T", "é", ""]
INSIDE = [1, 1.0, True, "1", None, {"y": 2}]
rows = st.lists(
    st.fixed_dictionaries({
        "created_at": st.sampled_from(TIMES),
        "tags": st.lists(st.sampled_from(TAGS), max_size=3),
        "whole": st.none() | st.integers(0, 2),
        "real": st.none() | st.sampled_from([0.0, 1.0, -0.0, 1.5]),
        "flag": st.none() | st.booleans(),
        "word": st.none() | st.sampled_from("ab"),
        "moment": st.none() | st.sampled_from(TIMES[:2]),
        "body": st.dictionaries(st.sampled_from(["x", "a.b"]), st.sampled_from(INSIDE), max_size=2),
        "plain": st.none() | st.sampled_from([1, "1", [1, 2]]),
    }),
    max_size=12,
)  # fmt: skip
SCALARS = st.sampled_from(
    [
        None,
        0,
        1,
        1.0,
        1.5,
        2**40,
        True,
        False,
        "1",
        "a",
        "nonsense",
        "' OR 1=1 --",
        [1, 2],
        {"y": 2},
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000001Z",
        "2026-01-01T01:00:00+01:00",
    ]
)
PATHS = st.sampled_from(
    [
        "whole",
        "content.real",
        "flag",
        "word",
        "moment",
        "id",
        "created_at",
        "whole.x",
        "plain",
        "plain[1]",
        "body.x",
        'body["a.b"]',
        "body.x.y",
        "metadata.table",
        "metadata.tags[0]",
    ]
)


def column_query() -> st.SearchStrategy[dict[str, Any]]:
    """Draw the filters of a query of a table, which keeps no seq."""
    return some_of(
        {
            "schema": st.just("x"),
            "author": st.sampled_from(["system", "ann"]),
            "tags": st.frozensets(st.sampled_from(TAGS), max_size=2),
            "since": SECONDS,
            "until": SECONDS,
            "after": SECONDS,
            "prefix": st.sampled_from(["", "r", "r1", "R", "\U0010ffff"]),
            "where": st.dictionaries(PATHS, SCALARS, max_size=2),
        },
        without=frozenset({"after_seq", "before_seq", "causal_parent", "expired"}),
    )


async def check(table: TableAdapter, named: dict[str, Any], order: Any, limit: int) -> None:
    """Compare a query with a full scan, as one page and as many."""
    plain = Query(**named, order=order)
    every = await table.list(limit=1000)
    wanted = sorted(filter(plain.matches, every), key=plain.position, reverse=plain.descending)
    assert await table.query(plain) == wanted, plain
    found = await pages(lambda at: table.query(Query(**named, order=order, limit=limit, cursor=at)))
    assert found == wanted, plain


@examples()
@given(data=st.data())
async def test_l_c3_a_query_answers_as_its_matches(database: Database, data: st.DataObject) -> None:
    table = await wide(database)
    await table.delete_many([datum.id for datum in await table.list(limit=1000)])
    await insert(database, *(Wide(id=f"r{n}", **row) for n, row in enumerate(data.draw(rows))))
    for _ in range(5):
        named, order = data.draw(column_query()), data.draw(st.sampled_from(["newest", "oldest", "id", "-id"]))
        await check(table, named, order, data.draw(st.integers(1, 4)))


@pytest.mark.parametrize("narrow", [0, 10**9])
async def test_l_c3_with_an_index_of_tags_both_ways(
    database: Database, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_query, "NARROW", narrow)
    for cached in ("_width_of_range", "_width_of_tag", "_listing"):
        getattr(table_query, cached).cache_clear()
    table = TableAdapter(Crystal, database)
    filled = [*TAGS[:-1], "[x]"]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    crystals = [
        Crystal(
            id=f"c{n:02}",
            content_hash=str(n % 3),
            summary="s",
            tags=[tag for at, tag in enumerate(filled) if n >> at & 1],
            created_at=start + timedelta(hours=n % 5),
        )
        for n in range(32)
    ]
    await insert(database, *crystals)
    for tags in (["t"], ["t", "é"], [""], ["nobody"], filled):
        for prefix in (None, "c", "c1", "d"):
            for order in ("newest", "oldest", "id", "-id"):
                named = {
                    "tags": tags,
                    "prefix": prefix,
                    "since": start + timedelta(hours=1),
                    "where": {"content_hash": "1"},
                }
                await check(table, {"tags": tags, "prefix": prefix}, order, 3)
                await check(table, named, order, 3)
    assert len(await table.query(Query(tags="t"))) == 16


@pytest.mark.parametrize("path", ["sumary", "content.sumary", "sumary.x", "[0]"])
async def test_a_path_that_begins_with_no_column_is_refused(database: Database, path: str) -> None:
    table = TableAdapter(Crystal, database)
    for limit in (0, 10):
        with pytest.raises(InvalidQuery, match="brain_crystals has no column") as caught:
            await table.query(Query(where={path: "s"}, limit=limit))
        assert ("did you mean summary?" in str(caught.value)) == ("sumary" in path)


async def test_a_hidden_column_is_refused_like_one_that_is_not_there(database: Database) -> None:
    table = TableAdapter(Crystal, database, hidden=("datum_id",))
    said = []
    for path in ("datum_id", "datum_ix"):
        with pytest.raises(InvalidQuery) as caught:
            await table.query(Query(where={path: "s"}))
        said.append(str(caught.value).replace(path, "it"))
    assert said[0] == said[1]


async def test_pages_without_a_time_go_by_the_key(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Paired, database)
    await insert(database, *(Paired(left=left, right=right) for left in ("é", "a", "B", "a ") for right in (-1, 10, 9)))
    for order in ("newest", "oldest", "-id", "id"):
        every: Any = await table.list(order=order)  # type: ignore[arg-type]
        keys = [tuple(datum.data[name] for name in ("left", "right")) for datum in every]
        assert keys == sorted(keys, reverse=order in {"newest", "-id"})
        for limit in (1, 2, 5, 12):
            assert await pages(lambda at, n=limit, o=order: table.list(limit=n, cursor=at, order=o)) == every  # type: ignore[misc]
    assert len(await table.query(Query(prefix='["a"', where={"right": 9}))) == 1
    assert await table.query(Query(since=1.0)) == []
    assert len(await table.query(Query(until=1.0))) == 12


async def test_pages_of_counted_keys(database: Database) -> None:
    await database.write(Wide.metadata.create_all)
    table = TableAdapter(Counted, database)
    await insert(database, *(Counted(id=n, slug=str(n), created_at=TIMES[n % 2]) for n in range(8, 13)))
    every = await table.list()
    assert [datum.id for datum in every] == ["11", "9", "12", "10", "8"]
    assert await pages(lambda at: table.list(limit=2, cursor=at)) == every
    assert [datum.id for datum in await table.list(prefix="1", order="oldest")] == ["10", "12", "11"]
    assert await table.keys(order="-id") == ["12", "11", "10", "9", "8"]
    first = await table.keys(order="id", limit=2)
    assert (first, await table.keys(order="id", cursor=first.cursor)) == (["8", "9"], ["10", "11", "12"])
    assert await table.segments(delimiter="1") == ["1", "8", "9"]
    behind = (await table.segments(delimiter="1", limit=1)).cursor
    assert await table.segments(delimiter="1", cursor=behind) == ["8", "9"]
    cursor = (await table.list(limit=1)).cursor
    other = TableAdapter(Paired, database)
    with pytest.raises(InvalidCursor):
        await other.list(limit=1, cursor=cursor)


async def test_what_a_table_cannot_do_it_says(database: Database) -> None:
    table = TableAdapter(Crystal, database, limits=Limits(max_page=100))
    datum = Datum.create(data={"content_hash": "h", "summary": "s"})
    with pytest.raises(CapabilityMissing):
        await table.put(datum, ttl=1)
    with pytest.raises(CapabilityMissing):
        await table.put_many([datum], ttl=1)
    with pytest.raises(CapabilityMissing):
        await table.get(datum.id, version=1)
    with pytest.raises(CapabilityMissing):
        await table.history(datum.id)
    with pytest.raises(CapabilityMissing):
        await table.as_of(1.0)
    with pytest.raises(CapabilityMissing):
        await table.query(Query(as_of=1.0))
    for refused in (table.head(), table.seq_at(1.0), table.changes(0)):
        with pytest.raises(CapabilityMissing, match="keeps one version of each row"):
            await refused
    with pytest.raises(CapabilityMissing):
        await table.causal_chain(datum.id)
    with pytest.raises(CapabilityMissing):
        await table.list(order="seq")
    for seqs in (Query(after_seq=1), Query(before_seq=1), Query(order="-seq")):
        with pytest.raises(CapabilityMissing):
            await table.query(seqs)
    with pytest.raises(LimitExceeded):
        await table.list(limit=101)
    assert await table.count() == 0
    assert not TableAdapter(Note, database).capabilities.indexed
    assert table.capabilities.indexed
