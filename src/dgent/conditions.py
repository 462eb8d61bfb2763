"""What `Query.where` may ask of a value: how it is compared, whether it is there, and how conditions go together.

A condition has a class and a spelling for JSON: `Gt(3)` is `{"$gt": 3}`. It stands at a path, or joins others:

    {"metadata.n": Gt(3)}                             {"metadata.n": {"$gt": 3}}
    {"metadata.n": AllOf(Ge(0), Lt(10))}              {"metadata.n": {"$ge": 0, "$lt": 10}}
    AnyOf({"metadata.n": 1}, {"metadata.m": Ne(2)})   {"$or": [{"metadata.n": 1}, {"metadata.m": {"$ne": 2}}]}
    Not({"metadata.n": 1, "metadata.m": 2})           {"$not": {"metadata.n": 1, "metadata.m": 2}}

What compares with what, everywhere the same:

* Equality (`Eq`, `In`) is that of JSON: 1 equals 1.0, true is not 1. A path that leads nowhere equals nothing, not even
  null; nor does any path into a content that is no JSON.
* Order (`Gt`, `Ge`, `Lt`, `Le`) holds between numbers, by value, however large; between texts, by code point; and
  between an aware `datetime` (in JSON `{"$time": "2026-01-31T08:15:00Z"}`) and text that is ISO 8601 with a date, a
  time and a zone, as moments. Between anything else no order holds, and nothing is converted: true is no number, "10"
  is not 10, and a text is not a moment unless it is asked for one.
* `Eq`, `Ne` and `In` take a `datetime` too: then they ask for the same moment.
* `Ne(x)` is `Not(Eq(x))`, and `Exists(False)` is `Not(Exists(True))`: they hold where nothing is.

`AnyOf` and `AllOf` are not called `Any` and `All`, which `typing` and `all()` have taken.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

import orjson

from dgent.error_messages import called
from dgent.exceptions import InvalidDatum, InvalidQuery
from dgent.jsonvalue import canonical_json, comparable

TIME: Final = "$time"


@dataclass(frozen=True, eq=False, repr=False)
class Condition(ABC):
    """What a value is asked. Equal to another one that is spelled alike."""

    spelling: ClassVar[str]

    @property
    @abstractmethod
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON: `{"$gt": 3}`."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._arguments))})"

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())

    @property
    def _text(self) -> bytes:
        return orjson.dumps(self.spelled, option=orjson.OPT_SORT_KEYS)


@dataclass(frozen=True, eq=False, repr=False)
class _OfOneValue(Condition):
    value: Any

    def __post_init__(self) -> None:
        self._check(self.value)

    @staticmethod
    def _check(value: Any) -> None:
        equal_form(value)

    @property
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON."""
        return {self.spelling: _in_json(self.value)}


@dataclass(frozen=True, eq=False, repr=False)
class Eq(_OfOneValue):
    """The value is equal: what `{"metadata.n": 3}` says. It is needed where the value is an object that begins with $.

    Raises:
        InvalidQuery: it is not JSON, nor an aware datetime.
    """

    spelling = "$eq"


@dataclass(frozen=True, eq=False, repr=False)
class Ne(_OfOneValue):
    """The value is not equal, or there is none.

    Raises:
        InvalidQuery: it is not JSON, nor an aware datetime.
    """

    spelling = "$ne"


@dataclass(frozen=True, eq=False, repr=False)
class _Ordered(_OfOneValue):
    """The value stands in an order to a number, a text or an aware datetime: `Gt`, `Ge`, `Lt` or `Le`."""

    @staticmethod
    def _check(value: Any) -> None:
        bound(value)


@dataclass(frozen=True, eq=False, repr=False)
class Gt(_Ordered):
    """The value is greater.

    Raises:
        InvalidQuery: the bound is no number, text or aware datetime.
    """

    spelling = "$gt"


@dataclass(frozen=True, eq=False, repr=False)
class Ge(_Ordered):
    """The value is greater or equal.

    Raises:
        InvalidQuery: the bound is no number, text or aware datetime.
    """

    spelling = "$ge"


@dataclass(frozen=True, eq=False, repr=False)
class Lt(_Ordered):
    """The value is less.

    Raises:
        InvalidQuery: the bound is no number, text or aware datetime.
    """

    spelling = "$lt"


@dataclass(frozen=True, eq=False, repr=False)
class Le(_Ordered):
    """The value is less or equal.

    Raises:
        InvalidQuery: the bound is no number, text or aware datetime.
    """

    spelling = "$le"


