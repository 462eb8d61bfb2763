"""What conditions mean: the one form that all spellings have, and whether it holds for a datum.

Whatever finds datums by an index or in SQL finds at least those for which this holds, and confirms them by it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from dgent.conditions import (
    AllOf,
    AnyOf,
    Condition,
    Eq,
    Exists,
    In,
    Ne,
    Not,
    bound,
    equal_form,
    from_spelling,
)
from dgent.exceptions import InvalidQuery
from dgent.jsonvalue import MAX_DEPTH, MISSING, follow, parse_path, stored_comparable

if TYPE_CHECKING:
    from dgent.datum import Datum

Root: TypeAlias = Literal["metadata", "content"]
Path: TypeAlias = "tuple[str | int, ...]"
Node: TypeAlias = "Test | All | Some | No"

MOST_TESTS: Final = 1000
"""How many comparisons a query may have; a list of values counts as one of them."""
MOST_VALUES: Final = 10_000
"""How many values an `In` may have."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)", re.ASCII)
_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


class Moment(NamedTuple):
    """A moment as whole microseconds since 1970, in UTC."""

    micros: int


class Facts:
    """What conditions look at: the metadata of a datum, and its content once that is asked for."""

    __slots__ = ("_content", "_datum", "_metadata")

    def __init__(self, datum: Datum, metadata: dict[str, Any]) -> None:
        self._datum, self._metadata = datum, metadata
        self._content: Any = None

    def at(self, root: Root, path: Path) -> Any:
        """Return what a path leads to, or `MISSING`."""
        return follow(self._metadata if root == "metadata" else self._read(), path)

    def _read(self) -> Any:
        if self._content is None:
            try:
                self._content = orjson.loads(self._datum.content)
            except orjson.JSONDecodeError:
                self._content = MISSING
        return self._content


class Test(NamedTuple):
    """What the value at a path is asked.

    Attributes:
        name: "in", "gt", "ge", "lt", "le" or "exists".
        value: of "in" the `equal_form` of each value, of an order its bound, of "exists" None.
    """

    root: Root
    path: Path
    name: str
    value: frozenset[str] | int | float | str | Moment | None

    def holds(self, facts: Facts) -> bool:
        """Tell whether it holds."""
        root, path, name, value = self
        found = facts.at(root, path)
        if found is MISSING:
            return False
        if name == "in":
            return stored_comparable(found) in value  # type: ignore[operator]  # it is a set
        return name == "exists" or _stands(name, found, value)

    @property
    def form(self) -> Any:
        """What equal ones have in common, in JSON."""
        value: Any = self.value
        if isinstance(value, frozenset):
            value = sorted(value)
        elif isinstance(value, Moment):
            value = [value.micros]
        return [self.root, self.path, self.name, value]


class All(NamedTuple):
    """All of these hold."""

    parts: tuple[Node, ...]

    def holds(self, facts: Facts) -> bool:
        """Tell whether it holds."""
        return all(part.holds(facts) for part in self.parts)

    @property
    def form(self) -> Any:
        """What equal ones have in common, in JSON."""
        return ["all", form_of(self.parts)]


class Some(NamedTuple):
    """At least one of these holds."""

    parts: tuple[Node, ...]

    def holds(self, facts: Facts) -> bool:
        """Tell whether it holds."""
        return any(part.holds(facts) for part in self.parts)

    @property
    def form(self) -> Any:
        """What equal ones have in common, in JSON."""
        return ["some", form_of(self.parts)]


class No(NamedTuple):
    """This does not hold."""

    part: Node

    def holds(self, facts: Facts) -> bool:
        """Tell whether it holds."""
        return not self.part.holds(facts)

    @property
    def form(self) -> Any:
        """What equal ones have in common, in JSON."""
        return ["no", self.part.form]


def form_of(parts: Iterable[Node]) -> list[str]:
    """Return what the same nodes in any order have in common."""
    return sorted(orjson.dumps(part.form).decode() for part in parts)


def nodes_of(where: Any) -> tuple[Node, ...]:
    """Return what `where` says: all of these have to hold.

    Raises:
        InvalidQuery: it is no condition, nor a mapping of paths to conditions or values.
    """
    node = _of_where(where, 0)
    if (count := sum(1 for _ in tests_in((node,)))) > MOST_TESTS:
        raise InvalidQuery(f"where has {count:,} conditions, more than {MOST_TESTS:,}: ask in several queries")
    return node.parts if isinstance(node, All) else (node,)


def tests_in(nodes: Iterable[Node]) -> Iterable[Test]:
    """Go through every test in some nodes."""
    for node in nodes:
        if isinstance(node, Test):
            yield node
        else:
            yield from tests_in((node.part,) if isinstance(node, No) else node.parts)


