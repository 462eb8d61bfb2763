"""The laws of reading: pages, prefixes, queries, chains, the order of seq, the past."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import Corrupt, InvalidCursor, InvalidInput, InvalidQuery, LimitExceeded
from dgent.limits import Limits
from dgent.query import Query
from dgent.testing.contract_base import START, ContractBase, examples, fresh, is_full_size, pages
from dgent.testing.order_laws import ORDERS, orders_of
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from dgent.store import DgentProtocol

BATCH: Final = 5_000
_NO_FILTERS: Final = {"order", "limit", "cursor", "offset", "as_of"}
VALUES: Final = (1, 1.0, 0, 2**53 + 1, -2.5, True, False, None, "1", "", "a'b", "é", [1, "x"], {"k": 1}, 1e300)
PATHS: Final = ("metadata.n", 'metadata["a.b"]', "metadata.deep.x", "x", "content.deep.x", "list[0]", "list[-1].y")


@cache
def values() -> st.SearchStrategy[Any]:
    """Draw JSON values that are easily mistaken for one another."""
    return st.sampled_from(VALUES)


@cache
def any_datum(id: str) -> st.SearchStrategy[Datum]:
    """Draw what a schema-free store takes under an id."""
    named = {"n": values(), "a.b": values(), "deep": st.fixed_dictionaries({"x": values()}), "schema": values()}
    tags = st.lists(st.sampled_from(["t", "t%", "T", "é", ""]), max_size=3) | values()
    metadata = st.fixed_dictionaries(
        {}, optional={**named, "tags": tags, "author": st.sampled_from(["ann", "system", 1])}
    )
    body = {"x": values(), "deep": st.fixed_dictionaries({"x": values()}), "list": st.lists(values(), max_size=2)}
    content = st.fixed_dictionaries({}, optional=body).map(orjson.dumps) | st.sampled_from(
        [b"", b"\xff", b"{", b"null"]
    )
    parent = st.none() | st.sampled_from(["up", "UP"])
    return st.builds(Datum, st.just(id), content, st.sampled_from([START, START + 0.5, -1.0]), parent, metadata)


@cache
def any_query() -> st.SearchStrategy[dict[str, Any]]:
    """Draw the filters of a query."""
    times = st.sampled_from([START - 1, START, START + 0.25, START + 0.5, -1.0])
    where = st.dictionaries(st.sampled_from(PATHS), values(), max_size=2)
    filters = {
        "schema": st.sampled_from(["1", "é", ""]),
        "tags": st.frozensets(st.sampled_from(["t", "t%", "T", "é", ""]), max_size=2),
        "author": st.sampled_from(["ann", "system", "1"]),
        "since": times,
        "until": times,
        "after": times,
        "where": where,
        "prefix": st.sampled_from(["", "i", "i1", "I"]),
        "causal_parent": st.sampled_from(["up", "UP", ""]),
        "after_seq": st.integers(-1, 12),
        "before_seq": st.integers(-1, 13),
        "expired": st.just(True),  # nothing expires there: `operation_laws.py` has it
    }
    return some_of(filters)


def some_of(
    filters: dict[str, st.SearchStrategy[Any]], *, without: frozenset[str] = frozenset()
) -> st.SearchStrategy[dict[str, Any]]:
    """Draw some of the filters of a query, all of which have to be here but those `without` which a store can do."""
    assert filters.keys() | without == {field.name for field in fields(Query)} - _NO_FILTERS
    # Most examples have few filters, so that something is found.
    few = st.sampled_from(sorted(filters)).flatmap(lambda name: st.fixed_dictionaries({name: filters[name]}))
    return few | st.fixed_dictionaries({}, optional=filters)


@dataclass(frozen=True, eq=False)
class EndingQuery(Query):
    """A query with a filter that no store has heard of: the id ends with it."""

    ending: str = ""

    def matches(self, datum: Datum) -> bool:
        return super().matches(datum) and datum.id.endswith(self.ending)


class ReadingLaws(ContractBase):
    """What get, list, query, causal_chain and as_of promise."""

    @examples(2)
    @given(data=st.data())
    async def test_l_d6_pages_give_each_live_id_once(self, place: Any, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from(orders_of(self)))
        numbers = data.draw(st.lists(st.integers(0, 6), max_size=25))
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"k{at:02}", n) for at, n in enumerate(numbers)])
            await store.delete_many([f"k{at:02}" for at, n in enumerate(numbers) if n == 6])
            wanted = {f"k{at:02}" for at, n in enumerate(numbers) if n < 6}
            found: list[str] = []
            cursor, appended = None, 0
            while True:
                page = await store.list(limit=data.draw(st.integers(1, 7)), cursor=cursor, order=order)
                found += [datum.id for datum in page]
                cursor = page.cursor
                if cursor is None:
                    break
                if appended < 5 and data.draw(st.booleans()):
                    appended += 1
                    await store.put(self.make_datum(f"late{appended}", data.draw(st.integers(0, 6))))
            assert len(found) == len(set(found))
            assert wanted <= set(found)

    async def test_l_d6_limits(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put(self.make_datum("a", 1))
            for limit in (-1, 1.0, True, "1"):
                bad: Any = limit
                with pytest.raises(InvalidQuery):
                    await store.list(limit=bad)
            empty = await store.list(limit=0)
            assert (list(empty), empty.cursor) == ([], None)
            assert (await store.list(limit=1)).cursor is None
            assert await store.list(after=0.0) == await store.list()
            assert await store.list(after=START + 1) == []
            with pytest.raises(LimitExceeded):
                await store.list(limit=Limits().max_page + 1)

    @examples(2)
    @given(data=st.data())
    async def test_l_d7_a_prefix_is_exact(self, place: Any, data: st.DataObject) -> None:
        ids = data.draw(st.lists(self.ids(), max_size=12, unique=True))
        prefixes = [id[:at] for id in ids for at in range(len(id) + 1)] + data.draw(st.lists(self.ids(), max_size=3))
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(id, n) for n, id in enumerate(ids)])
            for prefix in dict.fromkeys(["", *prefixes]):
                wanted = {id for id in ids if id.startswith(prefix)}
                found = [datum.id for datum in await store.list(prefix=prefix)]
                assert set(found) == wanted
                assert len(found) == await store.count(prefix=prefix) == len(wanted)
                two_by_two = await pages(lambda at, p=prefix: store.list(p, limit=2, cursor=at))  # type: ignore[misc]
                assert [datum.id for datum in two_by_two] == found

    async def test_l_d7_narrow_and_wide_prefixes_have_pages(self, place: Any) -> None:
        ids = [f"{kind}{n:04}" for kind, many in (("narrow", 40), ("wide", 1200)) for n in range(many)]
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(id, n) for n, id in enumerate(ids)])
            for prefix, limit in (("narrow", 7), ("wide", 500)):
                stored = list((await store.get_many([id for id in ids if id.startswith(prefix)])).values())
                for order in orders_of(self):
                    one = Query(order=order)
                    wanted = sorted(stored, key=one.position, reverse=one.descending)
                    found = await pages(
                        lambda at, p=prefix, n=limit, o=order: store.list(p, limit=n, cursor=at, order=o)  # type: ignore[misc]
                    )
                    assert found == wanted
                    after = await store.list(prefix, START + 1, limit=2000, order=order)
                    assert after == [datum for datum in wanted if datum.created_at > START + 1]

    @pytest.mark.requires("causal")
    async def test_l_d8_a_chain_is_the_parents_oldest_first(self, place: Any) -> None:
        async with self.opened(place) as store:
            ids = ["a", "b", "c", "d"]
            chain = [self.make_datum(id, 1, parent) for id, parent in zip(ids, ["nobody", *ids], strict=False)]
            put = await store.put_many([*chain, self.make_datum("side", 1, "b")])
            assert await store.causal_chain("d") == put[:4]
            assert await store.causal_chain("d", newest_first=True) == put[3::-1]
            assert [await store.causal_chain("d", limit=n) for n in (0, 1, 3, 9)] == [[], put[3:4], put[1:4], put[:4]]
            assert await store.causal_chain("d", limit=2, newest_first=True) == put[3:1:-1]
            bad: Any
            for bad in (-1, 1.0, "2", True):
                with pytest.raises(InvalidQuery):
                    await store.causal_chain("d", limit=bad)
            assert await store.causal_chain("side") == [*put[:2], put[4]]
            assert await store.causal_chain("a") == put[:1]
            assert await store.causal_chain("nobody") == []
            await store.delete("b")
            assert await store.causal_chain("d") == put[2:4]
            assert await store.causal_chain("b") == []

    @pytest.mark.requires("causal")
    async def test_l_d8_a_deep_chain_completes(self, place: Any) -> None:
        depth = self.chain_depth if is_full_size() else min(self.chain_depth, 10_000)
        async with self.opened(place) as store:
            for start in range(0, depth, BATCH):
                numbers = range(start, min(start + BATCH, depth))
                await store.put_many([self.make_datum(f"n{n}", 1, f"n{n - 1}" if n else None) for n in numbers])
            chain = await store.causal_chain(f"n{depth - 1}")
            assert [datum.id for datum in chain] == [f"n{n}" for n in range(depth)]

    @pytest.mark.requires("causal")
    async def test_l_d8_a_chain_beyond_the_limit_is_refused(self, place: Any) -> None:
        async with self.opened(place, limits=Limits(max_chain=3)) as store:
            await store.put_many([self.make_datum(f"n{n}", 1, f"n{n - 1}" if n else None) for n in range(4)])
            assert len(await store.causal_chain("n2")) == 3
            assert [datum.id for datum in await store.causal_chain("n3", limit=3)] == ["n1", "n2", "n3"]
            for limit in (None, 4):
                with pytest.raises(LimitExceeded):
                    await store.causal_chain("n3", limit=limit)

    async def test_one_damaged_datum_hides_no_other(self, place: Any) -> None:
        """Pages give the rest and name it, with one warning; what reads it alone, or copies all, says so."""
        namespace = fresh()
        async with self.opened(place, namespace) as store:
            await store.put_many([self.make_datum(id, 1) for id in "abcde"])
            self.damage(place, namespace, "c")
            for order in orders_of(self):
                for limit in (1, 2, 5):
                    found, named, cursor = list[str](), list[str](), None
                    for _ in range(7):
                        with warnings.catch_warnings(record=True) as said:
                            warnings.simplefilter("always", DamagedWarning)
                            page = await store.list(limit=limit, order=order, cursor=cursor)
                        assert len(said) == bool(page.damaged)
                        found += [datum.id for datum in page]
                        named += [each.id for each in page.damaged]
                        cursor = page.cursor
                        if cursor is None:
                            break
                    assert found == (list("edba") if Query(order=order).descending else list("abde"))
                    assert named == ["c"]
            with pytest.raises(Corrupt):
                await store.get("c")
            with pytest.raises(Corrupt):
                await store.get_many(["a", "c"])
            with suppress(Corrupt):
                assert await store.exists("c"), "damaged is not absent"
            assert await store.get("a") == self.expected(self.make_datum("a", 1))
            assert await store.purge("c")
            assert len((await store.list()).whole()) == 4

    async def test_get_many_answers_in_the_order_asked(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put_many([self.make_datum(id, n) for n, id in enumerate("abc")])
            assert list((await store.get_many(["c", "x", "a", "c"])).items()) == [("c", put[2]), ("a", put[0])]
            assert await store.get_many([]) == {}

    async def test_a_hostile_id_is_refused_and_nothing_more(self, place: Any) -> None:
        async with self.opened(place) as store:
            bad: Any
            for bad in ("", "a\0", "\ud800", 7, None):
                for verb in (store.get, store.exists, store.delete, store.causal_chain, store.purge):
                    with pytest.raises(InvalidInput):
                        await verb(bad)
                with pytest.raises(InvalidInput):
                    await store.get_many(["a", bad])
            for bad in ("a\0", "\ud800", 7):
                with pytest.raises(InvalidInput):
                    await store.list(prefix=bad)
                with pytest.raises(InvalidInput):
                    await store.count(prefix=bad)
            assert await store.count() == 0

    @examples(2)
    @given(data=st.data())
    @pytest.mark.requires("schema_free")
    async def test_l_c3_a_query_answers_as_its_matches(self, place: Any, data: st.DataObject) -> None:
        many = data.draw(st.integers(0, 12))
        datums = [data.draw(any_datum(f"i{n}")) for n in range(many)]
        async with self.opened(place) as store:
            stored = await store.put_many(datums)
            for _ in range(8):
                await self._queried(store, stored, data)

    async def _queried(self, store: DgentProtocol, stored: list[Datum], data: st.DataObject) -> None:
        named, order = data.draw(any_query()), data.draw(st.sampled_from(ORDERS))
        plain: Any = Query(**named, order=order)
        wanted = sorted(filter(plain.matches, stored), key=plain.position, reverse=plain.descending)
        limit = data.draw(st.integers(1, 5))
        found = await pages(lambda at: store.query(Query(**named, order=order, limit=limit, cursor=at)))
        assert found == wanted, plain
        assert await store.query(plain) == wanted

    async def test_l_c3_a_filter_that_a_store_does_not_know_is_not_ignored(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"{at:02}", at) for at in range(30)])
            for named in ({}, {"prefix": "1"}, {"after": 0.0}):
                query: Any = EndingQuery(ending="7", order="oldest", **named)
                wanted = [f"{at:02}" for at in (7, 17, 27) if not named.get("prefix") or at == 17]
                assert sorted(datum.id for datum in await store.query(query)) == wanted
            page = await store.query(EndingQuery(ending="7", limit=1))
            assert (len(page), page.cursor is None) == (1, False)
            with pytest.raises(InvalidCursor):
                await store.query(EndingQuery(ending="8", limit=1, cursor=page.cursor))

    @examples(2)
    @given(data=st.data())
    async def test_a_tampered_cursor_is_refused(self, place: Any, data: st.DataObject) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"k{n}", n) for n in range(4)])
            cursor = (await store.list(limit=1)).cursor
            assert cursor is not None
            at = data.draw(st.integers(0, len(cursor) - 2))  # the last character has bits that mean nothing
            other = data.draw(st.characters(codec="ascii").filter(lambda new: new not in {cursor[at], "\0"}))
            forged = cursor[:at] + other + cursor[at + 1 :]
            for bad in (
                forged,
                cursor[:at],
                "",
                f"{cursor}AAAA",
                data.draw(st.text(st.characters(codec="ascii", min_codepoint=1))),
            ):
                with pytest.raises(InvalidCursor):
                    await store.list(limit=1, cursor=bad)
            for filters in ({"prefix": "k"}, {"after": 0.0}, {"order": "oldest"}):
                other_query: Any = filters
                with pytest.raises(InvalidCursor):
                    await store.list(limit=1, cursor=cursor, **other_query)
            assert len(await store.list(limit=3, cursor=cursor)) == 3
