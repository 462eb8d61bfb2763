"""One damaged datum hides no other: a page gives the rest and names it; what reads it alone says that it is damaged."""

from __future__ import annotations

import asyncio
import time
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import pytest
from tests.faults.damaged_datum_rows import Change, change, changes, execute, keep, restore

from dgent.datum import Datum
from dgent.exceptions import Corrupt
from dgent.memory.sql.backend import SqlBackend
from dgent.page import Damaged, Page
from dgent.query import Order, Query
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.damaged_pages import MOST
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

BAD = "k5"
ORDERS: tuple[Order, ...] = get_args(Order)


def datum(n: int) -> Datum:
    """Return one of several with the same time, each caused by the one before."""
    return Datum(f"k{n}", b"content %d" % n, 1000.0 + n // 3, f"k{n - 1}" if n else None, {"tags": ["t"], "n": n})


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlBackend]:
    """Ten datums, the fifth of which is going to be damaged."""
    store = SqlBackend(open_database(Settings.load(database_url=url, synchronous="NORMAL")))
    try:
        await store.put_many([datum(n) for n in range(10)])
        yield store
    finally:
        await store.close()


async def walked(page: Callable[[str | None], Awaitable[Page]]) -> tuple[list[Datum], list[Damaged]]:
    """Follow the cursors to the end; each page with damage warns once, no other does."""
    found: list[Datum] = []
    named: list[Damaged] = []
    cursor = None
    for _ in range(50):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            here = await page(cursor)
        assert [each.category for each in said] == [DamagedWarning] * bool(here.damaged), said
        found += here
        named += here.damaged
        cursor = here.cursor
        if cursor is None:
            return found, named
    raise AssertionError("the pages never end")


def in_order(order: Order, ids: set[str]) -> list[Datum]:
    whole = [datum(n) for n in range(10) if f"k{n}" in ids]
    return whole[::-1] if order in {"newest", "-id", "-seq"} else whole  # which are in order by all of them


async def test_an_older_version_is_no_answer_where_the_last_is_damaged(store: SqlBackend, url: str) -> None:
    """The number of the last version, or of a tombstone, became 0: what it superseded is the last one now."""
    await store.put(datum(5).replace(content=b"newer"))
    await store.delete("k6")
    for id in ("k5", "k6"):
        execute(url, "UPDATE dgent_datums SET version = 0 WHERE id = ? AND version = 2", id)
        with pytest.raises(Corrupt):
            await store.get(id)
        with pytest.raises(Corrupt):
            await store.exists(id)
    assert await store.get("k7") == datum(7)


async def test_every_page_gives_the_others_and_names_the_damaged_one(
    store: SqlBackend, url: str, full_size: bool
) -> None:
    """Each column in turn, with any value: pages of every size, in every order, by every index. Nothing twice.

    PostgreSQL is asked for pages of one size: the cursor at a damaged row, of every column, is what its SQL decides.
    """
    sizes = (1, 3, 100) if full_size or url.startswith("sqlite") else (3,)
    keep(url)
    others = {f"k{n}" for n in range(10)} - {BAD}
    for what in changes(url):
        change(url, BAD, what)
        for order in ORDERS:
            for limit in sizes:
                for filters in ({}, {"prefix": "k"}, {"tags": {"t"}}, {"author": "system"}):
                    asked: Any = filters
                    found, named = await walked(
                        lambda at, o=order, n=limit, f=asked: store.query(Query(order=o, limit=n, cursor=at, **f))  # type: ignore[misc]
                    )
                    assert found == in_order(order, others), (str(what), order, limit, filters)
                    assert len(named) <= 1, (str(what), order, limit, filters)
                    if not filters:
                        assert len(named) == 1, (str(what), order, limit)
                        assert all(each.reason for each in named)
        restore(url)
    assert await store.query(Query(order="seq")) == [datum(n) for n in range(10)]


