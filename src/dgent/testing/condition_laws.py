"""The laws of `where`: every condition answers alike on all stores, and as its meaning over a full scan."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from math import nextafter
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.conditions import AllOf, AnyOf, Eq, Exists, Ge, Gt, In, Le, Lt, Ne, Not
from dgent.datum import Datum
from dgent.exceptions import InvalidCursor
from dgent.query import Query
from dgent.testing.contract_base import START, ContractBase, examples, pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.store import DgentProtocol

NOON: Final = datetime(2026, 3, 29, 12, tzinfo=UTC)
NUMBERS: Final = (
    0, -0.0, 1, 1.0, -1, 3, nextafter(3, 4), nextafter(3, 2), 0.1, 5e-324, -5e-324, 2**53, 2**53 + 1, 2.0**53,
    1.2345678901234567e18, 1234567890123456789, 2**63 - 1, -(2**63), 2.0**63, 1e300, -1e300, 1.7976931348623157e308,
)  # fmt: skip
TEXTS: Final = (
    "", "1", "10", "a", "B", "é", "e\u0301", "\ud7ff", "\ue000", "\U0001f600", "a'b", '"', "\\", "\\u0041", "\x01\n",
    "null", "2026-03-29T12:00:00Z", "2026-03-29T13:45:00+01:45", "2026-03-29 12:00:00.000001+00:00",
    "2026-03-29T12:00:00", "2026-03-29", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
)  # fmt: skip
OTHERS: Final[tuple[Any, ...]] = (None, True, False, [], [1], ["a", None], {}, {"k": 1}, {"$gt": 1})
MOMENTS: Final = (
    NOON, NOON.astimezone(timezone(timedelta(hours=-9, minutes=-30))), NOON - timedelta(microseconds=1),
    datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC),
)  # fmt: skip
ORDERED: Final = (Gt, Ge, Lt, Le)
KEYS: Final = ("n", "a.b", "", "$gt", '"', "\\", "'", "é", "x y", "0", "#-1", "%", "] [", "*")
INJECTIONS: Final = (
    "'; DROP TABLE dgent_datums; --", "' OR '1'='1", '" OR ""="', "1; DELETE FROM dgent_terms", "') OR 1=1 --",
    "$.n", '$."n"', "$[0]", '"] || true #', "{n}", "{a,b}", "n' -> 'm", "%s", "%(x)s", ":ns", "$1", "?", "?1",
    "\\'; SELECT pg_sleep(10) --", "/* */", "x'00'", "json_extract(metadata, '$')", "\u02bc OR 1=1", "COLLATE NOCASE",
)  # fmt: skip


def written(*steps: str | int) -> str:
    """Write a path into the metadata, each name quoted."""
    return "metadata" + "".join(f"[{step if isinstance(step, int) else orjson.dumps(step).decode()}]" for step in steps)


@cache
def stored_values() -> st.SearchStrategy[Any]:
    """Draw JSON values that are easily mistaken for one another."""
    return st.sampled_from(NUMBERS + TEXTS + OTHERS)


@cache
def any_metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Draw metadata in which few keys come again and again."""
    value = stored_values()
    inner = value | st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(KEYS), value, max_size=2)
    return st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)


@cache
def any_path() -> st.SearchStrategy[str]:
    """Draw a path into such metadata, or into a content that is like it."""
    steps = st.sampled_from(KEYS) | st.integers(-2, 1)
    paths = st.builds(written, st.sampled_from(KEYS)) | st.builds(written, st.sampled_from(KEYS), steps)
    return paths | paths.map(lambda path: path.replace("metadata", "content", 1))


@cache
def any_condition() -> st.SearchStrategy[Any]:
    """Draw what may stand at a path, as a class or as it is spelled in JSON."""
    equal = st.one_of(st.sampled_from(MOMENTS), stored_values())
    bounds = st.sampled_from(NUMBERS + TEXTS + MOMENTS)
    leaf = (
        st.builds(lambda kind, value: kind(value), st.sampled_from([Eq, Ne]), equal)
        | st.builds(lambda kind, value: kind(value), st.sampled_from(ORDERED), bounds)
        | st.builds(In, st.lists(equal, max_size=4))
        | st.builds(Exists, st.booleans())
    )
    spelled = leaf.filter(lambda each: "$time" not in repr(each.spelled)).map(lambda each: each.spelled)
    ordinary = stored_values().filter(lambda value: value != {"$gt": 1})
    return st.recursive(leaf | spelled | ordinary, lambda inner: _joined(inner) | inner.map(Not), max_leaves=3)


@cache
def any_where() -> st.SearchStrategy[Any]:
    """Draw what may stand for `where`."""
    plain = st.dictionaries(any_path(), any_condition(), min_size=1, max_size=2)
    return st.recursive(plain, lambda inner: _joined(inner) | inner.map(lambda part: {"$not": part}), max_leaves=3)


def _joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.lists(inner, max_size=3)
    return parts.map(lambda each: AnyOf(*each)) | parts.map(lambda each: AllOf(*each))


