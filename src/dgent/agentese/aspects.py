"""What can be asked of a store by path: each verb, the right and the capability it needs, and its arguments."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.exceptions import InvalidInput, InvalidQuery
from dgent.jsonvalue import canonical_json
from dgent.operations import Delete, Operation, Purge, Put, Touch
from dgent.query import Query

if TYPE_CHECKING:
    from dgent.agentese.umwelt import Right
    from dgent.operations import TTL
    from dgent.store import DgentProtocol

Convert: TypeAlias = Callable[[Any], Any]
"""Reads one argument; raises ValueError (InvalidInput is one) with what it should be."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """One verb, reached by its name at the end of a path.

    `needed` and `optional` are its arguments; `capability` is the one that a store must have.
    """

    name: str
    right: Right
    verb: Callable[..., Callable[..., Awaitable[Any]]]
    needed: Mapping[str, Convert] = field(default_factory=dict)
    optional: Mapping[str, Convert] = field(default_factory=dict)
    capability: str | None = None

    def read(self, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the verb takes them; None stands for an optional one that was left out.

        Raises:
            InvalidQuery: an argument is unknown, missing, or not what it should be; the message names it.
        """
        known = {**self.needed, **self.optional}
        arguments = {name: value for name, value in given.items() if value is not None or name in self.needed}
        if unknown := given.keys() - known.keys():
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidQuery(f"{path} has no argument {min(unknown)!r}: {takes}")
        if missing := [name for name in self.needed if name not in arguments]:
            raise InvalidQuery(f"{path} needs the argument {missing[0]!r}")
        return {name: _converted(path, name, known[name], value) for name, value in arguments.items()}