async def test_ids_and_segments_are_listed_past_the_damaged_one(store: SqlBackend, url: str, full_size: bool) -> None:
    """No content is read, so it may stand there, under what is left of its id; but it hides no other."""
    sizes = (1, 4, 100) if full_size else (4,)
    keep(url)
    others = {f"k{n}" for n in range(10)} - {BAD}
    for what in changes(url):
        change(url, BAD, what)
        for order in ORDERS:
            for limit in sizes:
                found, cursor = list[str](), None
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DamagedWarning)
                    for _ in range(15):
                        page = await store.keys("k", order=order, limit=limit, cursor=cursor)
                        found += page
                        cursor = page.cursor
                        if cursor is None:
                            break
                assert cursor is None, "the pages never end"
                assert [id for id in found if id in others] == [each.id for each in in_order(order, others)], (
                    str(what),
                    order,
                    limit,
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedWarning)
            assert others <= set(await store.segments())
        restore(url)


async def test_the_past_gives_the_others_and_names_the_damaged_one(store: SqlBackend, url: str) -> None:
    keep(url)
    now = time.time() + 60
    others = {f"k{n}" for n in range(10)} - {BAD}
    later = [Change("stored_at", 1e308), Change("stored_at", "text")]  # by what is left of it
    for what in [*changes(url), later[0]]:
        change(url, BAD, what)
        for limit in (1, 4, 100):
            found, named = await walked(lambda at, n=limit: store.as_of(now, limit=n, cursor=at))  # type: ignore[misc]
            assert {each.id for each in found} == others, (str(what), limit)
            assert len(found) == len(others), (str(what), limit)
            assert len(named) == (what not in later), (str(what), limit)
        restore(url)


async def test_a_query_of_the_past_gives_the_others_and_names_the_damaged_one(store: SqlBackend, url: str) -> None:
    keep(url)
    now = time.time() + 60
    for what in changes(url):
        change(url, BAD, what)
        for order, limit in product(ORDERS, (3, 100)):
            found, named = await walked(
                lambda at, o=order, n=limit: store.query(Query(as_of=now, order=o, limit=n, cursor=at))  # type: ignore[misc]
            )
            assert found == in_order(order, {f"k{n}" for n in range(10)} - {BAD}), (str(what), order, limit)
            assert len(named) == (what != Change("stored_at", "text")), (str(what), order, limit)
        restore(url)


async def test_what_changed_gives_the_others_and_names_the_damaged_one(store: SqlBackend, url: str) -> None:
    """And the search for a time is led astray by no row: a time that became huge or tiny, a seq that is no number."""
    keep(url)
    stored_at = (await store.history("k0"))[0].stored_at
    for what in [*changes(url), Change("stored_at", 1e308), Change("expires_at", 1.0)]:
        change(url, BAD, what)
        for limit in (1, 4, 100):
            found, named, seq, more = list[Datum | None](), list[Damaged](), 0, True
            while more:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    page = await store.changes(seq, limit=limit)
                assert [each.category for each in said] == [DamagedWarning] * bool(page.damaged), said
                found += [each.datum for each in page]
                named += page.damaged
                seq, more = page.seq, page.more
            assert found == [datum(n) for n in range(10) if n != 5], (str(what), limit)
            assert len(named) == 1, (str(what), limit)
        assert await store.seq_at(stored_at - 1) == 0, str(what)
        assert await store.seq_at(time.time() + 60) == 10, str(what)
        restore(url)


async def test_what_reads_it_alone_says_that_it_is_damaged(store: SqlBackend, url: str) -> None:
    """So that nobody hides a datum by damaging it."""
    keep(url)
    for what in [*changes(url), Change("expires_at", 1.0), Change("expires_at", -1.0)]:
        if what.column == "id":
            continue  # there is none under its id any more
        change(url, BAD, what)
        asked = [store.get(BAD), store.exists(BAD), store.history(BAD), store.get_many(["k1", BAD])]
        if what.column != "expires_at" or what.value not in {1.0, -1.0}:
            asked.append(store.causal_chain("k7"))
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(end) for end in ends] == [Corrupt] * len(asked), str(what)
        restore(url)


async def test_what_is_absent_is_not_what_is_empty(store: SqlBackend, url: str) -> None:
    """Mutant: a digest for which no parent and an empty one, or no expiry and one at -1, are the same."""
    for what in (Change("parent", ""), Change("expires_at", -1.0)):
        change(url, "k0", what)
        with pytest.raises(Corrupt):
            await store.get("k0")
        change(url, "k0", Change(what.column, None))
        assert await store.get("k0") == datum(0)