@cache
def any_datum(id: str) -> st.SearchStrategy[Datum]:
    """Draw a datum; its content may be no JSON."""
    content = any_metadata().map(orjson.dumps) | st.sampled_from([b"", b"\xff", b"{", b"null", b"[1]"])
    return st.builds(Datum, st.just(id), content, st.just(START), st.none(), any_metadata())


class ConditionLaws(ContractBase):
    """What `where` promises."""

    @examples(15)  # each asks for statements that were never made before, which takes most of its time
    @given(data=st.data())
    @pytest.mark.requires("schema_free")
    async def test_l_q1_every_condition_answers_as_its_matches(self, place: Any, data: st.DataObject) -> None:
        datums = [data.draw(any_datum(f"i{n}")) for n in range(data.draw(st.integers(1, 8)))]
        async with self.opened(place) as store:
            stored = await store.put_many(datums)
            for _ in range(5):
                await self._found_by(store, stored, data.draw(any_where()), data.draw(st.integers(1, 4)))

    async def _found_by(self, store: DgentProtocol, stored: Sequence[Datum], where: Any, limit: int = 1000) -> None:
        query = Query(where=where, order="oldest", limit=limit)
        wanted = sorted(filter(query.matches, stored), key=query.position)
        found = await pages(lambda at: store.query(Query(where=where, order="oldest", limit=limit, cursor=at)))
        assert found == wanted, where

    @pytest.mark.requires("schema_free")
    async def test_l_q1_every_value_stands_in_the_same_order_to_every_other(self, place: Any) -> None:
        values = NUMBERS + TEXTS + OTHERS
        datums = [Datum(f"{at:03}", b"", START, None, {"n": value}) for at, value in enumerate(values)]
        async with self.opened(place) as store:
            stored = [*await store.put_many(datums), await store.put(Datum("none", b"", START))]
            for bound in (*NUMBERS, *TEXTS[::3], *MOMENTS):
                await self._found_by(store, stored, {"metadata.n": Not(Le(bound))})
                await self._found_by(store, stored, {"metadata.n": Ge(bound), "metadata": Exists(False)})
                await self._found_by(store, stored, {"metadata.n": Not(Gt(bound))})
            for value in values[::2]:
                await self._found_by(store, stored, {"metadata.n": Ne(value)})
                await self._found_by(store, stored, {"metadata.n": In([value, "B", 3])})

    @pytest.mark.requires("schema_free")
    async def test_l_q1_null_is_there_and_absent_is_not(self, place: Any) -> None:
        datums = [
            Datum(id, b"", START, None, each) for id, each in (("null", {"n": None}), ("none", {}), ("1", {"n": 1}))
        ]
        async with self.opened(place) as store:
            await store.put_many(datums)

            async def found(condition: Any) -> set[str]:
                return {datum.id for datum in await store.query(Query(where={"metadata.n": condition}))}

            assert await found(None) == {"null"}
            assert await found(Exists()) == await found({"$exists": True}) == {"null", "1"}
            assert await found(Exists(False)) == {"none"}
            assert await found(Ne(None)) == {"none", "1"}
            assert await found(Ne(1)) == await found({"$not": 1}) == {"null", "none"}
            assert await found(Ge(0)) == {"1"}
            assert await found(Not(Ge(0))) == {"null", "none"}

    @pytest.mark.requires("schema_free")
    async def test_l_q1_injections_in_keys_and_values_change_nothing(self, place: Any) -> None:
        """Each is a key and a value, and is found by both, and by nothing else."""
        datums = [Datum(f"{at:02}", b"", START, None, {text: text}) for at, text in enumerate(INJECTIONS)]
        async with self.opened(place) as store:
            stored = await store.put_many(datums)
            for datum, text in zip(stored, INJECTIONS, strict=True):
                path = written(text)
                for condition in (text, Ge(text), In([text, "x"]), Exists(), {"$not": {"$ne": text}}):
                    assert await store.query(Query(where={path: condition})) == [datum], (text, condition)
                assert await store.query(Query(where={path: {"$gt": text}})) == []
                assert await store.query(Query(where=AnyOf({path: Lt("")}, {"metadata.no": text}))) == []
            assert await store.count() == len(INJECTIONS)

    @pytest.mark.requires("schema_free")
    async def test_l_q1_a_cursor_belongs_to_its_conditions(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put_many([Datum(f"{n}", b"", START, None, {"n": n}) for n in range(4)])
            page = await store.query(Query(where={"metadata.n": Ge(1)}, limit=1))
            same = Query(where={"metadata": Exists(False), "metadata.n": {"$ge": 1.0}}, limit=3, cursor=page.cursor)
            with pytest.raises(InvalidCursor):
                await store.query(same)
            same = Query(where={"$and": [{"metadata.n": {"$ge": 1.0}}]}, limit=3, cursor=page.cursor)
            assert len(await store.query(same)) == 2
            for other in (Gt(1), Ge(2), Le(1), Not(Ge(1)), AnyOf(Ge(1), 1)):
                with pytest.raises(InvalidCursor):
                    await store.query(Query(where={"metadata.n": other}, limit=1, cursor=page.cursor))
