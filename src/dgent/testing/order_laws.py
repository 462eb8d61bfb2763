"""The laws of order: pages in every order, ids and segments as they show in it, what came of a datum."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import CapabilityMissing, InvalidCursor, InvalidInput, InvalidQuery, LimitExceeded
from dgent.limits import Limits
from dgent.query import Order, Query
from dgent.testing.contract_base import START, ContractBase, as_backend, examples, fresh, pages
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.page import KeyPage
    from dgent.store import DgentProtocol

ORDERS: Final[tuple[Order, ...]] = get_args(Order)
DELIMITERS: Final = ("/", "::", "a", "//", "\U0010ffff")
ADDED: Final = 6


def orders_of(contract: ContractBase) -> list[Order]:
    """Return the orders that a store knows: those by seq are of one that has a history."""
    return [order for order in ORDERS if contract.capabilities.history or not order.endswith("seq")]


def cut(id: str, prefix: str, delimiter: str, depth: int) -> str:
    """Return the segment of an id, said again in other words."""
    parts = id[len(prefix) :].split(delimiter)
    return id if len(parts) <= depth else f"{prefix}{delimiter.join(parts[:depth])}{delimiter}"


async def key_pages(page: Callable[[str | None], Awaitable[KeyPage]]) -> list[str]:
    """Follow the cursors of `page(cursor)` to the end and join the pages."""
    found: list[str] = []
    here = await page(None)
    while True:
        found += here
        if here.cursor is None:
            return found
        assert here, "a page that is not the last one is empty"
        here = await page(here.cursor)


class OrderLaws(ContractBase):
    """What the orders of a query, `keys`, `segments` and `namespaces` promise."""

    @examples(4)
    @given(data=st.data())
    async def test_l_q2_pages_in_any_order_give_each_live_id_once(self, place: Any, data: st.DataObject) -> None:
        """Whatever is written between the pages: what is live throughout comes once, nothing twice, all in order."""
        order = data.draw(st.sampled_from(orders_of(self)))
        ids = data.draw(st.lists(self.ids(), min_size=1, max_size=12, unique=True))
        prefix = data.draw(st.sampled_from(["", ids[0][:1]]))
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(id, n) for n, id in enumerate(ids)])
            throughout = {id for id in ids if id.startswith(prefix)}
            found, cursor = list[Any](), None
            for turn in range(len(ids) + ADDED + 1):
                limit = data.draw(st.integers(1, 4))
                page = await store.list(prefix, limit=limit, cursor=cursor, order=order)
                found += page
                cursor = page.cursor
                if cursor is None:
                    break
                if turn < ADDED:
                    throughout -= {await self._written(store, turn, ids, data)}
            assert cursor is None
            places = [Query(order=order).position(datum) for datum in found]
            assert places == sorted(set(places), reverse=order in {"newest", "-id", "-seq"})
            shown = [datum.id for datum in found]
            assert all(shown.count(id) == 1 for id in throughout)
            assert all(id.startswith(prefix) for id in shown)

    async def _written(self, store: DgentProtocol, turn: int, ids: list[str], data: st.DataObject) -> str:
        """Put another datum, another version of one, or delete one; return whose place that may have changed."""
        id = data.draw(st.sampled_from([*ids, f"{ids[0]}{turn}"]))
        if data.draw(st.booleans()):
            await store.put(self.make_datum(id, 4 + turn))
        else:
            await store.delete(id)
        return id

    async def test_l_q2_a_page_goes_on_behind_its_last_whatever_was_deleted(self, place: Any) -> None:
        for order in orders_of(self):
            async with self.opened(place) as store:
                await store.put_many([self.make_datum(f"k{n}", n) for n in range(8)])
                every = await store.list(order=order)
                first = await store.list(order=order, limit=3)
                await store.delete_many([datum.id for datum in first])
                assert await store.list(order=order, cursor=first.cursor, limit=100) == every[3:], order
                assert await store.list(order=order) == every[3:], order

    async def test_l_q2_the_first_of_each_order(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put_many([self.make_datum(f"run/{n:03}", n % 3) for n in (1, 3, 2, 4)])
            await store.put(self.make_datum("run0", 1))
            await store.delete("run/004")
            wanted: dict[str, int] = {"id": 1, "-id": 3, "seq": 1, "-seq": 2}
            for order in orders_of(self):
                if order in wanted:
                    first = await store.list("run/", order=order, limit=1)
                    assert [datum.id for datum in first] == [f"run/{wanted[order]:03}"], order
            assert await store.list("run/", order="-id") == [put[1], put[2], put[0]]

    @pytest.mark.requires("history")
    async def test_l_q2_bounds_of_seq(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"k{n}", n) for n in range(6)])
            await store.put(self.make_datum("k2", 9))
            for order, wanted in (("seq", [4, 5, 6]), ("-seq", [6, 5, 4]), ("id", [4, 5, 6])):
                asked: Any = order
                found = await store.list(order=asked, after_seq=2, before_seq=7)
                assert [datum.seq for datum in found] == wanted
                two_by_two = await pages(
                    lambda at, o=asked: store.list("k", limit=2, cursor=at, order=o, after_seq=2, before_seq=7)  # type: ignore[misc]
                )
                assert two_by_two == found
            assert [datum.seq for datum in await store.list(order="-seq", before_seq=5, limit=2)] == [4, 2]
            assert await store.list(before_seq=1) == await store.list(after_seq=7) == []

    @examples(4)
    @given(data=st.data())
    async def test_l_q2_keys_are_the_ids_that_list_shows(self, place: Any, data: st.DataObject) -> None:
        ids = data.draw(st.lists(self.ids(), max_size=10, unique=True))
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(id, n) for n, id in enumerate(ids)])
            await store.put_many([self.make_datum(id, n + 2) for n, id in enumerate(ids[::3])])
            await store.delete_many(ids[1::4])
            prefix = data.draw(st.sampled_from([None, *(id[:1] for id in ids)]))
            order, limit = data.draw(st.sampled_from(orders_of(self))), data.draw(st.integers(1, 4))
            listed = [datum.id for datum in await store.list(prefix, order=order)]
            assert await store.keys(prefix, order=order) == listed
            assert await key_pages(lambda at: store.keys(prefix, order=order, limit=limit, cursor=at)) == listed
            first = await store.keys(prefix, order=order, limit=limit)
            assert (await store.list(prefix, order=order, limit=limit)).cursor == first.cursor

    @examples(4)
    @given(data=st.data())
    async def test_l_q2_segments_are_cut_from_the_ids(self, place: Any, data: st.DataObject) -> None:
        delimiter, depth = data.draw(st.sampled_from(DELIMITERS)), data.draw(st.integers(1, 3))
        parts = st.lists(self.ids() | st.just(""), min_size=1, max_size=4)
        ids = data.draw(st.lists(parts.map(delimiter.join).filter(bool), max_size=12, unique=True))
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(id, n) for n, id in enumerate(ids)])
            gone = ids[1::4]
            await store.delete_many(gone)
            for prefix in ("", *(id[:at] for id in ids[:2] for at in (1, len(id) - 1))):
                live = [id for id in ids if id not in gone and id.startswith(prefix)]
                wanted = sorted({cut(id, prefix, delimiter, depth) for id in live})
                found = await store.segments(prefix, delimiter=delimiter, depth=depth)
                assert (found, found.cursor) == (wanted, None)
                limit = data.draw(st.integers(1, 3))
                joined = await key_pages(
                    lambda at: store.segments(prefix, delimiter=delimiter, depth=depth, limit=limit, cursor=at)  # noqa: B023
                )
                assert joined == wanted

    async def test_l_q2_segments_of_a_folder(self, place: Any) -> None:
        async with self.opened(place) as store:
            ids = ["a/1", "a/b", "a/b!", "a/b/2", "a/b/3", "a/c/4/5", "a/", "b"]
            await store.put_many([self.make_datum(id, 1) for id in ids])
            assert await store.segments() == ["a/", "b"]
            assert await store.segments("a/") == ["a/", "a/1", "a/b", "a/b!", "a/b/", "a/c/"]
            assert await store.segments("a/", depth=2) == ["a/", "a/1", "a/b", "a/b!", "a/b/2", "a/b/3", "a/c/4/"]
            assert await store.segments("a/c/") == ["a/c/4/"]
            assert await store.segments("nothing") == []
            empty = await store.segments(limit=0)
            assert (list(empty), empty.cursor) == ([], None)

    @pytest.mark.requires("ttl")
    async def test_l_q2_what_has_expired_shows_nowhere(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            await store.put(self.make_datum("a/1", 1, "z"))
            await store.put_many([self.make_datum("a/2", 1, "z"), self.make_datum("b/1", 1, "z")], ttl=10)
            assert await store.segments() == ["a/", "b/"]
            clock.advance(10)
            assert await store.segments() == ["a/"]
            assert await store.keys() == await store.keys(order="-seq") == ["a/1"]
            assert [datum.id for datum in await store.list("a/", order="-id", limit=1)] == ["a/1"]
            assert len(await store.query(Query(causal_parent="z"))) == 1

    @pytest.mark.requires("causal")
    async def test_l_q2_what_came_of_a_datum(self, place: Any) -> None:
        async with self.opened(place) as store:
            children = [self.make_datum(f"c{n}", n, "top") for n in range(7)]
            await store.put_many([self.make_datum("top", 1), *children, self.make_datum("below", 1, "c1")])
            await store.put(self.make_datum("c6", 1, "below"))
            await store.put(self.make_datum("c5", 1))
            await store.delete("c4")
            found = {datum.id: datum for datum in await store.list() if datum.causal_parent == "top"}
            assert sorted(found) == ["c0", "c1", "c2", "c3"]
            for order in orders_of(self):
                plain = Query(causal_parent="top", order=order)
                wanted = sorted(found.values(), key=plain.position, reverse=plain.descending)
                assert await store.query(plain) == wanted
                two_by_two = await pages(
                    lambda at, o=order: store.query(Query(causal_parent="top", order=o, limit=2, cursor=at))  # type: ignore[misc]
                )
                assert two_by_two == wanted
            assert await store.query(Query(causal_parent="top", prefix="c3")) == [found["c3"]]
            late = await store.query(Query(causal_parent="top", after=START + 2))
            assert late == [datum for datum in late if datum.created_at > START + 2]
            assert [datum.id for datum in await store.query(Query(causal_parent="c1"))] == ["below"]
            assert await store.query(Query(causal_parent="c4")) == []
            assert await store.query(Query(causal_parent="nobody", order="id")) == []

    async def test_l_q2_children_are_refused_where_no_parent_is_kept(self, place: Any) -> None:
        if self.capabilities.causal:
            pytest.skip("the store keeps parents")
        async with self.opened(place) as store:
            with pytest.raises(CapabilityMissing):
                await store.query(Query(causal_parent="a"))

    async def test_l_q2_an_offset_leaves_out_the_first(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"k{n}", n) for n in range(9)])
            for order in orders_of(self):
                every = await store.list(order=order)
                for offset in (0, 1, 4, 7, 9, 50):
                    page = await store.query(Query(order=order, limit=2, offset=offset))
                    assert page == every[offset : offset + 2]
                    assert (page.cursor is None) == (offset >= 7)
                behind = await store.query(Query(order=order, limit=2, offset=3))
                query = Query(order=order, limit=2, offset=3, cursor=behind.cursor)
                assert await store.query(query) == every[5:7]

    async def test_l_q2_a_listing_refuses_what_means_nothing(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum(f"{id}/1", 1) for id in "abc"])
            bad: Any
            for bad in (-1, 1.0, "1", None):
                for verb in (store.keys, store.segments):
                    with pytest.raises(InvalidInput):
                        await verb(limit=bad)
            for named in ({"delimiter": ""}, {"delimiter": "\0"}, {"depth": 0}, {"depth": 1.5}, {"prefix": "\ud800"}):
                wrong: Any = named
                with pytest.raises(InvalidQuery):
                    await store.segments(**wrong)
            with pytest.raises(LimitExceeded):
                await store.segments(limit=Limits().max_page + 1)
            keys, segments = (await store.keys(limit=1)).cursor, (await store.segments(limit=1)).cursor
            assert keys is not None
            assert segments is not None
            for other in ({"cursor": keys}, {"cursor": segments, "depth": 2}, {"cursor": segments, "prefix": "a"}):
                wrong = other
                with pytest.raises(InvalidCursor):
                    await store.segments(**wrong)
            with pytest.raises(InvalidCursor):
                await store.keys(cursor=segments)

    async def test_l_q2_namespaces_have_pages(self, place: Any) -> None:
        home = fresh()
        names = [f"{home}{rest}" for rest in ("", "!x", "-1", "/a", "/a/b", "/z", "0")]
        async with self.opened(place, home) as opened:
            store = as_backend(opened)
            for name in names:
                await store.within(name).put(self.make_datum("a", 1))
            below = [names[0], *names[3:6]]
            for limit in (1, 2, 10):
                found = await key_pages(lambda at, n=limit: store.namespaces(home, limit=n, cursor=at))  # type: ignore[misc]
                assert found == below
            every = await key_pages(lambda at: store.namespaces(limit=3, cursor=at))
            assert every == sorted(set(every))
            assert set(names) <= set(every)
            with pytest.raises(InvalidCursor):
                await store.namespaces(cursor=(await store.namespaces(home, limit=1)).cursor)
