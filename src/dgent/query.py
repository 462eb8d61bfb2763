"""One declarative filter for every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import orjson
from blake3 import blake3

from dgent.condition_tree import Facts, Node, form_of, nodes_of
from dgent.cursor import CURSOR_CONTEXT, Position, open_cursor, seal_cursor
from dgent.error_messages import called
from dgent.exceptions import InvalidQuery
from dgent.page import Page
from dgent.validation import KEY_BYTES, check_limit, check_query_text, check_seq

if TYPE_CHECKING:
    from dgent.conditions import Condition
    from dgent.datum import Datum

Order: TypeAlias = Literal["newest", "oldest", "id", "-id", "seq", "-seq"]

DEFAULT_LIMIT: Final = 100
MAX_SECONDS: Final = 1e15  # beyond every created_at, with room for callers who mean "forever"

_OF_A_PAGE: Final = frozenset({"limit", "cursor", "offset"})
_BOUNDS: Final = frozenset({"since", "until", "after", "after_seq", "before_seq"})
_OUTSIDE: Final = _OF_A_PAGE | _BOUNDS | {"prefix", "causal_parent", "order", "as_of", "expired"}


@dataclass(frozen=True, eq=False)
class Query:
    """What to look for. All conditions must hold; an empty query matches every live datum.

    Attributes:
        schema: equals `metadata["schema"]`.
        tags: each is in `metadata["tags"]`.
        author: equals `metadata["author"]`, "system" where there is none.
        since: `since <= created_at`, an aware datetime or Unix seconds.
        until: `created_at < until`, the same.
        after: `created_at > after`, Unix seconds.
        where: path to JSON value, compared for equality, or to a condition, `Gt(3)` or `{"$gt": 3}`; or conditions
            that are joined, `AnyOf({...}, {...})` or `{"$or": [{...}, {...}]}`: `dgent.conditions` says what there is
            and what compares with what. A path starts with `metadata.` or `content.`; without either it is a path
            into the content: `{"user.address[0].city": "Bern"}`. A name with other characters is quoted:
            `metadata["a.b"]`. Equality of metadata paths with text, numbers and booleans is indexed; the database
            looks at other conditions on metadata row by row, and D-gent at those on content, which is slower. In a
            table a content path begins with a column; another is InvalidQuery there, as is an order that the type of
            the column does not have.
        prefix: the id starts with it, byte for byte.
        causal_parent: it is the id that the datum names as its cause: what came of that one.
        order: "newest" or "oldest" by (created_at, id); "id" by the id, byte for byte; "seq" in the order of the
            commits; "-id" and "-seq" the other way round. Those of ids and seqs pass what was deleted or superseded on
            their way, until it is purged or compacted. A table goes by its key, where that is not one text.
        after_seq: `seq > after_seq`, for "what is new since I last looked"; use it with the order "seq".
        before_seq: `seq < before_seq`, for what was there before that; use it with the order "-seq".
        as_of: what was live at that moment, by the store's clock, instead of what is live now: an aware datetime or
            Unix seconds. Where that clock went back, what was stored until it had caught up has the time of the last
            write before; what also expired in that time was live at no moment that history has. Pages by id and by seq
            cost the same at any size; an order by time looks at every version up to then, unless the prefix is narrow.
        expired: also what has expired and was not swept yet, for people who look after a store: `datum.expires_at`
            tells which it is. With `as_of`, what had expired by then. Of one id, `history(id)` and
            `get(id, version=n)` show it as well.
        limit: datums on a page; 0 is an empty page.
        cursor: where the previous page of the same query ended.
        offset: how many to leave out first, unless a cursor says where to begin. It costs as much as reading what it
            leaves out, and writes in between move what is left out: follow the cursors wherever you can.

    Raises:
        InvalidQuery: a filter of the wrong type, a negative limit, an unreadable path.
    """

    schema: str | None = None
    tags: frozenset[str] = frozenset()
    author: str | None = None
    since: datetime | float | None = None
    until: datetime | float | None = None
    after: float | None = None
    where: Mapping[str, Any] | Condition = field(default_factory=dict)
    prefix: str | None = None
    causal_parent: str | None = None
    order: Order = "newest"
    after_seq: int | None = None
    before_seq: int | None = None
    as_of: datetime | float | None = None
    expired: bool = False
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", _tag_set(self.tags))
        if isinstance(self.where, Mapping):
            object.__setattr__(self, "where", MappingProxyType(dict(self.where)))
        for name in ("since", "until", "after", "as_of"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("schema", "author", "prefix", "causal_parent", "cursor"):
            check_query_text(name, getattr(self, name))
        if self.order not in get_args(Order):
            raise InvalidQuery(f"order is {self.order!r}: use one of {', '.join(get_args(Order))}")
        for name in ("after_seq", "before_seq"):
            if getattr(self, name) is not None:
                check_seq(getattr(self, name), name)
        if type(self.expired) is not bool:
            raise InvalidQuery(f"expired is {type(self.expired).__name__}: use True or False")
        check_limit(self.limit)
        check_limit(self.offset, "offset")
        _ = self.conditions

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Query) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[bytes, int, str | None, int]:
        return self.fingerprint, self.limit, self.cursor, self.offset

    @cached_property
    def conditions(self) -> tuple[Node, ...]:
        """The `where` part in its one form: all of these have to hold."""
        return nodes_of(self.where)

    @cached_property
    def asked(self) -> frozenset[str]:
        """The names of the fields that are not as in an empty query."""
        return frozenset(name for name, default in self._defaults().items() if getattr(self, name) != default)

    def _defaults(self) -> Mapping[str, Any]:
        kind: Any = type(self)  # which mypy takes for one that cannot be hashed
        return _defaults(kind)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that are equal for equal filters and orders, whatever the limit and the cursor."""
        filters = {name: getattr(self, name) for name in self._defaults() if name not in _OF_A_PAGE}
        filters["where"] = form_of(self.conditions)
        spelled = b",".join(_spelled(name, value) for name, value in filters.items())
        return blake3(spelled, derive_key_context=CURSOR_CONTEXT).digest(16)

    def matches(self, datum: Datum) -> bool:
        """Tell whether a datum satisfies every condition: the meaning of a query, of which indexes are a shortcut."""
        created = datum.created_at
        return (
            (self.prefix is None or datum.id.startswith(self.prefix))
            and (self.since is None or created >= self.since)  # type: ignore[operator]  # made a float above
            and (self.until is None or created < self.until)  # type: ignore[operator]
            and (self.after is None or created > self.after)
            and (self.after_seq is None or datum.seq > self.after_seq)
            and (self.before_seq is None or datum.seq < self.before_seq)
            and (self.causal_parent is None or datum.causal_parent == self.causal_parent)
            and (not self.looks_inside or self._looks_right(datum))
        )

    @cached_property
    def looks_inside(self) -> bool:
        """Whether some condition is on more than id, time, seq and parent, which every store knows of a datum."""
        return not self.asked <= _OUTSIDE

    def _looks_right(self, datum: Datum) -> bool:
        metadata: dict[str, Any] = orjson.loads(datum.metadata_json)
        if self.schema is not None and metadata.get("schema") != self.schema:
            return False
        if self.author is not None and datum.author != self.author:
            return False
        if self.tags:
            tags = metadata.get("tags")
            if not isinstance(tags, list) or not all(map(tags.__contains__, self.tags)):
                return False
        if not self.conditions:
            return True
        facts = Facts(datum, metadata)
        for condition in self.conditions:  # noqa: SIM110  # a generator takes as long as an equality
            if not condition.holds(facts):
                return False
        return True

    def start(self) -> Position | None:
        """Return where the page begins: the position in the cursor, or None.

        Raises:
            InvalidCursor: the cursor was damaged, or belongs to a query with other filters.
        """
        return None if self.cursor is None else open_cursor(self.cursor, self.fingerprint)

    @property
    def ordered_by(self) -> Literal["time", "id", "seq"]:
        """What its order goes by."""
        return ORDERS[self.order][0]

    @property
    def descending(self) -> bool:
        """Whether its order goes from the greatest position to the smallest."""
        return ORDERS[self.order][1]

    def position(self, datum: Datum) -> Position:
        """Return the position of a datum in this query's order."""
        return self.position_of(datum.id, datum.created_at, datum.seq)

    def position_of(self, id: str, created_at: float, seq: int) -> Position:
        """Return the position of what has this id, time and seq."""
        by = self.ordered_by
        return (created_at, id) if by == "time" else (0, id) if by == "id" else (seq, "")

    def is_behind(self, position: Position, other: Position) -> bool:
        """Tell whether a position comes later than another one in this query's order."""
        return position < other if self.descending else position > other

    def cursor_at(self, position: Position) -> str:
        """Return the cursor of what comes behind a position."""
        return seal_cursor(position, self.fingerprint)

    def page(self, datums: list[Datum]) -> Page:
        """Make a page of up to `limit` of these datums; one more than that means that there is a next page."""
        if self.limit and len(datums) > self.limit:
            kept = datums[: self.limit]
            return Page(kept, self.cursor_at(self.position(kept[-1])))
        return Page(datums[: self.limit])