@dataclass(frozen=True, eq=False, repr=False)
class In(Condition):
    """The value is equal to one of these; none is equal to one of an empty list.

    Raises:
        InvalidQuery: it is not a list, a tuple or a set of JSON values.
    """

    spelling = "$in"
    values: tuple[Any, ...]

    def __init__(self, values: list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]) -> None:
        if not isinstance(values, list | tuple | set | frozenset):
            raise InvalidQuery(f"{called(values)} is no list of values: write In([1, 2]), or {{'$in': [1, 2]}}")
        for value in values:
            equal_form(value)
        object.__setattr__(self, "values", tuple(sorted(values, key=equal_form)))

    @property
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON."""
        return {self.spelling: [_in_json(value) for value in self.values]}


@dataclass(frozen=True, eq=False, repr=False)
class Exists(Condition):
    """The path leads to a value, which may be null; with False: to none.

    Raises:
        InvalidQuery: it is neither True nor False.
    """

    spelling = "$exists"
    there: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.there, bool):
            raise InvalidQuery(f"{self.spelling} takes true or false, not {called(self.there)}")

    @property
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON."""
        return {self.spelling: self.there}


@dataclass(frozen=True, eq=False, repr=False)
class _OfSeveral(Condition):
    parts: tuple[Any, ...]

    def __init__(self, *parts: Any) -> None:
        object.__setattr__(self, "parts", parts)

    @property
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON."""
        return {self.spelling: [_in_json(part) for part in self.parts]}

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.parts


@dataclass(frozen=True, eq=False, repr=False, init=False)
class AllOf(_OfSeveral):
    """All of these hold: conditions or values where it stands at a path, else mappings as `where` takes them."""

    spelling = "$and"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class AnyOf(_OfSeveral):
    """At least one of these holds: conditions or values where it stands at a path, else mappings as for `where`."""

    spelling = "$or"


@dataclass(frozen=True, eq=False, repr=False)
class Not(Condition):
    """This does not hold: a condition or a value where it stands at a path, else a mapping as `where` takes it."""

    spelling = "$not"
    part: Any

    @property
    def spelled(self) -> dict[str, Any]:
        """The condition in JSON."""
        return {self.spelling: _in_json(self.part)}


_LEAVES: Final = (Eq, Ne, Gt, Ge, Lt, Le, In, Exists)
_CLASSES: Final[Mapping[str, type[Condition]]] = {each.spelling: each for each in (*_LEAVES, AllOf, AnyOf, Not)}
_JOINING: Final = (AllOf.spelling, AnyOf.spelling, Not.spelling)


def from_spelling(name: str, value: Any, *, at_path: bool) -> Condition:
    """Return the condition that `{name: value}` spells.

    Raises:
        InvalidQuery: there is no such condition, or it does not take such a value.
    """
    among = _CLASSES if at_path else _JOINING
    if name not in among:
        literal = 'compare with an object that begins with $ by {"$eq": {...}}'
        path = 'write a path into the content that begins with $ as content["$..."]'
        raise InvalidQuery(
            f"no condition is called {name!r:.80}: there are {', '.join(sorted(among))}; {literal if at_path else path}"
        )
    kind: Any = _CLASSES[name]
    if issubclass(kind, _OfSeveral):
        if not isinstance(value, list | tuple):
            raise InvalidQuery(f"{name} takes a list of conditions, not {called(value)}")
        return kind(*value)  # type: ignore[no-any-return]
    if not issubclass(kind, In):
        return kind(_time_in(value))  # type: ignore[no-any-return]
    if not isinstance(value, list | tuple):
        raise InvalidQuery(f"{name} takes a list of values, not {called(value)}")
    return kind([_time_in(each) for each in value])  # type: ignore[no-any-return]


def equal_form(value: Any) -> str:
    """Return the text that equal values have in common.

    Raises:
        InvalidQuery: it is neither JSON nor an aware datetime.
    """
    try:
        return comparable(_in_json(bound(value)) if isinstance(value, datetime) else value)
    except InvalidDatum as error:
        raise InvalidQuery(str(error)) from None


def bound(value: Any) -> int | float | str | datetime:
    """Return what values can stand in an order to.

    Raises:
        InvalidQuery: it is no number, text or aware datetime.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidQuery("a naive datetime is no moment: say in which zone, as datetime(..., tzinfo=UTC)")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidQuery(
            f"{called(value)} has no order: compare with a number, a text, or an aware datetime, in JSON "
            '{"$time": "2026-01-31T08:15:00Z"}'
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidQuery(f"{value} is no number that others are greater or less than")
    equal_form(value)
    return value


def _time_in(value: Any) -> Any:
    """Return the datetime that `{"$time": text}` spells, any other value as it is."""
    if not isinstance(value, Mapping) or [*value] != [TIME]:
        return value
    text = value[TIME]
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.utcoffset() is None:
        raise InvalidQuery(f"{TIME} takes ISO 8601 text with a zone, like 2026-01-31T08:15:00Z") from None
    return found


def _in_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return {TIME: value.isoformat()}
    if isinstance(value, Condition):
        return value.spelled
    if isinstance(value, Mapping):
        return {str(key): _in_json(item) for key, item in value.items()}
    return orjson.loads(canonical_json(value, "a value"))
