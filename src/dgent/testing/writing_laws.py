"""The laws of writing: append, compare and swap, causality, batches, expiry, limits, cancellation."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import CausalCycle, InvalidInput, LimitExceeded, VersionConflict
from dgent.limits import Limits
from dgent.testing.contract_base import ContractBase, as_backend, examples, fresh
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from dgent.store import DgentProtocol

CALLERS = 16
BATCH = 5_000


class WritingLaws(ContractBase):
    """What put, delete and purge promise."""

    async def test_l_d11_a_put_of_an_equal_datum_changes_nothing(self, place: Any) -> None:
        async with self.opened(place) as store:
            datum = self.make_datum("a", 1)
            first = await store.put(datum)
            again = await store.put(datum)
            assert first == again == self.expected(datum)
            assert (first.version, first.seq) == (again.version, again.seq)

    @pytest.mark.requires("history")
    async def test_append_a_different_datum_becomes_the_next_version(self, place: Any) -> None:
        async with self.opened(place) as store:
            one, two = self.make_datum("a", 1), self.make_datum("a", 2)
            assert (await store.put(one)).version == 1
            assert (await store.put(two)).version == 2
            assert await store.delete("a")
            assert not await store.delete("a")
            assert (await store.put(one)).version == 4
            kept = [(entry.version, entry.datum) for entry in await store.history("a")]
            assert kept == [(1, one), (2, two), (3, None), (4, one)]
            assert await store.get("a", version=2) == two
            assert await store.get("a", version=3) is None

    @pytest.mark.requires("history")
    async def test_append_only_purge_erases_and_it_erases_all(self, place: Any) -> None:
        async with self.opened(place) as store:
            last = [await store.put(self.make_datum("a", n)) for n in range(3)][-1]
            await store.put(self.make_datum("b", 0))
            assert await store.purge("a") == 3
            assert await store.purge("a") == 0
            assert await store.history("a") == []
            assert not await store.exists("a")
            assert await store.count() == 1
            again = await store.put(self.make_datum("a", 0))
            assert again.version == 1
            assert again.seq == last.seq + 2

    @pytest.mark.requires("versioned")
    async def test_l_d11_compare_and_swap_succeeds_for_exactly_one(self, place: Any) -> None:
        async with self.opened(place) as store:
            for expected in await self._rounds(store):
                puts = [store.put(self.make_datum("a", 100 * expected + n), expect=expected) for n in range(CALLERS)]
                results = await asyncio.gather(*puts, return_exceptions=True)
                won = [result for result in results if not isinstance(result, BaseException)]
                assert len(won) == 1
                assert all(isinstance(r, VersionConflict) for r in results if isinstance(r, BaseException)), results
                assert await store.get("a") == won[0]

    async def _rounds(self, store: DgentProtocol) -> list[int]:
        with pytest.raises(VersionConflict) as caught:
            await store.put(self.make_datum("a", 1), expect=1)
        assert (caught.value.expected, caught.value.actual) == (1, 0)
        return [0, 1, 2, 3]

    @pytest.mark.requires("versioned", "shared")
    async def test_l_d11_compare_and_swap_succeeds_for_exactly_one_of_two_stores(self, place: Any) -> None:
        namespace = fresh()
        async with self.opened(place, namespace) as one, self.opened(place, namespace) as two:
            for expected in range(3):
                puts = [
                    store.put(self.make_datum("a", 100 * expected + 10 * k + n), expect=expected)
                    for k, store in enumerate((one, two))
                    for n in range(4)
                ]
                results = await asyncio.gather(*puts, return_exceptions=True)
                won = [result for result in results if not isinstance(result, BaseException)]
                assert len(won) == 1, results
                assert await one.get("a") == await two.get("a") == won[0]

    @pytest.mark.requires("versioned")
    async def test_l_d11_a_delete_expects_too(self, place: Any) -> None:
        async with self.opened(place) as store:
            assert not await store.delete("a", expect=0)
            version = (await store.put(self.make_datum("a", 1))).version
            with pytest.raises(VersionConflict):
                await store.delete("a", expect=version + 1)
            with pytest.raises(VersionConflict):
                await store.delete("a", expect=0)
            assert await store.delete("a", expect=version)
            assert not await store.exists("a")

    async def test_concurrent_puts_are_all_kept(self, place: Any) -> None:
        async with self.opened(place) as store:
            datums = [self.make_datum(f"k{n:03}", n) for n in range(200)]
            put = await asyncio.gather(*map(store.put, datums))
            assert put == [self.expected(datum) for datum in datums]
            assert await store.count() == 200
            assert await store.get_many([datum.id for datum in datums]) == {datum.id: datum for datum in put}

    @pytest.mark.requires("causal")
    async def test_l_d8_a_put_that_closes_a_cycle_is_refused(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum("a", 1), self.make_datum("b", 1, "a"), self.make_datum("c", 1, "b")])
            for id, parent in (("a", "a"), ("a", "b"), ("a", "c"), ("b", "c")):
                with pytest.raises(CausalCycle):
                    await store.put(self.make_datum(id, 2, parent))
            with pytest.raises(CausalCycle):
                await store.put_many([self.make_datum("d", 1, "c"), self.make_datum("a", 2, "d")])
            assert not await store.exists("d")
            assert await store.get("a") == self.expected(self.make_datum("a", 1))
            await store.put(self.make_datum("b", 2))
            assert (await store.put(self.make_datum("a", 2, "c"))).causal_parent == "c"

    @pytest.mark.requires("causal")
    async def test_l_d10_deleting_a_parent_changes_no_child(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put(self.make_datum("parent", 1))
            children = await store.put_many([self.make_datum(f"c{n}", n, "parent") for n in range(5)])
            await store.delete("parent")
            kept = await store.get_many([child.id for child in children])
            assert list(kept.values()) == children
            assert [(k.version, k.seq) for k in kept.values()] == [(c.version, c.seq) for c in children]
            assert await store.causal_chain("c1") == [children[1]]

    @pytest.mark.requires("ttl")
    async def test_ttl_what_has_expired_is_absent(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            child, datum = self.make_datum("child", 1, "a"), self.make_datum("a", 1)
            await store.put(datum, ttl=10)
            await store.put(child)
            clock.advance(9.5)
            assert await store.get("a") == datum
            clock.advance(0.5)
            assert await store.get("a") is None
            assert await store.get_many(["a", "child"]) == {"child": child}
            assert not await store.exists("a")
            assert await store.count() == await store.count(prefix="") == 1
            assert await store.list() == [child] == await store.causal_chain("child")
            assert not await store.delete("a")
            assert (await store.put(datum, expect=0)).version == 2
            clock.advance(1000)
            assert await store.get("a") == datum

    @pytest.mark.requires("ttl")
    async def test_ttl_is_that_of_the_last_put(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            for id in ("longer", "stays", "changed"):
                await store.put(self.make_datum(id, 1), ttl=10)
            assert (await store.put(self.make_datum("longer", 1), ttl=100)).version == 2
            assert (await store.put(self.make_datum("stays", 1))).version == 2
            await store.put(self.make_datum("changed", 2))
            clock.advance(50)
            assert {datum.id for datum in await store.list()} == {"longer", "stays", "changed"}
            clock.advance(50)
            assert {datum.id for datum in await store.list()} == {"stays", "changed"}
            assert await store.count() == 2

    @pytest.mark.requires("ttl")
    async def test_ttl_keep_moves_no_moment_of_expiry(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            await store.put_many([self.make_datum(id, 1) for id in "ab"], ttl=10)
            await store.put(self.make_datum("stays", 1))
            clock.advance(4)
            assert (await store.put(self.make_datum("a", 1), ttl="keep")).version == 1  # equal: nothing changes
            assert (await store.put(self.make_datum("a", 2), ttl="keep")).version == 2
            put = await store.put_many(
                [self.make_datum(id, n) for n in (2, 3) for id in ("b", "new", "stays")], ttl="keep"
            )
            assert [datum.version for datum in put] == [2, 1, 2, 3, 2, 3]
            clock.advance(5.5)
            assert await store.get_many(["a", "b"]) == {"a": self.make_datum("a", 2), "b": self.make_datum("b", 3)}
            clock.advance(0.5)
            assert await store.get_many(["a", "b"]) == {}
            clock.advance(1000)
            assert {datum.id for datum in await store.list()} == {"new", "stays"}

    @pytest.mark.requires("ttl")
    async def test_ttl_keep_of_what_is_not_live_stays(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            for id in ("expired", "deleted", "purged"):
                await store.put(self.make_datum(id, 1), ttl=10)
            await store.delete("deleted")
            await store.purge("purged")
            clock.advance(10)
            for id in ("absent", "expired", "deleted", "purged"):
                assert await store.put(self.make_datum(id, 1), ttl="keep") == self.expected(self.make_datum(id, 1))
            clock.advance(1000)
            assert await store.count() == 4

    @pytest.mark.requires("ttl", "versioned")
    async def test_ttl_keep_goes_with_compare_and_swap(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            await store.put(self.make_datum("a", 1), expect=0, ttl=10)
            with pytest.raises(VersionConflict):
                await store.put(self.make_datum("a", 2), expect=0, ttl="keep")
            await store.put(self.make_datum("a", 2), expect=1, ttl="keep")
            clock.advance(10)
            assert not await store.exists("a")

    async def test_ttl_keep_is_taken_where_nothing_expires(self, place: Any) -> None:
        async with self.opened(place) as store:
            for n in (1, 1, 2):
                wanted = self.expected(self.make_datum("a", n))
                assert await store.put(self.make_datum("a", n), ttl="keep") == wanted
                assert await store.put_many([self.make_datum("a", n)], ttl="keep") == [wanted]
                assert await store.get("a") == wanted

    @pytest.mark.requires("ttl")
    async def test_ttl_ends_with_a_purge(self, place: Any) -> None:
        """What is put under a purged id has its versions from 1 on again, and nothing of the old one's time."""
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            await store.put(self.make_datum("a", 1), ttl=10)
            await store.purge("a")
            assert (await store.put(self.make_datum("a", 1))).version == 1
            clock.advance(20)
            assert await store.exists("a")
            assert {datum.id for datum in await store.list()} == {"a"}

    @pytest.mark.requires("ttl")
    @pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, "1", "kept", True])
    async def test_ttl_is_a_positive_number_of_seconds(self, place: Any, ttl: Any) -> None:
        async with self.opened(place) as store:
            with pytest.raises(InvalidInput):
                await store.put(self.make_datum("a", 1), ttl=ttl)
            assert await store.count() == 0

    @pytest.mark.requires("history", "ttl")
    async def test_compact_keeps_the_live_and_what_it_is_told_to(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as opened:
            store = as_backend(opened)
            for n in range(5):
                await store.put(self.make_datum("a", n))
                clock.advance(10)
            await store.put(self.make_datum("b", 1), ttl=1)
            await store.put(self.make_datum("c", 1))
            await store.delete("c")
            clock.advance(1)
            assert await store.compact() == 1
            assert await store.compact() == 0
            assert await store.compact(older_than=clock.now - 41) == 1
            assert [entry.version for entry in await store.history("a")] == [2, 3, 4, 5]
            assert await store.compact(keep_versions=2) == 2
            assert [entry.version for entry in await store.history("a")] == [4, 5]
            assert await store.get("a") == self.expected(self.make_datum("a", 4))
            assert await store.compact(keep_versions=1) == 2
            assert (await store.stats()).live == await store.count() == 1
            assert (await store.put(self.make_datum("c", 2))).version == 3

    async def test_limits_refuse_what_is_too_large(self, place: Any) -> None:
        small = Limits(max_content=1, max_metadata=2, max_page=3, max_chain=2)
        async with self.opened(place, limits=small) as store:
            for n in (1, 2):
                with pytest.raises(LimitExceeded):
                    await store.put(self.make_datum("a", n))
                with pytest.raises(LimitExceeded):
                    await store.put_many([self.make_datum("a", n)])
            with pytest.raises(LimitExceeded):
                await store.list(limit=4)
            assert await store.list(limit=3) == []
            assert await store.count() == 0

    @pytest.mark.requires("versioned")
    @pytest.mark.parametrize("expect", [-1, "1", 1.0, True])
    async def test_expect_is_a_version(self, place: Any, expect: Any) -> None:
        async with self.opened(place) as store:
            with pytest.raises(InvalidInput):
                await store.put(self.make_datum("a", 1), expect=expect)
            assert not await store.exists("a")

    async def test_what_is_no_datum_is_refused(self, place: Any) -> None:
        async with self.opened(place) as store:
            bad: Any = {"id": "a"}
            with pytest.raises(InvalidInput):
                await store.put(bad)
            with pytest.raises(InvalidInput):
                await store.put_many([self.make_datum("a", 1), bad])
            assert not await store.exists("a")

    @examples(5)
    @given(patience=st.integers(0, 40), batch=st.booleans())
    async def test_a_cancelled_put_is_in_or_not(self, place: Any, patience: int, batch: bool) -> None:
        namespace, ids = fresh(), ["a", "b", "c"] if batch else ["a"]
        before, after = ([self.expected(self.make_datum(id, n)) for id in ids] for n in (1, 2))
        async with self.opened(place, namespace) as store:
            await store.put_many([self.make_datum(id, 1) for id in ids])
            wanted = [self.make_datum(id, 2) for id in ids]
            task = asyncio.create_task(store.put_many(wanted) if batch else store.put(wanted[0]))
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.put(self.make_datum("z", 1))
            found = list((await store.get_many(ids)).values())
            assert found in (before, after)
            if self.capabilities.durable:
                async with self.opened(place, namespace) as again:
                    assert list((await again.get_many(ids)).values()) == found
                    assert await again.exists("z")