ORDERS: Final[Mapping[Order, tuple[Literal["time", "id", "seq"], bool]]] = {
    "newest": ("time", True),
    "oldest": ("time", False),
    "id": ("id", False),
    "-id": ("id", True),
    "seq": ("seq", False),
    "-seq": ("seq", True),
}
"""What each order goes by, and whether it descends."""


@lru_cache(maxsize=16)
def _defaults(kind: type[Any]) -> Mapping[str, Any]:
    """Return the fields of a query and what they are where nothing is asked; of a subclass its own, too.

    One that has no default is asked in every query.
    """
    return {
        each.name: each.default if each.default_factory is NO_DEFAULT else each.default_factory()
        for each in fields(kind)
    }


def _spelled(name: str, value: Any) -> bytes:
    try:
        return orjson.dumps({name: value}, default=sorted)
    except TypeError:
        kind = type(value).__name__
        raise InvalidQuery(
            f"{name} is a {kind}: use text, numbers or lists of these, which a cursor can name"
        ) from None


def checked_query(query: Query) -> Query:
    """Return a query.

    Raises:
        InvalidQuery: it is something else.
    """
    if not isinstance(query, Query):
        raise InvalidQuery(f"{called(query)} is no Query: pass Query(prefix=..., tags=..., limit=...)")
    return query


LAST_TEXT: Final = "\U0010ffff" * (KEY_BYTES // 4 + 1)
"""Greater than every id and every namespace that a store can hold."""


def prefix_end(prefix: str) -> str | None:
    """Return the smallest text above all that starts with `prefix`, in code point order; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at]) + 1
        if code == 0xD800:  # surrogates are not text: the next character is U+E000
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:at] + chr(code)
    return None


def _seconds(name: str, value: datetime | float | None) -> float | None:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidQuery(f"{name} is a naive datetime: say in which zone, as datetime(..., tzinfo=UTC)")
        return value.timestamp() + 0.0
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_SECONDS:
        raise InvalidQuery(f"{name} is no moment: use an aware datetime or Unix seconds")
    return float(value) + 0.0  # there is one zero


def _tag_set(tags: object) -> frozenset[str]:
    if not isinstance(tags, str | Iterable):
        raise InvalidQuery(f"tags are {type(tags).__name__}, not texts")
    found = [tags] if isinstance(tags, str) else list(tags)
    for tag in found:
        if tag is None:
            raise InvalidQuery("a tag is text, not None")
        check_query_text("tags", tag)
    return frozenset(found)
