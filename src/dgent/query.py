"""One declarative filter for every backend, and the pages and cursors that its answers come in."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

import orjson
from blake3 import blake3

from dgent.datum import Datum
from dgent.exceptions import Corrupt, InvalidCursor, InvalidDatum, InvalidQuery
from dgent.validation import MAX_DEPTH, called, canonical_json, check_id, check_limit

Order: TypeAlias = Literal["newest", "oldest", "seq"]
Position: TypeAlias = "tuple[float | int, str]"
"""Where a page ended: (created_at, id), or (seq, "") in the order "seq"."""

DEFAULT_LIMIT: Final = 100
MAX_PATH: Final = 1000
MAX_SECONDS: Final = 1e15  # beyond every created_at, with room for callers who mean "forever"
_MISSING: Final = object()
_STEP: Final = re.compile(
    r"""\[(?:(?P<index>-?\d{1,9})|(?P<quoted>"(?:[^"\\]|\\.)*"))\]|(?P<dot>\.)?(?P<name>[^.\[\]"]+)"""
)


class Damaged(NamedTuple):
    """A stored version that is not what was written. What it says of itself cannot be trusted.

    Attributes:
        id, version: as they are stored.
        reason: what is wrong with it.
        content: the bytes that are stored, for whoever wants to save what can be saved.
    """

    id: str
    version: int
    reason: str
    content: bytes = b""


class Page(list[Datum]):
    """A list of datums that knows how to go on.

    Attributes:
        cursor: pass it to the same call for the next page; None means the end.
        damaged: what would stand on this page, if it were whole.
    """

    __slots__ = ("cursor", "damaged")

    def __init__(
        self,
        datums: Iterator[Datum] | list[Datum] = (),  # type: ignore[assignment]
        cursor: str | None = None,
        damaged: tuple[Damaged, ...] = (),
    ) -> None:
        super().__init__(datums)
        self.cursor, self.damaged = cursor, damaged

    def whole(self) -> Self:
        """Return the page, if nothing was left out of it: what copies or changes all that it reads asks for that.

        Raises:
            Corrupt: something was; the message names the first.
        """
        if self.damaged:
            id, version, reason, _ = self.damaged[0]
            raise Corrupt(
                f"version {version} of {id!r:.200} is not what was written ({reason}), and {len(self.damaged) - 1:,} "
                "more are not: restore them from a backup, or purge them"
            )
        return self


@dataclass(frozen=True, eq=False)
class Query:
    """What to look for. All conditions must hold; an empty query matches every live datum.

    Attributes:
        schema: equals `metadata["schema"]`.
        tags: each is in `metadata["tags"]`.
        author: equals `metadata["author"]`, "system" where there is none.
        since, until: `since <= created_at < until`; aware datetimes or Unix seconds.
        after: `created_at > after`, Unix seconds.
        where: path to JSON value, compared for equality. A path starts with `metadata.` or `content.`; without either
            it is a path into the content: `{"user.address[0].city": "Bern"}`. A name with other characters is quoted:
            `metadata["a.b"]`. Metadata paths to text, numbers and booleans are indexed, content paths are not.
        prefix: the id starts with it, byte for byte.
        order: "newest" or "oldest" by (created_at, id), or "seq": in the order of the commits.
        after_seq: `seq > after_seq`, for "what is new since I last looked"; use it with the order "seq".
        limit: datums on a page; 0 is an empty page.
        cursor: where the previous page of the same query ended.

    Raises:
        InvalidQuery: a filter of the wrong type, a negative limit, an unreadable path.
    """

    schema: str | None = None
    tags: frozenset[str] = frozenset()
    author: str | None = None
    since: datetime | float | None = None
    until: datetime | float | None = None
    after: float | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    order: Order = "newest"
    after_seq: int | None = None
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", _tag_set(self.tags))
        if not isinstance(self.where, Mapping):
            raise InvalidQuery(f"where is {type(self.where).__name__}, not a mapping of paths to values")
        object.__setattr__(self, "where", MappingProxyType(dict(self.where)))
        for name in ("since", "until", "after"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("schema", "author", "prefix", "cursor"):
            _check_text(name, getattr(self, name))
        if self.order not in get_args(Order):
            raise InvalidQuery(f"order is {self.order!r}: use one of {', '.join(get_args(Order))}")
        if self.after_seq is not None and not (type(self.after_seq) is int and abs(self.after_seq) < 2**63):
            raise InvalidQuery("after_seq is an integer of 64 bits")
        check_limit(self.limit)
        _ = self.conditions

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Query) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[bytes, int, str | None]:
        return self.fingerprint, self.limit, self.cursor

    @cached_property
    def conditions(self) -> tuple[tuple[Literal["metadata", "content"], tuple[str | int, ...], str], ...]:
        """The `where` part as (root, path inside of it, canonical JSON)."""
        found = []
        for text, value in self.where.items():
            root, path = _rooted(parse_path(text))
            try:
                found.append((root, path, comparable(value, f"where[{text!r}]")))
            except InvalidDatum as error:
                raise InvalidQuery(str(error)) from None
        return tuple(found)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that are equal for equal filters and orders, whatever the limit and the cursor."""
        where = sorted(orjson.dumps(condition).decode() for condition in self.conditions)
        times = [self.since, self.until, self.after, self.after_seq]
        named = [self.schema, sorted(self.tags), self.author, self.prefix, self.order]
        return blake3(orjson.dumps([named, times, where]), derive_key_context=_CURSOR).digest(16)

    def matches(self, datum: Datum) -> bool:
        """Tell whether a datum satisfies every condition: the meaning of a query, of which indexes are a shortcut."""
        created = datum.created_at
        return (
            (self.prefix is None or datum.id.startswith(self.prefix))
            and (self.since is None or created >= self.since)  # type: ignore[operator]  # made a float above
            and (self.until is None or created < self.until)  # type: ignore[operator]
            and (self.after is None or created > self.after)
            and (self.after_seq is None or datum.seq > self.after_seq)
            and self.looks_right(datum)
        )

    @cached_property
    def looks_inside(self) -> bool:
        """Whether some condition is on the metadata or the content."""
        return bool(self.tags or self.schema is not None or self.author is not None or self.conditions)

    def looks_right(self, datum: Datum) -> bool:
        """Tell whether a datum satisfies the conditions on its metadata and content."""
        if not self.looks_inside:
            return True
        metadata: dict[str, Any] = orjson.loads(datum.metadata_json)
        if self.schema is not None and metadata.get("schema") != self.schema:
            return False
        if self.author is not None and datum.author != self.author:
            return False
        if self.tags:
            tags = metadata.get("tags")
            if not isinstance(tags, list) or not all(map(tags.__contains__, self.tags)):
                return False
        return not self.conditions or self._where_holds(datum, metadata)

    def _where_holds(self, datum: Datum, metadata: dict[str, Any]) -> bool:
        content: Any = _MISSING
        for root, path, expected in self.conditions:
            if root == "content" and content is _MISSING:
                try:
                    content = orjson.loads(datum.content)
                except orjson.JSONDecodeError:
                    return False
            found = follow(metadata if root == "metadata" else content, path)
            if found is _MISSING or _as_comparable(found) != expected:
                return False
        return True

    def start(self) -> Position | None:
        """Return where the page begins: the position in the cursor, or None.

        Raises:
            InvalidCursor: the cursor was damaged, or belongs to a query with other filters.
        """
        return None if self.cursor is None else open_cursor(self.cursor, self.fingerprint)

    def position(self, datum: Datum) -> Position:
        """Return the position of a datum in this query's order."""
        return (datum.seq, "") if self.order == "seq" else (datum.created_at, datum.id)

    def page(self, datums: list[Datum]) -> Page:
        """Make a page of up to `limit` of these datums; one more than that means that there is a next page."""
        if self.limit and len(datums) > self.limit:
            kept = datums[: self.limit]
            return Page(kept, seal_cursor(self.position(kept[-1]), self.fingerprint))
        return Page(datums[: self.limit])