def moment_in(text: str) -> Moment | None:
    """Return the moment that a text is in ISO 8601, with a date, a time and a zone; None for any other text."""
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return _moment(datetime.fromisoformat(text))
    except ValueError:
        return None


def _stands(name: str, found: Any, bound: Any) -> bool:
    if isinstance(bound, Moment):
        found = moment_in(found) if type(found) is str else None
        return found is not None and _ORDERS[name](found, bound)
    comparable = type(found) is str if isinstance(bound, str) else type(found) in {int, float}
    return comparable and _ORDERS[name](found, bound)


def _moment(value: datetime) -> Moment:
    return Moment((value - EPOCH) // _MICROSECOND)


def _of_where(spec: Any, depth: int) -> Node:
    """Read what stands in place of a `where`."""
    _check_depth(depth)
    if isinstance(spec, AllOf | AnyOf | Not):
        return _joined(spec, partial(_of_where, depth=depth + 1))
    if isinstance(spec, Condition):
        raise InvalidQuery(f"{spec!r:.80} stands at no path: write {{path: {spec!r:.80}}}")
    if not isinstance(spec, Mapping):
        raise InvalidQuery(f"where is {type(spec).__name__}, not a mapping of paths to values")
    return _all(_of_entry(name, value, depth) for name, value in spec.items())


def _of_entry(name: Any, value: Any, depth: int) -> Node:
    if isinstance(name, str) and name.startswith("$"):
        return _of_where(from_spelling(name, value, at_path=False), depth)
    root, path = _rooted(parse_path(name))
    try:
        return _at(root, path, value, depth)
    except InvalidQuery as error:
        raise InvalidQuery(f"where[{name!r:.200}]: {error}") from None


def _at(root: Root, path: Path, spec: Any, depth: int) -> Node:
    """Read what stands at a path: a condition, the spelling of one, or the value that it equals."""
    _check_depth(depth)
    if isinstance(spec, AllOf | AnyOf | Not):
        return _joined(spec, lambda part: _at(root, path, part, depth + 1))
    if isinstance(spec, Condition):
        return _leaf(root, path, spec)
    marked = {isinstance(name, str) and name.startswith("$") for name in spec} if isinstance(spec, Mapping) else set()
    if marked == {True, False}:
        raise InvalidQuery('an object has names with $ and names without: compare with it by {"$eq": {...}}')
    if marked == {True}:
        spelled = (from_spelling(name, value, at_path=True) for name, value in spec.items())
        return _all(_at(root, path, condition, depth + 1) for condition in spelled)
    return _equal(root, path, spec)


def _joined(condition: AllOf | AnyOf | Not, read: Callable[[Any], Node]) -> Node:
    if isinstance(condition, Not):
        return No(read(condition.part))
    parts = map(read, condition.parts)
    return _all(parts) if isinstance(condition, AllOf) else Some(tuple(parts))


def _all(nodes: Iterable[Node]) -> Node:
    """Join nodes, of which each may be joined itself."""
    flat: list[Node] = []
    for node in nodes:
        flat += node.parts if isinstance(node, All) else (node,)
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def _leaf(root: Root, path: Path, condition: Condition) -> Node:
    if isinstance(condition, Eq):
        return _equal(root, path, condition.value)
    if isinstance(condition, Ne):
        return No(_equal(root, path, condition.value))
    if isinstance(condition, In):
        return _in(root, path, condition.values)
    if isinstance(condition, Exists):
        there = Test(root, path, "exists", None)
        return there if condition.there else No(there)
    ordered: Any = condition
    return Test(root, path, ordered.spelling[1:], _bound(ordered.value))


def _equal(root: Root, path: Path, value: Any) -> Node:
    if isinstance(value, datetime):
        moment = _bound(value)
        return All((Test(root, path, "ge", moment), Test(root, path, "le", moment)))
    return Test(root, path, "in", frozenset([equal_form(value)]))


def _in(root: Root, path: Path, values: tuple[Any, ...]) -> Node:
    if len(values) > MOST_VALUES:
        raise InvalidQuery(f"a list has {len(values):,} values, more than {MOST_VALUES:,}: ask in several queries")
    plain = [equal_form(value) for value in values if not isinstance(value, datetime)]
    moments = [_equal(root, path, value) for value in values if isinstance(value, datetime)]
    member = Test(root, path, "in", frozenset(plain))
    return Some((member, *moments)) if moments else member


def _bound(value: Any) -> int | float | str | Moment:
    """Return a bound as it is compared: 1.0 is 1."""
    checked = bound(value)
    return _moment(checked) if isinstance(checked, datetime) else orjson.loads(equal_form(checked))


def _rooted(path: Path) -> tuple[Root, Path]:
    if len(path) > 1 and path[0] == "metadata":
        return "metadata", path[1:]
    return "content", path[1:] if len(path) > 1 and path[0] == "content" else path


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidQuery(f"where is nested deeper than {MAX_DEPTH} levels")
