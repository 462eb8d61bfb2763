"""The reach of Haystack's filters: what its document stores are asked for, in conditions of ours.

The cases are those of `haystack.testing.document_store.FilterDocumentsTest`, in words of our own. Haystack takes an
absent field for None, compares texts as dates only, and raises for what has no order; the translation says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.faults.stores import opened

from dgent.conditions import AllOf, AnyOf, Eq, Exists, Ge, Gt, In, Le, Lt, Not
from dgent.datum import Datum
from dgent.exceptions import InvalidQuery
from dgent.query import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.store import Backend

ORDERS = {">": Gt, ">=": Ge, "<": Lt, "<=": Le}


class FilterRefused(Exception):
    """A filter that Haystack raises FilterError for."""


def translated(filters: dict[str, Any]) -> Any:
    """Return what `where` is for one of Haystack's filters."""
    if not filters:
        return {}
    if "field" not in filters:
        if filters.get("operator") not in {"AND", "OR", "NOT"} or "conditions" not in filters:
            raise FilterRefused(f"no operator, or no conditions: {filters}")
        parts = [translated(each) for each in filters["conditions"]]
        return AnyOf(*parts) if filters["operator"] == "OR" else _negated(filters["operator"] == "NOT", AllOf(*parts))
    if "operator" not in filters or "value" not in filters:
        raise FilterRefused(f"no operator, or no value: {filters}")
    path = filters["field"].replace("meta.", "metadata.", 1)
    return {path: _comparison(filters["operator"], filters["value"])}


def _comparison(sign: str, value: Any) -> Any:
    if sign in {"==", "!="}:
        return _negated(sign == "!=", Eq(value) if value is not None else AnyOf(None, Exists(False)))
    if sign in {"in", "not in"}:
        if not isinstance(value, list):
            raise FilterRefused("in takes a list")
        return _negated(sign == "not in", In(value))
    if value is None:
        return AnyOf()  # nothing is more or less than None
    if isinstance(value, str):
        _check_date(value)
    try:
        return ORDERS[sign](value)
    except InvalidQuery as error:
        raise FilterRefused(str(error)) from None


