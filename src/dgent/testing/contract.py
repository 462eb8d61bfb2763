"""`DgentContract`: every law of `DgentProtocol`, to be inherited by the tests of a backend."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import InvalidNamespace, StoreClosed
from dgent.store import Backend, DgentProtocol
from dgent.testing.batch_laws import BatchLaws
from dgent.testing.clock_laws import ClockLaws
from dgent.testing.condition_laws import ConditionLaws
from dgent.testing.contract_base import HOSTILE, as_backend, examples, fresh
from dgent.testing.erasure_laws import ErasureLaws
from dgent.testing.history_laws import HistoryLaws
from dgent.testing.id_laws import IdLaws
from dgent.testing.operation_laws import OperationLaws
from dgent.testing.order_laws import OrderLaws
from dgent.testing.reading_laws import ReadingLaws
from dgent.testing.value_laws import ValueLaws
from dgent.testing.verb_machine import VerbMachine, steps
from dgent.testing.writing_laws import WritingLaws
from dgent.validation import check_namespace


class DgentContract(
    WritingLaws,
    BatchLaws,
    OperationLaws,
    ErasureLaws,
    IdLaws,
    ReadingLaws,
    ConditionLaws,
    OrderLaws,
    HistoryLaws,
    ClockLaws,
    ValueLaws,
):
    """Inherit it, name what the store can do, and say how to open it:

    ```python
    class TestMine(DgentContract):
        capabilities = MyBackend.capabilities

        async def open(self, place, namespace, *, clock=time.time, limits=Limits()):
            return MyBackend(place / "file", namespace, clock=clock, limits=limits)
    ```

    Every law is one test, named after it. A law that needs what the store says it lacks is skipped and says why. The
    number of examples is that of hypothesis' profile. With `--strict-markers`, register the marker `requires`.
    """  # noqa: D415  # the sentence goes on in the code

    @examples()
    @given(data=st.data())
    async def test_l_d3_answers_as_the_model(self, place: Any, data: st.DataObject) -> None:
        await VerbMachine(self, place).run(data.draw(steps(self)))

    async def test_capabilities_are_what_was_said(self, place: Any) -> None:
        async with self.opened(place) as store:
            assert isinstance(store, DgentProtocol)
            assert store.capabilities == self.capabilities
            assert store.name

    @pytest.mark.requires("durable", "causal")
    async def test_durability_a_reopened_store_answers_the_same(self, place: Any) -> None:
        namespace = fresh()
        async with self.opened(place, namespace) as store:
            put = await store.put_many([self.make_datum(f"k{n}", n, "k0" if n else None) for n in range(7)])
            await store.delete("k3")
            listed = await store.list()
        async with self.opened(place, namespace) as store:
            assert await store.list() == listed
            assert [datum.seq for datum in await store.list()] == [datum.seq for datum in listed]
            assert await store.causal_chain("k5") == [put[0], put[5]]
            assert await store.put(self.make_datum("k5", 5, "k0")) == put[5]

    @pytest.mark.requires("durable", "shared")
    async def test_durability_another_store_sees_an_acknowledged_put_at_once(self, place: Any) -> None:
        namespace = fresh()
        async with self.opened(place, namespace) as one, self.opened(place, namespace) as two:
            for n in range(5):
                writer, reader = (one, two) if n % 2 else (two, one)
                datum = await writer.put(self.make_datum("a", n))
                assert await reader.get("a") == datum
                await writer.delete("a")
                assert not await reader.exists("a")

    async def test_l_d9_namespaces_never_see_each_other(self, place: Any) -> None:
        names = [fresh() for _ in range(2)]
        names += [f"{names[0]}/x", names[0].upper(), f"{names[0]}x"]
        async with self.opened(place, names[0]) as opened:
            home = as_backend(opened)
            stores = [home.within(name) for name in names]
            for n, store in enumerate(stores):
                assert store.namespace == names[n]
                assert (await store.put(self.make_datum("a", n))).seq == 1
                await store.put(self.make_datum(f"only{n}", n, "a"))
            for n, store in enumerate(stores):
                mine = [self.make_datum("a", n), self.make_datum(f"only{n}", n, "a")]
                assert await store.causal_chain(f"only{n}") == mine
                assert {datum.id for datum in await store.list()} == {"a", f"only{n}"}
                assert await store.count() == 2
            await self._erased_in(stores[0])
            assert [await store.count() for store in stores] == [0, 2, 2, 2, 2]
            found = await home.namespaces(names[0])
            assert found in ([f"{names[0]}/x"], [*names[0:1], f"{names[0]}/x"])
            assert set(names[1:]) <= set(await home.namespaces())
            assert await home.namespaces(limit=0) == []

    async def _erased_in(self, store: Backend) -> None:
        await store.delete("a")
        if self.capabilities.history:
            await store.purge("a")
        await store.purge("only0")

    @examples(4)
    @given(name=st.text(max_size=4) | st.text(st.sampled_from(HOSTILE + "\0\ud800"), max_size=4))
    async def test_l_d9_any_text_is_a_namespace_or_refused(self, place: Any, name: str) -> None:
        async with self.opened(place) as opened:
            home, tag = as_backend(opened), f"{fresh()}-"
            try:
                check_namespace(tag + name)
            except InvalidNamespace:
                with pytest.raises(InvalidNamespace):
                    home.within(tag + name)
                return
            await home.within(tag + name).put(self.make_datum("a", 1))
            assert await home.within(tag + name).count() == 1
            assert await home.count() == 0
            assert tag + name in await home.namespaces(limit=10_000)

    async def test_health_is_told(self, place: Any) -> None:
        async with self.opened(place) as opened:
            store = as_backend(opened)
            assert await store.is_available() is True
            await store.put_many([self.make_datum(f"k{n}", n) for n in range(3)])
            stats, status = await store.stats(), await store.status()
            assert stats.live == 3
            assert status["name"] == store.name
            assert isinstance(store.priority, int)

    async def test_a_closed_store_says_so(self, place: Any) -> None:
        async with self.opened(place) as opened:
            store = as_backend(opened)
            await store.put(self.make_datum("a", 1))
            await asyncio.gather(store.close(), store.close())
            with pytest.raises(StoreClosed):
                await store.get("a")
            with pytest.raises(StoreClosed):
                await store.put(self.make_datum("b", 1))
            with pytest.raises(StoreClosed):
                await store.within("other").count()
            assert await store.is_available() is False
