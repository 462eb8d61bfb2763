"""The laws of batches: many writes are one, in order, all or none."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dgent.exceptions import CausalCycle, InvalidInput, VersionConflict
from dgent.limits import Limits
from dgent.operations import Delete, Put
from dgent.testing.contract_base import ContractBase


class BatchLaws(ContractBase):
    """What put_many, delete_many and apply promise."""

    @pytest.mark.requires("versioned", "causal")
    async def test_batches_are_all_or_none(self, place: Any) -> None:
        async with self.opened(place, limits=Limits(max_content=1000)) as store:
            before = await store.put(self.make_datum("a", 1))
            bad = self.make_datum("x", 1, "x")
            with pytest.raises(CausalCycle):
                await store.put_many([self.make_datum("a", 2), self.make_datum("b", 1), bad])
            assert await store.get("a") == before
            assert await store.count() == 1
            assert await store.put_many([]) == []
            put = await store.put_many([self.make_datum(id, n) for n, id in enumerate("bcd")])
            assert [datum.id for datum in put] == ["b", "c", "d"]
            with pytest.raises(InvalidInput):
                await store.delete_many(["a", "b", "\0"])
            assert await store.count() == 4
            assert await store.delete_many(["a", "b", "nobody"]) == 2
            assert await store.count() == 2

    async def test_batches_put_and_delete_in_order(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([self.make_datum("a", 1), self.make_datum("b", 1)])
            new, again = self.make_datum("c", 1), self.make_datum("a", 2)
            outcomes = await store.apply([Put(new), Delete("a"), Delete("b"), Put(again), Delete("nobody"), Put(new)])
            assert [outcome.changed for outcome in outcomes] == [True, True, True, True, False, False]
            shown = [outcome.datum for outcome in outcomes]
            assert shown == [self.expected(new), None, None, self.expected(again), None, self.expected(new)]
            assert await store.get_many(["a", "b", "c"]) == {"a": self.expected(again), "c": self.expected(new)}
            assert await store.apply([]) == []
            with pytest.raises(InvalidInput):
                await store.apply([Put(self.make_datum("d", 1)), "b"])  # type: ignore[list-item]
            with pytest.raises(InvalidInput):
                await store.apply([Put(self.make_datum("d", 1)), Delete("\0")])
            assert not await store.exists("d")

    @pytest.mark.requires("versioned")
    async def test_batches_expect_each_for_itself_and_fail_together(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put(self.make_datum("a", 1))
            twice = self.make_datum("a", 2), self.make_datum("a", 3)
            with pytest.raises(VersionConflict) as caught:
                await store.apply([Put(self.make_datum("b", 1), 0), Put(twice[0], put.version), Put(twice[1], 7)])
            assert (caught.value.id, caught.value.expected, caught.value.actual) == ("a", 7, put.version + 1)
            assert await store.get_many(["a", "b"]) == {"a": put}
            with pytest.raises(VersionConflict):
                await store.apply([Put(self.make_datum("b", 1), 0), Delete("a", put.version + 1)])
            assert await store.get_many(["a", "b"]) == {"a": put}
            await store.apply(
                [Put(twice[0], put.version), Put(twice[1], put.version + 1), Put(self.make_datum("b", 1), 0)]
            )
            await store.apply([Delete("a", put.version + 2), Delete("b", 1)])
            assert await store.count() == 0

    @pytest.mark.requires("versioned")
    async def test_batches_of_new_ids_only(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put_many([self.make_datum(id, 1) for id in "ab"], expect=0)
            with pytest.raises(VersionConflict) as caught:
                await store.put_many([self.make_datum(id, 2) for id in "cb"], expect=0)
            assert (caught.value.id, caught.value.actual) == ("b", put[1].version)
            assert await store.get_many(["a", "b", "c"]) == {"a": put[0], "b": put[1]}
            await store.delete("b")
            await store.put_many([self.make_datum(id, 2) for id in "cb"], expect=0)
            with pytest.raises(InvalidInput):
                await store.put_many([], expect=-1)

    @pytest.mark.requires("causal")
    async def test_batches_that_fail_leave_nothing_in_those_written_beside_them(self, place: Any) -> None:
        async with self.opened(place) as store:
            good = [[self.make_datum(f"g{n}", 1), self.make_datum(f"h{n}", 1, f"g{n}")] for n in range(10)]
            bad = [
                [
                    self.make_datum(f"g{n}", 2),
                    self.make_datum(f"x{n}", 1, f"h{n}"),
                    self.make_datum(f"g{n}", 3, f"x{n}"),
                ]
                for n in range(10)
            ]
            batches = [batch for pair in zip(good, bad, strict=True) for batch in pair]
            results = await asyncio.gather(*map(store.put_many, batches), return_exceptions=True)
            assert [type(result) for result in results] == [list, CausalCycle] * 10
            wanted = {datum.id: self.expected(datum) for batch in good for datum in batch}
            assert {datum.id: datum for datum in await store.list()} == wanted
            if self.capabilities.history:
                assert sorted(datum.seq for datum in await store.list()) == list(range(1, 21))

    @pytest.mark.requires("history")
    async def test_batches_keep_an_id_that_comes_twice(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put_many([self.make_datum("a", 1), self.make_datum("a", 2), self.make_datum("a", 2)])
            assert [datum.version for datum in put] == [1, 2, 2]
            assert [entry.datum for entry in await store.history("a")] == put[:2]
