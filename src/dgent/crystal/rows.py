"""A crystal as a row of a typed table, and a row as a crystal.

The fields of the contract are columns of the same names; id, time and cause of the datum are those of the row, to the
microsecond. `tags` and `about` take what else the datum says of itself; a table without them refuses a crystal that
would lose something.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from pydantic_core import from_json, to_json
from sqlalchemy import JSON

from dgent.bridge.column import CANONICAL
from dgent.bridge.column_codec import unwrapped
from dgent.bridge.from_datum import given_by, loaded
from dgent.bridge.orm import cell
from dgent.crystal.crystal import SCHEMA, VERSION, Crystal, labels_of
from dgent.datum import Datum
from dgent.exceptions import InvalidCrystal, InvalidRow

if TYPE_CHECKING:
    from dgent.bridge.column import ColumnMapping
    from dgent.bridge.mapping import TableMapping
    from dgent.crystal.schema import Schema

T = TypeVar("T")

ABOUT: Final = "about"
"""The column for what a datum says of itself that has no column of its own."""


def row_of(crystal: Crystal[Any], mapping: TableMapping) -> Datum:
    """Return the row that a crystal is, as the datum that `TableAdapter.put` takes.

    Raises:
        InvalidRow: the table has no column for a part of it, or one that does not take its value.
    """
    content: dict[str, Any] = {}
    schema = crystal.schema
    for name in schema.fields:
        field = mapping.by_name.get(name)
        if field is None:
            raise InvalidRow(mapping.name, name, f"is no column, and {schema.name} has that field: add it to the table")
        part = _cell(mapping, field, getattr(crystal.value, name))
        if part is not None or field.column.nullable or not field.optional:
            content[name] = part
    _add_labels(content, crystal, mapping)
    datum = crystal.datum
    row = Datum(datum.id, orjson.dumps(content, option=CANONICAL), datum.created_at, datum.causal_parent)
    given_by(mapping, row)  # refuses now what the table would refuse when it is written
    return row


def crystal_of(row: Datum, schema: Schema[T], mapping: TableMapping) -> Crystal[T]:
    """Return the crystal that a row is.

    Raises:
        InvalidCrystal: the row does not fit the contract, or has a column that no field of it takes.
    """
    values = loaded(mapping, row.data)
    about = values.get(ABOUT) or {}
    if lost := sorted(values.keys() - schema.fields.keys() - _own_columns(mapping)):
        raise InvalidCrystal(
            f"{schema.name} has no field for the column {mapping.name}.{lost[0]}: add it in a new version"
        )
    value = schema.parse({name: values[name] for name in schema.fields if name in values})
    labels = labels_of(value, schema)
    if "tags" not in schema.fields and values.get("tags"):
        labels["tags"] = values["tags"]
    datum = Datum(
        id=row.id,
        content=schema.encode(value),
        created_at=row.created_at,
        causal_parent=row.causal_parent,
        metadata={**labels, **about, SCHEMA: schema.name, VERSION: schema.version},
    )
    return Crystal(schema, datum, value)


def _cell(mapping: TableMapping, field: ColumnMapping, part: Any) -> Any:
    if part is None:
        return None
    if isinstance(unwrapped(field.column.type), JSON):
        return from_json(to_json(part, bytes_mode="base64"))
    return cell(mapping, field, part.value if isinstance(part, Enum) else part)


def _add_labels(content: dict[str, Any], crystal: Crystal[Any], mapping: TableMapping) -> None:
    """Add what the metadata say beyond the value: tags to their column, the rest to `about`."""
    schema = crystal.schema
    rest = dict(crystal.datum.metadata)
    for name in (SCHEMA, VERSION):
        rest.pop(name, None)
    for name, label in labels_of(crystal.value, schema).items():
        if rest.get(name) == label:
            del rest[name]
    if mapping.tags is not None and "tags" not in schema.fields and _are_tags(rest.get("tags")):
        content["tags"] = rest.pop("tags")
    if ABOUT in mapping.by_name:
        content[ABOUT] = rest
    elif rest:
        raise InvalidRow(mapping.name, f"metadata.{min(rest)}", "a row has no place for it: add a column `about`")


def _are_tags(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(tag, str) for tag in value)


def _own_columns(mapping: TableMapping) -> set[str]:
    """Return the columns that a row has for its datum and for itself, beside the contract."""
    roles: list[ColumnMapping | None] = [
        mapping.created,
        mapping.parent,
        mapping.tags,
        mapping.by_name.get(ABOUT),
        *mapping.keys,
    ]
    stamps = {field.name for field in mapping.fields if field.stamp is not None}  # when the row changed, not the value
    return {field.name for field in roles if field is not None} | stamps