async def test_a_transaction_and_a_synchronous_reader_see_the_same(store: SqlBackend, url: str) -> None:
    for what in (Change("content", b"else"), Change("created_at", 1e308), Change("metadata", b"{}\xff", as_text=True)):
        if what.as_text and url.startswith("postgresql"):
            continue
        change(url, BAD, what)
        async with store.database.transaction() as tx:
            with pytest.warns(DamagedWarning, match="1 "):
                page = await store.joined(tx).list(limit=100)
            assert ({each.id for each in page}, len(page.damaged)) == ({f"k{n}" for n in range(10)} - {BAD}, 1)
            await store.joined(tx).put(Datum("k9", b"else", 2000.0))
        assert await store.exists("k9")
        await store.put(datum(9))


async def test_the_named_one_can_be_saved_and_purged(store: SqlBackend, url: str) -> None:
    change(url, BAD, Change("content", b"half of it"))
    with pytest.warns(DamagedWarning):
        page = await store.list()
    (damaged,) = page.damaged
    assert (damaged.id, damaged.version, damaged.content) == (BAD, 1, b"half of it")
    with pytest.raises(Corrupt, match=BAD):
        page.whole()
    assert await store.purge(damaged.id) == 1
    assert len((await store.list()).whole()) == 9


async def test_whatever_is_damaged_can_be_purged(store: SqlBackend, url: str) -> None:
    """Nothing of it is left, in no index either: a new one under its id is found by what it says."""
    keep(url)
    for what in [*changes(url), Change("expires_at", 1.0)]:
        if what.column == "id":
            continue
        change(url, BAD, what)
        assert await store.purge(BAD) == 1, str(what)
        assert await store.history(BAD) == []
        terms = execute(url, "SELECT count(*) FROM dgent_terms WHERE id = ?", BAD)
        assert terms == [(0,)], str(what)
        assert [page.damaged for page in (await store.list(), await store.query(Query(tags={"t"})))] == [(), ()]
        await store.put(datum(5))
        assert len(await store.query(Query(tags={"t"}))) == 10
        restore(url)


async def test_a_put_over_a_damaged_one_is_its_next_version(store: SqlBackend, url: str) -> None:
    """Its history says what is damaged; a put of what was there is no answer to a get that fails."""
    keep(url)
    for what in changes(url):
        if what.column in {"id", "version", "seq"}:
            continue
        change(url, BAD, what)
        if what == Change("expires_at", "text"):  # whether it is live, nobody can tell
            with pytest.raises(Corrupt):
                await store.put(datum(5))
            restore(url)
            continue
        for new in (datum(5), datum(5).replace(content=b"new", metadata={"tags": ["new"]})):
            assert await store.put(new) == new, str(what)
            assert await store.get(BAD) == new, str(what)
            tag = "new" if new.content == b"new" else "t"
            assert BAD in {each.id for each in await store.query(Query(tags={tag}))}, str(what)
            assert len((await store.list()).whole()) == 10
        with pytest.raises(Corrupt):
            await store.history(BAD)
        restore(url)


async def test_a_page_of_damaged_ones_alone_goes_on(store: SqlBackend, url: str) -> None:
    execute(url, "UPDATE dgent_datums SET content = ? WHERE id <> ?", b"else", "k0")
    for order in ORDERS:
        for limit in (1, 2, 100):
            found, named = await walked(
                lambda at, o=order, n=limit: store.query(Query(order=o, limit=n, cursor=at))  # type: ignore[misc]
            )
            assert [each.id for each in found] == ["k0"]
            assert sorted(each.id for each in named) == [f"k{n}" for n in range(1, 10)]
    execute(url, "UPDATE dgent_datums SET content = ?", b"else")
    found, named = await walked(lambda at: store.list(limit=3, cursor=at))
    assert (found, len(named)) == ([], 10)


async def test_a_store_that_is_damaged_throughout_is_corrupt(store: SqlBackend, url: str) -> None:
    """What a page names is bounded."""
    await store.put_many([Datum(f"x{n}", b"", 1.0) for n in range(2 * MOST)])
    execute(url, "UPDATE dgent_datums SET content = ? WHERE id > ?", b"else", "x")
    with pytest.raises(Corrupt, match="restore"):
        await store.list("x", limit=1)
    assert len((await store.list("k", limit=3)).whole()) == 3
