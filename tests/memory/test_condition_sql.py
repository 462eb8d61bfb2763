"""What SQL says of conditions on metadata: never less than is true, little more, and nothing where JSON is damaged."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.damaged_datum_rows import execute

from dgent.conditions import AllOf, AnyOf, Eq, Exists, Ge, Gt, In, Le, Lt, Ne, Not
from dgent.datum import Datum
from dgent.memory.sql import queries
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.condition_sql import prefilter_of
from dgent.query import Query
from dgent.settings import Settings
from dgent.sql import condition_shape, open_database
from dgent.testing.condition_laws import NOON, NUMBERS, OTHERS, TEXTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.cursor import Position


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlBackend]:
    store = SqlBackend(open_database(Settings.load(database_url=url, synchronous="NORMAL")))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each statement of a query gave."""
    counts: list[int] = []
    reader = queries.reader

    def counting(*given: Any, **named: Any) -> Callable[..., list[Any]]:
        read = reader(*given, **named)

        def counted(behind: Position | None, most: int) -> list[Any]:
            rows = read(behind, most)
            counts.append(len(rows))
            return rows

        return counted

    monkeypatch.setattr(queries, "reader", counting)
    return counts


async def test_only_what_matches_is_read(store: SqlBackend, rows_read: list[int]) -> None:
    """So a page takes one statement, however many rows there are."""
    await store.put_many(
        [Datum(f"{n:04}", b"", float(n), None, {"n": n, "s": f"s{n:04}", "f": n + 0.5, "l": [n]}) for n in range(3000)]
    )
    for where, many in (
        ({"metadata.n": Gt(2990)}, 9),
        ({"metadata.n": {"$ge": 10.5, "$lt": 13}}, 2),
        ({"metadata.f": Le(2)}, 2),
        ({"metadata.l[0]": Lt(3)}, 3),
        ({"metadata.l[-1]": 7}, 1),
        ({"metadata.s": Ge("s2995")}, 5),
        ({"metadata.n": Not(AnyOf(Gt(4), Exists(False)))}, 5),
        ({"metadata.x": Exists()}, 0),
        ({"metadata.n": Not(In([*range(5, 205)])), "metadata.s": Le("s0204")}, 5),
        (AnyOf({"metadata.n": In([1, 2])}, {"metadata.s": "s0007"}), 3),
    ):
        rows_read.clear()
        assert len(await store.query(Query(where=where, limit=20))) == many, where
        assert rows_read == [many], where


async def test_it_never_says_less_than_is_true(store: SqlBackend) -> None:
    """What it says more of is narrow: numbers that are no integers, and containers, by their kind."""
    values = NUMBERS + TEXTS + OTHERS
    stored = await store.put_many([Datum(f"{at}", b"", 0.0, None, {"n": each}) for at, each in enumerate(values)])
    for value in (*NUMBERS, *TEXTS[::2], *OTHERS):
        conditions: list[Any] = [Eq(value), Ne(value), In([value, "a", 3, True])]
        if not isinstance(value, bool | list | dict | None):
            conditions += [Gt(value), Not(Gt(value)), Not(Lt(value)), AllOf(Ge(value), Le(value))]
        for condition in conditions:
            query = Query(where={"metadata.n": condition}, limit=1000)
            assert {datum.id for datum in await store.query(query)} == {d.id for d in stored if query.matches(d)}


def test_what_sql_cannot_say_is_left_to_python() -> None:
    for where in ({"x": 1}, {'metadata[""]': Gt(1)}, {'metadata["\\""]': 1}, {'metadata["\\\\"].x': Exists()}):
        assert prefilter_of(Query(where=where).conditions) is None
    half = Query(where={"metadata.n": Gt(1), "x": 1})
    only = Query(where={"metadata.n": Gt(1)})
    assert prefilter_of(half.conditions) == prefilter_of(only.conditions)
    assert prefilter_of(Query(where=AnyOf({"metadata.n": Gt(1)}, {"x": 1})).conditions) is None
    assert prefilter_of(Query(where={"metadata.n": Gt(NOON)}).conditions) is not None
    assert prefilter_of(Query(where={"metadata.n": Not(Gt(NOON))}).conditions) is None
    many = AnyOf(*({"metadata.n": Gt(n)} for n in range(500)))
    assert prefilter_of(Query(where=many).conditions) is None


