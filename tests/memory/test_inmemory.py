"""Agent memory in memory obeys the contract; what it is built of obeys laws of its own."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import VersionConflict
from dgent.limits import Limits
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.inmemory.namespace_state import SortedKeys
from dgent.query import Query
from dgent.testing import DgentContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.memory.change import Change

DEFAULT = Limits()


class TestMemory(DgentContract):
    capabilities = MemoryBackend.capabilities

    async def open(
        self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = DEFAULT
    ) -> MemoryBackend:
        return MemoryBackend(namespace, clock=clock, limits=limits)


@given(st.lists(st.tuples(st.integers(0, 60).map(str), st.booleans()), max_size=120))
def test_sorted_keys_are_the_sorted_set(changes: list[tuple[str, bool]]) -> None:
    keys: SortedKeys[str] = SortedKeys()
    wanted: set[str] = set()
    for key, read in changes:
        if key in wanted:
            keys.remove(key)
            wanted.remove(key)
        else:
            keys.add(key)
            wanted.add(key)
        if read:
            assert keys.keys == sorted(wanted)
    assert keys.keys == sorted(wanted)


async def test_an_offset_is_read_page_by_page() -> None:
    store = MemoryBackend(limits=Limits(max_page=2))
    await store.put_many([Datum(f"k{n}", b"", float(n)) for n in range(7)])
    found = await store.query(Query(order="id", offset=5, limit=2))
    assert ([datum.id for datum in found], found.cursor) == (["k5", "k6"], None)
    assert await store.query(Query(order="id", offset=7, limit=2)) == []


async def test_changes_are_told_once_each_and_a_failing_listener_harms_nobody() -> None:
    heard: list[Change] = []

    def listen(change: Change) -> None:
        heard.append(change)
        raise RuntimeError("listeners may fail")

    store = MemoryBackend(on_change=listen)
    datum = Datum("a", b"x", 1.0)
    await store.put(datum)
    await store.put(datum)
    with pytest.raises(VersionConflict):
        await store.within("other").put(datum, expect=1)
    await store.within("other").put(datum)
    await store.delete("a")
    await store.purge("a")
    await store.purge("a")
    told = [(change.kind, change.namespace, change.version, change.seq) for change in heard]
    assert told == [
        ("put", "default", 1, 1),
        ("put", "other", 1, 1),
        ("delete", "default", 2, 2),
        ("purge", "default", 0, 0),
    ]


async def test_reading_a_namespace_does_not_make_it() -> None:
    store = MemoryBackend()
    for n in range(10):
        await store.within(f"asked/{n}").count()
        assert not await store.within(f"asked/{n}").delete("a")
    assert await store.namespaces() == []


def test_threads_with_loops_of_their_own_lose_no_update() -> None:
    store = MemoryBackend()

    async def increment() -> None:
        for _ in range(100):
            while True:
                found = await store.get("n")
                value = Datum("n", b"%d" % (int(found.content) + 1 if found else 1), 1.0)
                try:
                    await store.put(value, expect=found.version if found else 0)
                    break
                except VersionConflict:
                    continue

    with ThreadPoolExecutor(4) as threads:
        for result in [threads.submit(asyncio.run, increment()) for _ in range(4)]:
            result.result()
    found = asyncio.run(store.get("n"))
    assert found is not None
    assert (found.content, found.version) == (b"400", 400)
