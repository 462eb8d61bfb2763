"""Rows as instances of their model: from a datum to an object that code can change, and back."""

from __future__ import annotations

import time
from typing import Any

import orjson
from sqlalchemy import inspect
from sqlalchemy.orm.attributes import set_committed_value

from dgent.bridge.column import CANONICAL, ColumnMapping, shown
from dgent.bridge.from_datum import given_by
from dgent.bridge.mapping import TableMapping, as_utc
from dgent.bridge.row_id import as_id, id_from
from dgent.datum import Datum
from dgent.exceptions import InvalidRow


def instance_of(mapping: TableMapping, datum: Datum) -> Any:
    """Return the instance that a row's datum describes; it belongs to no session.

    Raises:
        InvalidRow: the datum does not fit the columns.
    """
    mapper = inspect(mapping.model)
    instance = mapper.class_manager.new_instance()
    for name, value in given_by(mapping, datum).items():
        set_committed_value(instance, name, value)
    if mapping.version is not None:
        set_committed_value(instance, mapper.get_property_by_column(mapping.version).key, datum.version)
    return instance


def datum_from(mapping: TableMapping, instance: Any, *, created_at: float | None = None) -> Datum:
    """Return the datum of the row that an instance describes: the columns that it has set.

    A column that it has not set takes its default when the datum is put; `created_at` (Unix seconds, now unless it is
    given) stands for a time that it has not set.

    Raises:
        InvalidRow: a part of the key is not set, or a value has no form in JSON.
    """
    if not isinstance(instance, mapping.model):
        raise InvalidRow(
            mapping.name, None, f"a row is an instance of {mapping.model.__name__}, not {type(instance).__name__}"
        )
    held = inspect(instance).dict
    content = {field.name: cell(mapping, field, held[field.name]) for field in mapping.fields if field.name in held}
    for field in mapping.keys:
        if content.get(field.name) is None:
            raise InvalidRow(mapping.name, field.name, "is not set, and it names the row")
    created = held.get(mapping.created.name) if mapping.created else None
    at = created_at if created is None else as_utc(created).timestamp()
    return Datum(
        id=id_from([content[field.name] for field in mapping.keys]),
        content=_encoded(mapping, content),
        created_at=time.time() if at is None else at,
        causal_parent=as_id(content.get(mapping.parent.name)) if mapping.parent else None,
    )


def cell(mapping: TableMapping, field: ColumnMapping, value: Any) -> Any:
    """Return the JSON form of a Python value in a column; datetimes stay as they are.

    Raises:
        InvalidRow: the column does not take it.
    """
    try:
        return shown(field, value)
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        raise InvalidRow(
            mapping.name, field.name, f"is {type(value).__name__}, which the column does not take"
        ) from None


def _encoded(mapping: TableMapping, content: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(content, option=CANONICAL)
    except (TypeError, ValueError) as error:
        raise InvalidRow(mapping.name, None, f"has no form in JSON: {error}") from None
