"""The laws of time: clocks that are set forwards and backwards, and one answer to what is live."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import CausalCycle, VersionConflict
from dgent.limits import Limits
from dgent.store import Backend, DgentProtocol
from dgent.testing.contract_base import ContractBase, examples
from dgent.testing.manual_clock import ManualClock
from dgent.testing.verb_machine import JUMPS

if TYPE_CHECKING:
    from dgent.datum import Datum

NOBODY: Final = 10**6
"""A version that is never live: whoever expects it is told which one is, and changes nothing."""
TEN_DAYS: Final = 10 * 86_400.0


def steps() -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Draw what happens to one id of three, and to the clock."""
    ttl = st.sampled_from([None, 1.0, 3.0, "keep"])
    some = [st.tuples(st.just("tick"), st.sampled_from([0.5, 1.0, 3.0, *JUMPS])) for _ in range(2)]
    some += [st.tuples(st.just("put"), ttl), st.tuples(st.sampled_from(["lease", "delete"]), st.none())]
    return st.lists(st.one_of(some), min_size=4, max_size=16)


class ClockLaws(ContractBase):
    """What a time to live promises where clocks jump."""

    @pytest.mark.requires("ttl", "versioned")
    @examples(2)
    @given(planned=steps())
    async def test_l_t1_all_verbs_agree_on_what_is_live(self, place: Any, planned: list[tuple[str, Any]]) -> None:
        """Mutants: by the time of the last write where the clock is behind it, in any one verb."""
        clock, ids = ManualClock(), ["a", "b", "c"]
        async with self.opened(place, clock=clock) as store:
            for n, (verb, value) in enumerate(planned):
                await self._happens(store, clock, self.make_datum(ids[n % 3], n), verb, value)
                live = await self._live(store, ids)
                for id in ids:
                    assert await self._told(store.put(self.make_datum(id, 0), expect=NOBODY)) == live.get(id, 0)
                    assert await self._told(store.delete(id, expect=NOBODY)) == live.get(id, 0)
            await self._swept(store, ids)
            live = await self._live(store, ids)
            assert {id for id in ids if await store.delete(id)} == live.keys()

    async def _happens(self, store: DgentProtocol, clock: ManualClock, datum: Datum, verb: str, value: Any) -> None:
        live = await store.get(datum.id)
        if verb == "tick":
            clock.advance(value)
        elif verb == "put":
            await store.put(datum, ttl=value)
        elif verb == "delete":
            assert await store.delete(datum.id) is (live is not None)
        elif live is None:
            assert (await store.put(datum, expect=0, ttl=3.0)).id == datum.id
        else:
            with pytest.raises(VersionConflict):
                await store.put(datum, expect=0, ttl=3.0)

    async def _live(self, store: DgentProtocol, ids: list[str]) -> dict[str, int]:
        """Return the versions that are live, by id, as all that read say alike."""
        live = {datum.id: datum.version for datum in await store.list()}
        assert {datum.id: datum.version for datum in (await store.get_many(ids)).values()} == live
        assert await store.count() == await store.count(prefix="") == len(live)
        for id in ids:
            found = await store.get(id)
            assert (found.version if found else 0) == live.get(id, 0)
            assert await store.exists(id) is (id in live)
            assert await store.count(prefix=id) == int(id in live)
            if self.capabilities.causal:
                assert [datum.id for datum in await store.causal_chain(id)] == [id] * (id in live)
        return live

    async def _told(self, write: Any) -> int:
        """Return which version is live, as a write says that expected another."""
        with pytest.raises(VersionConflict) as caught:
            await write
        return caught.value.actual

    async def _swept(self, store: DgentProtocol, ids: list[str]) -> None:
        """The sweeper takes what has expired and nothing else."""
        if not isinstance(store, Backend) or not self.capabilities.history:
            return
        live, kept = await self._live(store, ids), {id: await store.history(id) for id in ids}
        await store.compact()
        for id, history in kept.items():
            stays = id in live or bool(history and history[-1].datum is None)
            assert await store.history(id) == (history if stays else [])

    @pytest.mark.requires("ttl", "versioned")
    async def test_l_t1_one_put_by_a_wrong_clock_makes_no_verb_wrong(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            clock.advance(TEN_DAYS)
            await store.put(self.make_datum("other", 1))
            clock.advance(-TEN_DAYS)
            put = await store.put(self.make_datum("a", 1), ttl=1)
            assert await store.get("a") == put
            with pytest.raises(VersionConflict):
                await store.put(self.make_datum("a", 2), expect=0)
            assert (await store.put(self.make_datum("a", 2), expect=put.version, ttl=1)).version > put.version
            clock.advance(1)
            assert await store.get("a") is None
            assert not await store.delete("a")
            assert await store.put(self.make_datum("a", 3), expect=0, ttl=1)
            assert await store.delete("a")

    @pytest.mark.requires("ttl")
    async def test_l_t1_a_clock_that_goes_back_brings_back_what_is_not_swept(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            put = [await store.put(self.make_datum(id, 1), ttl=3) for id in "abc"]
            clock.advance(TEN_DAYS)
            assert await store.count() == 0
            await store.put(self.make_datum("b", 2))
            await store.purge("c")
            clock.advance(-TEN_DAYS)
            assert await store.get("a") == put[0]
            assert {datum.id for datum in await store.list()} == {"a", "b"}
            clock.advance(3)
            assert {datum.id for datum in await store.list()} == {"b"}

    @pytest.mark.requires("history", "ttl")
    async def test_l_t1_what_is_refused_or_changes_nothing_moves_nothing(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            put = await store.put(self.make_datum("a", 1))
            clock.advance(TEN_DAYS)
            assert await store.put(self.make_datum("a", 1)) == put
            with pytest.raises(VersionConflict):
                await store.put(self.make_datum("a", 2), expect=0)
            if self.capabilities.causal:
                with pytest.raises(CausalCycle):
                    await store.put(self.make_datum("a", 2, "a"))
            assert not await store.delete("nobody")
            assert await store.purge("nobody") == 0
            if isinstance(store, Backend):
                assert await store.compact(keep_versions=1) == 0
            clock.advance(-TEN_DAYS)
            second = await store.put(self.make_datum("a", 3))
            assert second.seq == put.seq + 1
            assert [entry.stored_at for entry in await store.history("a")] == [clock.now] * 2

    @pytest.mark.requires("history")
    async def test_l_t1_history_never_goes_back(self, place: Any) -> None:
        """What was stored while the clock was behind the last write has that write's time."""
        clock = ManualClock()
        start = clock.now
        async with self.opened(place, clock=clock) as store:
            for n, moment in enumerate((0.0, 100.0, 50.0, 99.0, 101.0)):
                clock.now = start + moment
                await store.put(self.make_datum("a", n))
            kept = [entry.stored_at - start for entry in await store.history("a")]
            assert kept == [0.0, 100.0, 100.0, 100.0, 101.0]
            assert await store.as_of(start + 99.0) == [self.expected(self.make_datum("a", 0))]
            assert await store.as_of(start + 100.0) == [self.expected(self.make_datum("a", 3))]

    @pytest.mark.requires("causal", "ttl")
    async def test_l_t1_a_cycle_that_a_clock_brings_to_life_ends(self, place: Any) -> None:
        """Who is absent closes no cycle; when the clock goes back there is one, in which nobody walks twice."""
        clock = ManualClock()
        async with self.opened(place, clock=clock, limits=Limits(max_chain=100)) as store:
            await store.put_many([self.make_datum("a", 1, "b")], ttl=3)
            clock.advance(TEN_DAYS)
            await store.put(self.make_datum("b", 1, "a"))
            clock.advance(-TEN_DAYS)
            assert [datum.id for datum in await store.causal_chain("a")] == ["b", "a"]
            await store.put(self.make_datum("c", 1))
            await store.put(self.make_datum("d", 1, "c"))
            assert (await store.put(self.make_datum("c", 2, "a"))).causal_parent == "a"
            assert [datum.id for datum in await store.causal_chain("d")] == ["b", "a", "c", "d"]
            for limit in (2, 4, 9):
                assert [datum.id for datum in await store.causal_chain("d", limit=limit)] == [*"bacd"][-limit:]
