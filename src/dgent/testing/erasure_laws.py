"""The laws of erasing: nothing is left of what went, everything is left of what did not, and no seq comes twice."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.erasure_request import Erased
from dgent.exceptions import InvalidInput
from dgent.query import Query
from dgent.testing.contract_base import ContractBase, as_backend, examples, fresh
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.store import Backend

FUTURE = 4e9
"""A moment behind every test, for `as_of`: what is there now."""


class ErasureLaws(ContractBase):
    """What `erase` promises."""

    async def test_erase_is_told_what_is_to_go(self, place: Any) -> None:
        async with self.opened(place) as opened:
            store = as_backend(opened)
            await store.put(self.make_datum("a", 1))
            wrong: list[dict[str, Any]] = [{}, {"prefix": ""}, {"prefix": "a", "everything": True}, {"below": True}]
            wrong += [{"prefix": 1}, {"everything": 1}, {"everything": True, "below": "yes"}, {"prefix": "\0"}]
            for arguments in wrong:
                with pytest.raises(InvalidInput):
                    await store.erase(**arguments)
            assert await store.count() == 1
            assert await store.erase(prefix="nobody") == Erased()

    @pytest.mark.requires("history")
    @examples(12)
    @given(data=st.data())
    async def test_l_q4_erase_takes_what_begins_so_and_nothing_else(self, place: Any, data: st.DataObject) -> None:
        """Of what went no verb shows a trace; whatever else was there answers as before."""
        ids = data.draw(st.lists(self.ids(), min_size=1, max_size=4, unique=True))
        prefix = data.draw(st.sampled_from(sorted({id[:n] for id in ids for n in (1, 2)})))
        below = data.draw(st.booleans())
        home = f"{fresh()}/home"
        async with self.opened(place, home) as opened:
            first = as_backend(opened)
            stores = [first, first.within(f"{home}/x/y"), first.within(f"{home}0")]
            for store in stores:
                await self._fill(store, ids)
            gone = {id for id in ids if id.startswith(prefix)}
            concerned = stores[:2] if below else stores[:1]
            kept = {s.namespace: await _answers(s, {*ids} - (gone if s in concerned else set())) for s in stores}
            versions = [len(await store.history(id)) for store in concerned for id in gone]
            erased = await first.erase(prefix=prefix, below=below)
            assert erased == Erased(sum(versions), len(versions), len(concerned))
            for store in stores:
                assert await _answers(store, {*ids} - (gone if store in concerned else set())) == kept[store.namespace]
            for store in concerned:
                await _check_no_trace(store, gone)
            assert await first.erase(prefix=prefix, below=below) == Erased()

    async def _fill(self, store: Backend, ids: list[str]) -> None:
        """Give each id versions and causes; delete some."""
        for n, id in enumerate(ids):
            parent = ids[n - 1] if n and self.capabilities.causal else None
            await store.put_many([self.make_datum(id, version, parent) for version in range(n % 3 + 1)])
        await store.delete_many(ids[::3])

    @pytest.mark.requires("history")
    async def test_l_q4_erase_of_everything_leaves_no_name(self, place: Any) -> None:
        home = f"{fresh()}/home"
        names = [home, f"{home}/x", f"{home}/x/y", f"{home}x", f"{home}0"]
        async with self.opened(place, home) as opened:
            first = as_backend(opened)
            stores = [first.within(name) for name in names]
            for store in stores:
                await self._fill(store, ["a", "ab", "é"])
            erased = await first.erase(everything=True)
            assert erased == Erased(1 + 2 + 3 + 1, 3, 1)
            assert {*await first.namespaces(limit=10_000)} & {*names} == {*names[1:]}
            await _check_no_trace(first, {"a", "ab", "é"})
            assert (await first.stats()).versions == 0
            assert await stores[1].erase(everything=True, below=True) == Erased(14, 6, 2)
            assert {*await first.namespaces(limit=10_000)} & {*names} == {*names[3:]}
            assert await first.erase(everything=True, below=True) == Erased()
            assert [await store.count() for store in stores] == [0, 0, 0, 2, 2]

    @pytest.mark.requires("history")
    async def test_l_q4_no_seq_comes_twice_whatever_was_erased(self, place: Any) -> None:
        """A reader of `seq > s` hears of what is put under the same name later, however often that was erased."""
        namespace, seen = fresh(), 0
        async with self.opened(place, namespace) as opened:
            store = as_backend(opened)
            for n in range(1, 4):
                put = await store.put_many([self.make_datum(f"k{at}", n) for at in range(n)])
                assert [datum.seq for datum in put] == [*range(put[0].seq, put[0].seq + n)]
                assert put[0].seq > seen
                assert [datum.id for datum in await store.query(Query(order="seq", after_seq=seen))] == [
                    datum.id for datum in put
                ]
                seen = put[-1].seq
                await store.erase(everything=True)
            await store.within(fresh()).put(self.make_datum("a", 1))
        async with self.opened(place, namespace) as reopened:
            if self.capabilities.durable:
                assert (await reopened.put(self.make_datum("a", 1))).seq > seen

    @pytest.mark.requires("history", "ttl")
    async def test_l_q4_no_moment_of_expiry_outlives_an_erasure(self, place: Any) -> None:
        """Mutants: the sweep goes by when something expired that was erased; or by a touch of that."""
        clock = ManualClock()
        async with self.opened(place, clock=clock) as opened:
            store = as_backend(opened)
            await store.put_many([self.make_datum(id, 1) for id in ("a", "ab", "b")], ttl=10)
            assert await store.touch(["ab", "b"], 20) == 2
            assert await store.erase(prefix="a") == Erased(2, 2, 1)
            assert await store.touch(["a", "ab"], 5) == 0
            await store.put_many([self.make_datum(id, 1) for id in ("a", "ab")])
            clock.advance(30)
            assert [datum.id for datum in await store.query(Query(order="id", expired=True))] == ["a", "ab", "b"]
            assert await store.compact() == 1
            assert await store.keys() == ["a", "ab"]

    @pytest.mark.requires("history")
    async def test_l_q4_a_put_beside_an_erasure_is_whole_or_gone(self, place: Any) -> None:
        """What is answered behind the erasure is there, with all that finds it; no two have the same seq."""
        async with self.opened(place) as opened:
            store = as_backend(opened)
            await store.put_many([self.make_datum(f"old{n}", 1) for n in range(20)])

            async def write(n: int) -> list[int]:
                put = []
                for version in range(1, 7):
                    put.append((await store.put(self.make_datum(f"new{n}", version))).seq)
                    await asyncio.sleep(0)
                return put

            async def erase() -> list[int]:
                await asyncio.sleep(0)
                await store.erase(everything=True)
                return []

            seqs = [seq for some in await asyncio.gather(*map(write, range(4)), erase(), write(4)) for seq in some]
            assert len({*seqs}) == len(seqs)
            assert not [datum for datum in await store.list() if datum.id.startswith("old")]
            last = [await store.put(self.make_datum(f"last{n}", 1)) for n in range(2)]
            assert last[0].seq > max(seqs)
            found = {datum.id: datum for datum in await store.list()}
            assert last[1].id in found
            for datum in found.values():
                assert [one.datum for one in await store.history(datum.id)][-1] == datum
                tag = datum.metadata.get("tags", [None])[0]
                if tag is not None:
                    assert datum.id in {one.id for one in await store.query(Query(tags=frozenset([tag])))}
            by_seq = await store.query(Query(order="seq"))
            assert {datum.id for datum in by_seq} == {*found}


async def _answers(store: Backend, ids: Iterable[str]) -> list[Any]:
    """Return all that a store says of some ids."""
    wanted = sorted(ids)
    told: list[Any] = [await store.get_many(wanted), await store.head()]
    told += [await store.history(id) for id in wanted]
    told.append([change for change in await store.changes(0, limit=1000) if change.id in wanted])
    return [*told, [datum for datum in await store.list(limit=1000) if datum.id in wanted]]


async def _check_no_trace(store: Backend, ids: set[str]) -> None:
    """Assert that no verb shows any of these ids."""
    assert await store.get_many(ids) == {}
    assert await store.delete_many(ids) == 0
    for id in ids:
        assert await store.history(id) == []
        assert await store.get(id, version=1) is None
        assert await store.causal_chain(id) == await store.causal_chain(id, version=1) == []
        assert await store.count(prefix=id) == len(await store.list(id))
    wanted = [
        Query(),
        Query(order="seq"),
        Query(order="-id", as_of=FUTURE),
        Query(order="id", expired=True),
        Query(tags=frozenset({"é"})),
        *(Query(where={"metadata.n": n}) for n in range(4)),
    ]
    pages = [await store.query(query) for query in wanted] + [await store.as_of(FUTURE)]
    shown = {
        *await store.keys(),
        *(one.id for one in await store.changes(0)),
        *(one.id for page in pages for one in page),
    }
    assert not shown & ids
