"""The laws of values: what was put comes back from every verb as it went in, or was refused on entry."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import math
import struct
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import InvalidInput
from dgent.query import Query
from dgent.testing.contract_base import START, ContractBase, examples, fresh
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from dgent.store import DgentProtocol

TIMES: Final = (
    -0.0, 0.0, 0, 5e-324, -5e-324, 2.3e-308, 1e-9, -1.5, 1_700_000_000, 1_700_000_000.123_456_7, 1e308, -1e308,
    -62_135_596_800.0, math.nextafter(253_402_300_800.0, 0), 253_402_300_800.0, 2**53 + 1, 2**70, True,
    math.nan, math.inf,
)  # fmt: skip
NUMBERS: Final = (
    -0.0, 0.0, 0, 1, 1.0, True, 5e-324, 1e16, 1e22, 1e23, 1.7976931348623157e308, 0.1, 1 / 3, 2**53 + 1, 2.0**53,
    2**63 - 1, -(2**63), 2**63, 2**64, 1e400, math.nan,
)  # fmt: skip
TEXTS: Final = ("", "é", "e\u0301", "\u2028", "\ufeff", "\ufffe", "\U0010ffff", "a\0", "\ud800", '"\\', "1e5", "null")


@cache
def extreme() -> st.SearchStrategy[Any]:
    """Draw a JSON value, or what looks like one, that some store might bring into another form."""
    one = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.floats() | st.integers() | st.none()
    return st.recursive(one, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner))


@cache
def parts() -> st.SearchStrategy[tuple[Any, Any, bytes]]:
    """Draw a time, metadata and content, each of which a store may refuse."""
    created = st.sampled_from(TIMES) | st.floats() | st.integers()
    metadata = st.dictionaries(st.sampled_from(["n", "tags", "é", "schema"]), extreme(), max_size=3)
    content = st.binary(max_size=4) | extreme().map(str).map(lambda text: text.encode("utf-8", "replace"))
    return st.tuples(created, metadata, content)


class ValueLaws(ContractBase):
    """What is stored is what was put."""

    @examples(3)
    @given(data=st.data())
    @pytest.mark.requires("schema_free", "history", "causal")
    async def test_a_value_comes_back_as_it_was_put_or_is_refused(self, place: Any, data: st.DataObject) -> None:
        namespace, made = fresh(), list[Datum]()
        for at in range(data.draw(st.integers(1, 12))):
            created, metadata, content = data.draw(parts())
            try:
                made.append(Datum(f"v{at:02}", content, created, f"v{at - 1:02}" if at else None, metadata))
            except InvalidInput:
                continue
        async with self.opened(place, namespace) as store:
            stored = [await store.put(datum) for datum in made]
            assert list(map(spelled, stored)) == list(map(spelled, made))
            await self._answers(store, stored)
        if self.capabilities.durable:
            async with self.opened(place, namespace) as store:
                await self._answers(store, stored)

    async def _answers(self, store: DgentProtocol, stored: list[Datum]) -> None:
        wanted = {datum.id: spelled(datum) for datum in stored}
        newest = [datum.id for datum in sorted(stored, key=Query().position, reverse=True)]
        for datum in stored:
            assert spelled(await store.get(datum.id)) == wanted[datum.id]
            assert [spelled(entry.datum) for entry in await store.history(datum.id)] == [wanted[datum.id]]
            assert spelled((await store.causal_chain(datum.id))[-1]) == wanted[datum.id]
            again = await store.put(datum)
            assert (again.version, again.seq) == (datum.version, datum.seq), "an equal datum changes nothing"
        assert [spelled(datum) for datum in await store.list()] == [wanted[id] for id in newest]
        assert {spelled(datum) for datum in await store.as_of(2e11)} == set(wanted.values())
        found = [datum for one in newest for datum in await store.query(Query(prefix=one, order="oldest"))]
        assert [spelled(datum) for datum in found] == [wanted[id] for id in newest]

    @pytest.mark.requires("ttl")
    @pytest.mark.parametrize("now", [0.0, -0.0, START, 1])
    async def test_any_moment_of_expiry_is_kept(self, place: Any, now: float) -> None:
        for ttl in (5e-324, 1e-9, 0.1, 1, 1e9, 9.99e11):
            await self._expires(place, ManualClock(now), ttl)

    async def _expires(self, place: Any, clock: ManualClock, ttl: float) -> None:
        now = clock()
        async with self.opened(place, clock=clock) as store:
            datum = await store.put(self.make_datum("a", 1), ttl=ttl)
            lives = now + ttl > now
            assert (await store.get("a") == datum) is lives
            assert (await store.list() == [datum]) is lives
            assert (await store.get_many(["a"]) == {"a": datum}) is lives
            if self.capabilities.history:
                (entry,) = await store.history("a")
                assert entry.datum == datum
            clock.advance(max(2 * ttl, 1e-5))  # a server's clock counts microseconds
            assert await store.get("a") is None
            assert await store.list() == []


def spelled(datum: Datum | None) -> tuple[object, ...]:
    """Return all that a datum says, so that what is spelled differently is different: -0.0, 1 and 1.0, é and é."""
    assert datum is not None
    assert [type(part) for part in (datum.id, datum.content, datum.created_at)] == [str, bytes, float]
    metadata = orjson.dumps(dict(datum.metadata), option=orjson.OPT_SORT_KEYS)
    return (
        datum.id, datum.content, struct.pack("<d", datum.created_at), datum.causal_parent, datum.metadata_json, metadata
    )  # fmt: skip