def checked_query(query: Query) -> Query:
    """Return a query.

    Raises:
        InvalidQuery: it is something else.
    """
    if not isinstance(query, Query):
        raise InvalidQuery(f"{called(query)} is no Query: pass Query(prefix=..., tags=..., limit=...)")
    return query


def parse_path(text: str) -> tuple[str | int, ...]:
    """Read `user.address[0].city` or `a["b.c"]` into its steps: str for a key, int for an index.

    Raises:
        InvalidQuery: the text is not a path; the message shows where it stops being one.
    """
    _check_text("a path", text)
    if not isinstance(text, str) or len(text) > MAX_PATH:
        raise InvalidQuery(f"a path is a text of up to {MAX_PATH:,} characters")
    return _steps(text)


@lru_cache(maxsize=1024)
def _steps(text: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None or (step["name"] is not None and (step["dot"] is None) != (at == 0)):
            break
        at = step.end()
        if step["index"] is not None:
            steps.append(int(step["index"]))
        else:
            steps.append(step["name"] if step["quoted"] is None else _unquote(text, step["quoted"]))
    if not steps or at < len(text):
        raise InvalidQuery(f'{text[:200]!r} is not a path at character {at + 1}: write a.b[0].c or a["b.c"]')
    return tuple(steps)


def _unquote(text: str, quoted: str) -> str:
    try:
        name: str = orjson.loads(quoted)
    except orjson.JSONDecodeError:
        raise InvalidQuery(f"{text[:200]!r}: {quoted[:80]} is not a quoted name") from None
    _check_text("a path", name)
    return name


def follow(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what the path leads to in a JSON value, or a marker that equals nothing."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return _MISSING
        if value is _MISSING:
            return _MISSING
    return value


def comparable(value: Any, where: str = "value") -> str:
    """Return canonical JSON in which 1 and 1.0 are the same text and true and 1 are not.

    Raises:
        InvalidDatum: the value is not JSON.
    """
    return canonical_json(_integral(value), where)


def comparable_or_none(value: Any) -> str | None:
    """Return `comparable(value)`, or None for a stored JSON value that metadata could not hold."""
    try:
        return comparable(value)
    except InvalidDatum:
        return None


def _as_comparable(value: Any) -> str | None:
    """Return `comparable_or_none(value)`, in a tenth of its time for the text or integer that a value mostly is."""
    if type(value) is str or type(value) is int:
        return orjson.dumps(value).decode()
    return comparable_or_none(value)


def _integral(value: Any, depth: int = 0) -> Any:
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value < 2**63:
        return int(value)
    if depth > MAX_DEPTH:  # canonical_json refuses it in a moment; until then it must not overflow the stack
        return value
    if isinstance(value, dict):
        return {key: _integral(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_integral(item, depth + 1) for item in value]
    return value


def _rooted(path: tuple[str | int, ...]) -> tuple[Literal["metadata", "content"], tuple[str | int, ...]]:
    if len(path) > 1 and path[0] == "metadata":
        return "metadata", path[1:]
    return "content", path[1:] if len(path) > 1 and path[0] == "content" else path


def prefix_end(prefix: str) -> str | None:
    """Return the smallest text above all that starts with `prefix`, in code point order; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at]) + 1
        if code == 0xD800:  # surrogates are not text: the next character is U+E000
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:at] + chr(code)
    return None


_CURSOR: Final = "dgent 2026-11 cursor v1"


def seal_cursor(position: Position, fingerprint: bytes) -> str:
    """Write a position as a cursor that only the same query opens: URL-safe text."""
    body = orjson.dumps(position)
    return _spelled(_seal(body, fingerprint) + body)


def open_cursor(cursor: str, fingerprint: bytes) -> Position:
    """Return the position that a cursor holds.

    Raises:
        InvalidCursor: the cursor was damaged, or belongs to another query.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        seal, body = raw[:16], raw[16:]
        if seal != _seal(body, fingerprint) or cursor != _spelled(raw):  # base64 has several spellings of some bytes
            raise InvalidCursor("the cursor belongs to another query, or was damaged: start again without it")
        at, id = orjson.loads(body)
        _check_position(at, id)
    except (binascii.Error, ValueError, TypeError) as error:
        if isinstance(error, InvalidCursor):
            raise
        raise InvalidCursor("that is not a cursor: start again without it") from None
    return at, id


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _check_position(at: object, id: object) -> None:
    # The seal has no secret in it: whoever reads this file can make one, but not for what a database would choke on.
    if type(at) not in {int, float} or not -(2**63) <= at < 2**63:  # type: ignore[operator]
        raise ValueError("no position")
    if id != "":
        check_id(id)


def _seal(body: bytes, fingerprint: bytes) -> bytes:
    return blake3(fingerprint + body, derive_key_context=_CURSOR).digest(16)


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
        _check_text("tags", tag)
    return frozenset(found)


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidQuery(f"{name} is {type(value).__name__}, not str")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidQuery(f"{name} holds a NUL or a lone surrogate, which no stored text does")
