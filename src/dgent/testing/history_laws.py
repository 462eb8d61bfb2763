"""The laws of history: the order of the commits, what changed, the past."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import InvalidCursor, InvalidInput, InvalidQuery, LimitExceeded
from dgent.limits import Limits
from dgent.query import Query
from dgent.testing.contract_base import ContractBase, all_changes, examples, fresh, pages
from dgent.testing.manual_clock import ManualClock
from dgent.testing.order_laws import orders_of
from dgent.testing.reading_laws import any_datum, any_query
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from dgent.change_page import ChangeRecord
    from dgent.store import DgentProtocol


class HistoryLaws(ContractBase):
    """Laws of the verbs that look at more than what is live now."""

    @pytest.mark.requires("history")
    async def test_seq_is_the_order_of_the_commits(self, place: Any) -> None:
        async with self.opened(place) as store:
            seqs = [(await store.put(self.make_datum(id, n))).seq for n, id in enumerate("abcab")]
            assert seqs == [1, 2, 3, 4, 5]
            await store.delete("c")
            await store.put(self.make_datum("d", 9))
            live = await store.list(order="seq")
            assert [(datum.id, datum.seq) for datum in live] == [("a", 4), ("b", 5), ("d", 7)]
            news = await store.query(Query(order="seq", after_seq=4))
            assert [datum.seq for datum in news] == [5, 7]
            await store.purge("d")
            assert (await store.put(self.make_datum("d", 9))).seq == 8

    @pytest.mark.requires("history")
    async def test_seq_at_is_the_last_write_at_or_before_a_time(self, place: Any) -> None:
        clock = ManualClock()
        start = clock.now
        async with self.opened(place, clock=clock) as store:
            assert await store.seq_at(start) == await store.head() == 0
            for n in range(9):
                await store.put(self.make_datum("abc"[n % 3], n))
                clock.advance(10)
            assert [await store.seq_at(start + ago) for ago in (-1, 0, 9, 10, 39, 40, 80, 1e9)] == [
                0,
                1,
                1,
                2,
                4,
                5,
                9,
                9,
            ]
            clock.advance(-1000)
            await store.put(self.make_datum("late", 1))  # as late as the one before: history never goes back
            assert [await store.seq_at(start + ago) for ago in (79, 80)] == [8, 10]
            await store.purge("late")
            assert (await store.seq_at(start + 80), await store.head()) == (9, 10)
            await store.purge("a")
            assert [await store.seq_at(start + ago) for ago in (0, 10, 35)] == [0, 2, 3]
            bad: Any
            for bad in (float("nan"), None, "now", True):
                with pytest.raises(InvalidInput):
                    await store.seq_at(bad)

    @pytest.mark.requires("history")
    async def test_changes_are_all_versions_in_the_order_of_the_commits(self, place: Any) -> None:
        async with self.opened(place) as store:
            one = await store.put(self.make_datum("b", 1))
            two = await store.put(self.make_datum("a", 1))
            await store.delete("b")
            three, gone = await store.put_many([self.make_datum("a", 2), self.make_datum("gone", 2)])
            again = await store.put(self.make_datum("b", 4))
            await store.purge("gone")
            found = await store.changes(0)
            told = [(each.id, each.version, each.seq, each.datum) for each in found]
            put = [("b", 1, 1, one), ("a", 1, 2, two), ("a", 2, 4, three), ("b", 3, 6, again)]
            assert told == [*put[:2], ("b", 2, 3, None), *put[2:]]
            assert (found.seq, found.more, found.damaged) == (6, False, ())
            assert gone.seq == 5
            assert [each.stored_at for each in found if each.id == "a"] == [
                each.stored_at for each in await store.history("a")
            ]
            assert [each.seq for each in await store.changes(1, until=4)] == [2, 3, 4]
            for limit in (1, 2, 5):
                assert await all_changes(lambda at, n=limit: store.changes(at, limit=n)) == found  # type: ignore[misc]
            for after_seq, named in ((6, {}), (4, {"until": 4}), (4, {"limit": 0})):
                asked: Any = named
                empty = await store.changes(after_seq, **asked)
                assert (list(empty), empty.seq) == ([], after_seq)

    @pytest.mark.requires("history")
    async def test_changes_take_what_a_seq_is(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put(self.make_datum("a", 1))
            assert len(await store.changes(-5)) == 1
            bad: Any
            for bad in (1.0, "1", None, 2**63, True):
                with pytest.raises(InvalidInput):
                    await store.changes(bad)
            for bad in (1.0, "1", True):
                with pytest.raises(InvalidInput):
                    await store.changes(0, until=bad)
            with pytest.raises(LimitExceeded):
                await store.changes(0, limit=Limits().max_page + 1)

    @pytest.mark.requires("history")
    async def test_order_a_reader_of_changes_misses_no_commit(self, place: Any) -> None:
        """Writers of several stores put beside a reader, who goes on where its last page ended."""
        namespace, writers, each = fresh(), 4, 12
        async with self.opened(place, namespace) as one:
            seen: list[ChangeRecord] = []

            async def write(store: DgentProtocol, name: int) -> None:
                for n in range(each):
                    await store.put(self.make_datum(f"{name}-{n % 5}", n))

            async def follow() -> None:
                while len(seen) < writers * each:
                    page = await one.changes(seen[-1].seq if seen else 0, limit=7)
                    seen.extend(page)
                    await asyncio.sleep(0)

            if self.capabilities.shared:
                async with self.opened(place, namespace) as two:
                    await asyncio.gather(follow(), *(write([one, two][n % 2], n) for n in range(writers)))
            else:
                await asyncio.gather(follow(), *(write(one, n) for n in range(writers)))
            assert [change.seq for change in seen] == list(range(1, writers * each + 1))

    @pytest.mark.requires("history")
    async def test_changes_name_what_is_damaged_and_give_the_rest(self, place: Any) -> None:
        namespace = fresh()
        async with self.opened(place, namespace) as store:
            await store.put_many([self.make_datum(id, 1) for id in "abcde"])
            self.damage(place, namespace, "c")
            for limit in (1, 2, 5):
                found, named, seq, more = list[str](), list[str](), 0, True
                while more:
                    with warnings.catch_warnings(record=True) as said:
                        warnings.simplefilter("always", DamagedWarning)
                        page = await store.changes(seq, limit=limit)
                    assert len(said) == bool(page.damaged)
                    found += [change.id for change in page]
                    named += [each.id for each in page.damaged]
                    seq, more = page.seq, page.more
                assert (found, named) == (list("abde"), ["c"])

    @pytest.mark.requires("history", "causal")
    async def test_a_chain_of_a_version_is_why_that_version_was_so(self, place: Any) -> None:
        async with self.opened(place) as store:
            chain = [self.make_datum("a", 1), self.make_datum("b", 1, "a"), self.make_datum("c", 1, "b")]
            a1, b1, c1 = await store.put_many(chain)
            await store.put(self.make_datum("a", 2))
            b2 = await store.put(self.make_datum("b", 2))
            await store.delete("a")
            c2 = await store.put(self.make_datum("c", 2, "b"))
            assert await store.causal_chain("c") == [b2, c2] == await store.causal_chain("c", version=2)
            assert await store.causal_chain("c", version=1) == [a1, b1, c1]
            assert await store.causal_chain("c", version=1, limit=2) == [b1, c1]
            assert await store.causal_chain("c", version=1, newest_first=True) == [c1, b1, a1]
            assert await store.causal_chain("b", version=2) == [b2]
            assert await store.causal_chain("a", version=3) == await store.causal_chain("a", version=4) == []
            again = await store.put(self.make_datum("a", 3, "c"))  # c does not descend from it any more, but did
            assert await store.causal_chain("a", version=4) == [b2, c2, again]
            await store.put(self.make_datum("late", 1, "later"))
            late = (await store.put_many([self.make_datum("late", 2, "later"), self.make_datum("later", 1)]))[0]
            assert await store.causal_chain("late", version=2) == [late]  # its parent came after it
            with pytest.raises(InvalidQuery):
                await store.causal_chain("c", version=1, as_of=1.0)

    @pytest.mark.requires("history", "causal", "ttl")
    async def test_a_chain_of_a_time_is_what_was_live_then(self, place: Any) -> None:
        clock = ManualClock()
        start = clock.now
        async with self.opened(place, clock=clock) as store:
            a1, b1 = await store.put_many([self.make_datum("a", 1), self.make_datum("b", 1, "a")])
            clock.advance(10)
            a2 = await store.put(self.make_datum("a", 2), ttl=5)
            clock.advance(10)
            b2 = await store.put(self.make_datum("b", 2, "a"))
            clock.advance(10)
            await store.delete("b")
            then = {ago: await store.causal_chain("b", as_of=start + ago) for ago in (-1, 0, 9, 10, 15, 20, 30)}
            assert then == {-1: [], 0: [a1, b1], 9: [a1, b1], 10: [a2, b1], 15: [b1], 20: [b2], 30: []}
            assert await store.causal_chain("b", as_of=start, limit=1) == [b1]
            assert await store.causal_chain("b", version=2) == [b2]  # its parent had expired
            assert await store.causal_chain("b", version=1) == [a1, b1]
            bad: Any
            for bad in (float("nan"), "now", True):
                with pytest.raises(InvalidInput):
                    await store.causal_chain("b", as_of=bad)

    @pytest.mark.requires("history")
    async def test_as_of_sees_the_past(self, place: Any) -> None:
        clock = ManualClock()
        start = clock.now
        async with self.opened(place, clock=clock) as store:
            one, two, other = self.make_datum("a", 1), self.make_datum("a", 2), self.make_datum("b", 1)
            await store.put(one)
            clock.advance(10)
            await store.put_many([two, other])
            clock.advance(10)
            await store.delete("a")
            seen = {ago: list(await store.as_of(start + ago)) for ago in (-1, 0, 9, 10, 19, 20)}
            assert seen == {-1: [], 0: [one], 9: [one], 10: [two, other], 19: [two, other], 20: [other]}
            page = await store.as_of(start + 10, limit=1)
            assert page.cursor is not None
            assert await store.as_of(start + 10, limit=1, cursor=page.cursor) == [other]
            with pytest.raises(InvalidCursor):
                await store.as_of(start + 11, limit=1, cursor=page.cursor)
            assert await store.as_of(start + 10, prefix="b") == [other]
            with pytest.raises(InvalidInput):
                await store.as_of(float("nan"))

    @examples(4)
    @given(data=st.data())
    @pytest.mark.requires("history", "schema_free")
    async def test_l_c3_a_query_of_the_past_answers_as_its_matches(self, place: Any, data: st.DataObject) -> None:
        """At any moment, with any filters, in any order: as `matches` over what was live then, or had expired."""
        clock, then = ManualClock(), list[Any]()
        ids = [f"i{n}" for n in range(5)]
        async with self.opened(place, clock=clock) as store:
            then.append((clock.now - 1, [], []))
            for _ in range(data.draw(st.integers(1, 4))):
                for id in data.draw(st.lists(st.sampled_from(ids), max_size=5, unique=True)):
                    if data.draw(st.booleans()):
                        await store.put(data.draw(any_datum(id)), ttl=data.draw(st.sampled_from([None, 1.0, 1e6])))
                    else:
                        await store.delete(id)
                live = await store.get_many(ids)
                then.append((clock.now, [*live.values()], await store.query(Query(expired=True))))
                clock.advance(10)
            for moment, live, held in then:
                named, order = data.draw(any_query()), data.draw(st.sampled_from(orders_of(self)))
                asked: Any = {**named, "order": order, "as_of": moment + data.draw(st.sampled_from([0.0, 0.5]))}
                plain = Query(**asked)
                wanted = sorted(
                    filter(plain.matches, held if plain.expired else live), key=plain.position, reverse=plain.descending
                )
                limit = data.draw(st.integers(1, 4))
                found = await pages(lambda at, a=asked, n=limit: store.query(Query(**a, limit=n, cursor=at)))  # type: ignore[misc]
                assert found == wanted == await store.query(plain), plain

    @pytest.mark.requires("history")
    async def test_a_query_of_the_past_takes_what_a_time_is(self, place: Any) -> None:
        async with self.opened(place) as store:
            stored = await store.put(self.make_datum("a", 1))
            later = datetime.now(UTC) + timedelta(days=9)
            assert (
                await store.query(Query(as_of=later)) == [stored] == await store.query(Query(as_of=later.timestamp()))
            )
            assert (
                await store.query(Query(as_of=later, limit=0)) == await store.query(Query(as_of=later, offset=1)) == []
            )
            assert await store.query(Query(as_of=0.0)) == []

    @pytest.mark.requires("history", "ttl")
    async def test_as_of_knows_what_had_expired(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            datum, start = await store.put(self.make_datum("a", 1), ttl=10), clock.now
            clock.advance(100)
            assert await store.as_of(start + 9) == [datum]
            assert await store.as_of(start + 10) == []
            again = await store.put(self.make_datum("a", 1))
            assert await store.as_of(start + 99) == []
            assert await store.as_of(clock.now) == [again]

    @pytest.mark.requires("history")
    async def test_history_has_pages(self, place: Any) -> None:
        async with self.opened(place, fresh()) as store:
            for n in range(6):
                await store.put(self.make_datum("a", n))
            assert [entry.version for entry in await store.history("a", limit=2)] == [5, 6]
            assert [entry.version for entry in await store.history("a", limit=2, before=5)] == [3, 4]
            assert await store.history("a", limit=0) == await store.history("a", before=1) == []
            with pytest.raises(InvalidInput):
                await store.history("a", limit=-1)
            with pytest.raises(LimitExceeded):
                await store.history("a", limit=Limits().max_page + 1)
