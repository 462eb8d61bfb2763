"""The id of a row: text as it is, other types in their JSON form, a key of several columns as a JSON array: `["a",1]`.

Each has one spelling, that which a read gives. Another spelling of it is refused, with that one in the message: it
would be another id to everybody who compares them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from dgent.bridge.column import CANONICAL, shown
from dgent.bridge.column_codec import is_text
from dgent.exceptions import InvalidRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.bridge.column import ColumnMapping


def as_id(part: Any) -> str | None:
    """Return the JSON form of a key as an id."""
    return part if part is None or isinstance(part, str) else orjson.dumps(part, option=CANONICAL).decode().strip('"')


def id_from(key: Sequence[Any]) -> str:
    """Return the id that the JSON forms of a key make; different keys make different ids."""
    return as_id(key[0]) or "" if len(key) == 1 else orjson.dumps(key, option=CANONICAL).decode()


def key_in(table: str, fields: Sequence[ColumnMapping], id: str) -> list[Any] | None:
    """Return the Python values of the columns that an id is made of, or None if no row of the table can have it.

    Raises:
        InvalidRow: it is another spelling of an id, which the message names.
    """
    try:
        parts = [id] if len(fields) == 1 else orjson.loads(id)
        if not isinstance(parts, list):
            return None
        key = [_value(field, part) for field, part in zip(fields, parts, strict=True)]
        own = id_from([shown(field, part) for field, part in zip(fields, key, strict=True)])
    except (ValueError, ArithmeticError):  # a number too large for its type
        return None
    if own != id:
        names = ", ".join(field.name for field in fields)
        raise InvalidRow(table, names, f"the id {id[:80]!r} has another spelling here: write {own!r}")
    return key


def _value(field: ColumnMapping, part: Any) -> Any:
    """Return the value that a part of an id means, however it is spelled; in text there may be a number, or true."""
    try:
        return field.form.load(part)
    except (ValueError, ArithmeticError):
        if not isinstance(part, str) or is_text(field.column.type):
            raise
    for read in (orjson.loads, int, float):
        with suppress(ValueError, ArithmeticError):
            return field.form.load(read(part))
    raise ValueError("is no value of the column")