def _check_date(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise FilterRefused("texts have an order only if they are dates") from None


def _negated(negated: bool, condition: Any) -> Any:
    return Not(condition) if negated else condition


DATES = ("1969-07-21T20:17:40", "1972-12-11T19:54:58", "1989-11-09T17:53:00")


def documents() -> list[dict[str, Any]]:
    """Return the metadata of what is filtered: some has no number, no date, no page."""
    named = [("intro", "100", 2, DATES[0]), ("abstract", "123", -2, DATES[1]), ("conclusion", "90", -10, DATES[2])]
    found: list[dict[str, Any]] = []
    for n in range(3):
        for chapter, page, number, date in named:
            found.append({"name": f"name_{n}", "page": page, "chapter": chapter, "number": number, "date": date})
        found += [
            {"name": f"name_{n}", "no_embedding": True, "chapter": "conclusion"},
            {"name": "zeros"},
            {"name": "ones"},
        ]
    return found


class Case(NamedTuple):
    """A filter, and which documents it leaves."""

    filters: dict[str, Any]
    keeps: Callable[[dict[str, Any]], bool]


def compared(field: str, sign: str, value: Any) -> dict[str, Any]:
    return {"field": f"meta.{field}", "operator": sign, "value": value}


def joined(operator: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"operator": operator, "conditions": [*conditions]}


def number(of: dict[str, Any]) -> Any:
    return of.get("number")


def date(of: dict[str, Any]) -> str:
    return str(of.get("date", ""))


HUNDRED, FIRST = compared("number", "==", 100), compared("name", "==", "name_0")
BOTH = [compared("number", "==", 2), FIRST]
CASES = {
    "no filter": Case({}, lambda of: True),
    "==": Case(HUNDRED, lambda of: number(of) == 100),
    "== with hits": Case(compared("number", "==", 2), lambda of: number(of) == 2),
    "== None": Case(compared("number", "==", None), lambda of: number(of) is None),
    "!=": Case(compared("number", "!=", 100), lambda of: number(of) != 100),
    "!= with hits": Case(compared("number", "!=", 2), lambda of: number(of) != 2),
    "!= None": Case(compared("number", "!=", None), lambda of: number(of) is not None),
    ">": Case(compared("number", ">", 0), lambda of: number(of) is not None and number(of) > 0),
    ">=": Case(compared("number", ">=", -2), lambda of: number(of) is not None and number(of) >= -2),
    "<": Case(compared("number", "<", 0), lambda of: number(of) is not None and number(of) < 0),
    "<=": Case(compared("number", "<=", -2), lambda of: number(of) is not None and number(of) <= -2),
    "> date": Case(compared("date", ">", DATES[1]), lambda of: date(of) > DATES[1]),
    ">= date": Case(compared("date", ">=", DATES[0]), lambda of: date(of) >= DATES[0]),
    "< date": Case(compared("date", "<", DATES[1]), lambda of: "" < date(of) < DATES[1]),
    "<= date": Case(compared("date", "<=", DATES[1]), lambda of: "" < date(of) <= DATES[1]),
    "> None": Case(compared("number", ">", None), lambda of: False),
    ">= None": Case(compared("number", ">=", None), lambda of: False),
    "< None": Case(compared("number", "<", None), lambda of: False),
    "<= None": Case(compared("number", "<=", None), lambda of: False),
    "in": Case(compared("number", "in", [10, -10]), lambda of: number(of) in {10, -10}),
    "not in": Case(compared("number", "not in", [9, 10, 2]), lambda of: number(of) not in {9, 10, 2}),
    "AND": Case(joined("AND", *BOTH), lambda of: number(of) == 2 and of["name"] == "name_0"),
    "OR": Case(joined("OR", *BOTH), lambda of: number(of) == 2 or of["name"] == "name_0"),
    "NOT": Case(joined("NOT", *BOTH), lambda of: not (number(of) == 2 and of["name"] == "name_0")),
    "nested": Case(
        joined("AND", joined("OR", *BOTH), joined("NOT", compared("chapter", "in", ["abstract", "conclusion"]))),
        lambda of: (number(of) == 2 or of["name"] == "name_0") and of.get("chapter") not in {"abstract", "conclusion"},
    ),
}
REFUSED: dict[str, dict[str, Any]] = {
    **{f"{sign} text": compared("number", sign, "one") for sign in ORDERS},
    **{f"{sign} list": compared("number", sign, [1]) for sign in ORDERS},
    **{f"{sign} frame": compared("number", sign, {"columns": [1]}) for sign in ORDERS},
    **{f"{sign} no list": compared("number", sign, 9) for sign in ("in", "not in")},
    **{f"{sign} a tuple": compared("number", sign, (10, 11)) for sign in ("in", "not in")},
    "no operator": {"conditions": [FIRST]},
    "no conditions": {"operator": "AND"},
    "no field": joined("AND", {"operator": "==", "value": "test"}),
    "no comparison": joined("AND", {"field": "meta.name", "value": "test"}),
    "no value": joined("AND", {"field": "meta.name", "operator": "=="}),
}


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with opened(request.param, tmp_path / "documents.db") as store:
        await store.put_many([Datum(f"{at:02}", b"text", 0.0, None, meta) for at, meta in enumerate(documents())])
        yield store


async def test_every_filter_of_haystack_keeps_what_it_says(store: Backend) -> None:
    every = await store.list()
    for name, (filters, keeps) in CASES.items():
        wanted = [datum for datum in every if keeps(dict(datum.metadata))]
        assert await store.query(Query(where=translated(filters))) == wanted, name


@pytest.mark.parametrize("name", REFUSED)
def test_what_haystack_refuses_is_refused(name: str) -> None:
    with pytest.raises(FilterRefused):
        translated(REFUSED[name])