def _converted(path: str, name: str, convert: Convert, value: Any) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise InvalidQuery(f"{path}: {name}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"it is text, not {type(value).__name__}")
    return value


def _number(value: Any) -> int | float:
    found = _json(value, "a number") if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise InvalidInput(f"it is a number, not {type(found).__name__}")
    return found


def _ttl(value: Any) -> TTL:
    return "keep" if value == "keep" else _number(value)


def _seconds(value: Any) -> float | None:
    """Read a time to live that is no matter of a live one: seconds, or None for good."""
    return None if value is None or value == "null" else _number(value)


def _whole(value: Any) -> int:
    found = _number(value)
    if not isinstance(found, int):
        raise InvalidInput("it is a whole number")
    return found


def _flag(value: Any) -> bool:
    found = _json(value, "true or false") if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise InvalidInput(f"it is true or false, not {type(found).__name__}")
    return found


def _moment(value: Any) -> Any:
    """Read a time: Unix seconds, an aware datetime, or ISO 8601 text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return _number(value)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidInput("it has no time zone: end it with Z or +00:00")
        return value.timestamp()
    return _number(value)


def _datum(value: Any) -> Datum:
    """Read a datum: one, or its record as `Datum.to_dict` gives it; `id` and `created_at` may be left out.

    `data`, any JSON value, may stand for `text`.
    """
    if isinstance(value, Datum):
        return value
    record = _object(value)
    if "data" in record:
        record["text"] = canonical_json(record.pop("data"), "data")
    return Datum.from_dict({"id": uuid7(), "created_at": time.time(), **record})


def _datums(value: Any) -> list[Datum]:
    return [_datum(item) for item in _several(value)]


def _operations(value: Any) -> list[Operation]:
    """Read operations: each one, or a mapping with `put` (a datum), `delete` or `touch` (an id), and what goes with it.

    None of them is a purge: that takes a right of its own, which `purge_many` asks for.
    """
    return [_operation(item) for item in _several(value)]


def _operation(value: Any) -> Operation:
    if isinstance(value, Put | Delete | Touch):
        return value
    if isinstance(value, Purge):
        raise InvalidInput("a purge needs a right of its own: use purge_many")
    record = _object(value)
    expect = _whole(record["expect"]) if record.get("expect") is not None else None
    match record:
        case {"put": datum, **rest} if rest.keys() <= {"expect", "ttl"}:
            ttl = rest.get("ttl")
            return Put(_datum(datum), expect, None if ttl is None else _ttl(ttl))
        case {"delete": id, **rest} if rest.keys() <= {"expect", "author", "reason"}:
            return Delete(_text(id), expect, rest.get("author"), rest.get("reason"))
        case {"touch": id, "ttl": ttl, **rest} if rest.keys() <= {"expect"}:
            return Touch(_text(id), None if ttl is None else _number(ttl), expect)
    raise InvalidInput(
        "an operation is {'put': <datum>}, {'delete': <id>} or {'touch': <id>, 'ttl': <seconds>}, with 'expect'; and "
        "'ttl' for a put, 'author' and 'reason' for a delete"
    )


def _ids(value: Any) -> list[str]:
    return [_text(item) for item in _several(value)]


def _query(value: Any) -> Query:
    if isinstance(value, Query):
        return value
    record = _object(value)
    if unknown := record.keys() - _QUERY_FIELDS:
        raise InvalidInput(f"a query has no {min(map(str, unknown))!r}; its fields are {', '.join(_QUERY_FIELDS)}")
    for name in ("since", "until", "as_of"):
        if isinstance(record.get(name), str):
            record[name] = _moment(record[name])
    return Query(**record)


_QUERY_FIELDS: Final = {entry.name: None for entry in fields(Query)}


def _object(value: Any) -> dict[str, Any]:
    found = _json(value, "a JSON object") if isinstance(value, str | bytes) else value
    if not isinstance(found, Mapping):
        raise InvalidInput(f"it is a mapping or a JSON object, not {type(found).__name__}")
    return dict(found)


def _several(value: Any) -> list[Any]:
    found = _json(value, "a JSON list") if isinstance(value, str | bytes) else value
    if isinstance(found, Mapping) or not isinstance(found, Iterable):
        raise InvalidInput(f"it is a list, not {type(found).__name__}")
    return list(found)


def _json(text: str | bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidInput(f"that text is not {what}") from None


_TOLD: Final[Mapping[str, Convert]] = {"author": _text, "reason": _text}
_PAGE: Final[Mapping[str, Convert]] = {"prefix": _text, "limit": _whole, "cursor": _text}
_CHANGES: Final[Mapping[str, Convert]] = {"until": _whole, "limit": _whole}
_CHAIN: Final[Mapping[str, Convert]] = {
    "version": _whole,
    "as_of": _moment,
    "limit": _whole,
    "newest_first": _flag,
}

_SEQS: Final[Mapping[str, Convert]] = {"after_seq": _whole, "before_seq": _whole}

# Dispatch goes through this table alone: no text of a path ever becomes the name of an attribute.
ASPECTS: Final[Mapping[str, Aspect]] = {
    aspect.name: aspect
    for aspect in (
        Aspect("put", "write", lambda s: s.put, {"datum": _datum}, {"expect": _whole, "ttl": _ttl}),
        Aspect("put_many", "write", lambda s: s.put_many, {"datums": _datums}, {"expect": _whole, "ttl": _ttl}),
        Aspect("apply", "write", lambda s: s.apply, {"operations": _operations}),
        Aspect("get", "read", lambda s: s.get, {"id": _text}, {"version": _whole}),
        Aspect("get_many", "read", lambda s: s.get_many, {"ids": _ids}),
        Aspect("touch", "write", lambda s: s.touch, {"ids": _ids, "ttl": _seconds}, capability="ttl"),
        Aspect("delete", "write", lambda s: s.delete, {"id": _text}, {"expect": _whole, **_TOLD}),
        Aspect("delete_many", "write", lambda s: s.delete_many, {"ids": _ids}),
        Aspect("exists", "read", lambda s: s.exists, {"id": _text}),
        Aspect("count", "read", lambda s: s.count, {}, {"prefix": _text}),
        Aspect("list", "read", lambda s: s.list, {}, {**_PAGE, "after": _number, "order": _text, **_SEQS}),
        Aspect("keys", "read", lambda s: s.keys, {}, {**_PAGE, "order": _text}),
        Aspect("segments", "read", lambda s: s.segments, {}, {**_PAGE, "delimiter": _text, "depth": _whole}),
        Aspect("query", "read", lambda s: s.query, {"query": _query}),
        Aspect("causal_chain", "read", lambda s: s.causal_chain, {"id": _text}, _CHAIN, "causal"),
        Aspect("history", "read", lambda s: s.history, {"id": _text}, {"limit": _whole, "before": _whole}, "history"),
        Aspect("as_of", "read", lambda s: s.as_of, {"time": _moment}, _PAGE, "history"),
        Aspect("head", "read", lambda s: s.head, capability="history"),
        Aspect("seq_at", "read", lambda s: s.seq_at, {"time": _moment}, capability="history"),
        Aspect("changes", "read", lambda s: s.changes, {"after_seq": _whole}, _CHANGES, "history"),
        Aspect("purge", "purge", lambda s: s.purge, {"id": _text}),
        Aspect("purge_many", "purge", lambda s: s.purge_many, {"ids": _ids}),
    )
}


def capable(store: DgentProtocol, aspect: Aspect) -> bool:
    """Tell whether the store has the capability that an aspect needs."""
    return aspect.capability is None or not store.capabilities.missing(aspect.capability)