async def test_more_than_a_statement_takes_is_still_answered(store: SqlBackend) -> None:
    await store.put_many([Datum(f"{n}", b"", float(n), None, {"n": n}) for n in range(10)])
    many = AnyOf(*({"metadata.n": Gt(n)} for n in range(8, 900)))
    long: Any = {"metadata.n": In([*range(9, 9000), "x"])}
    for where, wanted in ((many, ["9"]), (long, ["9"]), (Not(many), [f"{n}" for n in range(9)])):
        assert [datum.id for datum in await store.query(Query(where=where, order="oldest"))] == wanted


DAMAGED = (
    "", "{", "no JSON", "[1]", "null", '{"n":"\\ud800"}', '{"n":"\\u0000"}', '{"n":1e999999}', '{"n":-1e-400}',
    '{"n":123456789012345678901234567890}', '{"n":1e400}', "[" * 5000, '{"n":1}x', '{"n":0x10}', '{"n":NaN}',
)  # fmt: skip


async def test_a_row_whose_json_is_damaged_ends_no_query(store: SqlBackend, url: str) -> None:
    ids = [f"bad{at:02}" for at in range(len(DAMAGED))]
    await store.put_many([Datum(id, b"", 0.0, None, {"n": 1}) for id in [*ids, "good"]])
    for id, text in zip(ids, DAMAGED, strict=True):
        execute(url, "UPDATE dgent_datums SET metadata = ? WHERE id = ?", text, id)
    for condition in (Gt(0), Not(Gt(5)), Ge("x"), Exists(), Ne(2), In([1, "x"]), Not("x"), AllOf(Ge(0.5), Le(1.5))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            page = await store.query(Query(where={"metadata.n": condition}))
        wanted = Query(where={"metadata.n": condition}).matches(Datum("good", b"", 0.0, None, {"n": 1}))
        assert [datum.id for datum in page] == ["good"] * wanted, condition
        assert {"bad00", "bad01", "bad02"} <= {each.id for each in page.damaged}


async def test_a_server_that_cannot_tell_json_is_asked_for_the_rows_alone(
    store: SqlBackend, rows_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "can_test_json", lambda _: False)
    await store.put_many([Datum(f"{n}", b"", float(n), None, {"n": n}) for n in range(10)])
    assert len(await store.query(Query(where={"metadata.n": Gt(6)}))) == 3
    assert rows_read == [10]


async def test_few_rows_with_any_of_some_terms_are_found_by_them(
    store: SqlBackend, rows_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_many([Datum(f"{n:03}", b"", float(n % 7), None, {"n": n % 50, "m": n}) for n in range(400)])
    for narrow in (1, 1000):
        monkeypatch.setattr(queries, "NARROW", narrow)
        queries._width_statement.cache_clear()
        for order in ("newest", "oldest", "seq"):
            query: Any = Query(
                where=AnyOf({"metadata.n": In([1, 2, 3])}, {"metadata.m": 3}, {"metadata.m": 4}), order=order
            )
            every = sorted(await store.list(limit=1000), key=query.position, reverse=order == "newest")
            assert await store.query(query) == [*filter(query.matches, every)]
    assert set(rows_read) == {25, 400}
    queries._width_statement.cache_clear()


def test_a_shape_has_no_values() -> None:
    """So a statement is compiled once, whatever is asked for."""
    shapes = {
        prefilter_of(Query(where={f"metadata.{name}": AllOf(Gt(bound), Ne(name))}).conditions).shape  # type: ignore[union-attr]
        for name in ("a", "b", "é")
        for bound in (1, 2**40, 0.5)
    }
    assert len(shapes) == 1
    assert condition_shape.padded([1, 2, 3]) == [1, 2, 3, 3]
