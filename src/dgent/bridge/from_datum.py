"""What a datum says about a row: the way back from agent memory to the columns.

Every shown column is replaced. Its value comes from the content; what the content leaves out comes from the datum
(`created_at`, `causal_parent`, `metadata["tags"]`), else it takes the column's default, or null where there is none. A
default that is new at each call (a time, an id) is drawn for new rows only. A column with `onupdate` is stamped when
something else changes, unless the content gives it another value. A key, a time or a cause that the content and the
datum give differently is refused, and so is what the row has no place for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from dgent.bridge.column import ColumnMapping, shown
from dgent.bridge.mapping import SOURCE, TableMapping, as_utc, has_zone
from dgent.bridge.row_id import as_id
from dgent.exceptions import InvalidRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dgent.datum import Datum

_NOWHERE: Final = object()


def given_by(mapping: TableMapping, datum: Datum) -> dict[str, Any]:
    """Return the Python values that a datum gives for a row, by the names of the fields.

    Raises:
        InvalidRow: names the table, the field and the reason.
    """
    given = _content(mapping, datum)
    _add_key(mapping, datum, given)
    _add_created(mapping, datum, given)
    _add_parent(mapping, datum, given)
    _add_metadata(mapping, datum, given)
    for field in mapping.fields:
        if not field.optional and field.name not in given:
            raise InvalidRow(mapping.name, field.name, "is missing")
    return given


def completed(mapping: TableMapping, given: Mapping[str, Any], live: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the whole row: what is given, and for the rest the defaults, or what the `live` row has.

    A column that only the database can fill is left out.
    """
    values = dict(given)
    for field in mapping.fields:
        if field.name in values:
            continue
        if live is not None and (field.fresh or field.stamp):
            values[field.name] = live[field.name]
        elif field.default is not None:
            values[field.name] = field.default()
        elif field.column.nullable and field.column.server_default is None:
            values[field.name] = None
        elif live is not None:
            values[field.name] = live[field.name]
    return values


def stamp(mapping: TableMapping, values: dict[str, Any], live: Mapping[str, Any]) -> None:
    """Mark a row as changed: each stamped column that was not given another value gets a new one."""
    for field in mapping.fields:
        if field.stamp is not None and values[field.name] == live[field.name]:
            values[field.name] = field.stamp()


def as_datum(mapping: TableMapping, values: Mapping[str, Any], version: int) -> Datum:
    """Return the datum that a whole row of Python values is."""
    cells = [*(shown(field, values[field.name]) for field in mapping.fields), version]
    return mapping.datums_from([cells])[0]


def _content(mapping: TableMapping, datum: Datum) -> dict[str, Any]:
    try:
        found = orjson.loads(datum.content)
    except orjson.JSONDecodeError as error:
        raise InvalidRow(mapping.name, None, f"the content of {datum.id!r} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InvalidRow(
            mapping.name, None, f"the content of {datum.id!r} is {type(found).__name__}, not a JSON object"
        )
    return loaded(mapping, found)


def loaded(mapping: TableMapping, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Python values of columns from their JSON forms, by name.

    Raises:
        InvalidRow: a name is no column, or a column does not take its value.
    """
    for name in found:
        if name not in mapping.by_name:
            raise InvalidRow(mapping.name, name[:200], f"is no column of a row; they are {', '.join(mapping.by_name)}")
    return {name: _loaded(mapping, mapping.by_name[name], value) for name, value in found.items()}


def _loaded(mapping: TableMapping, field: ColumnMapping, value: Any) -> Any:
    if value is None:
        if not field.column.nullable:
            raise InvalidRow(mapping.name, field.name, "is null")
        return None
    try:
        return field.form.load(value)
    except ValueError as error:
        raise InvalidRow(mapping.name, field.name, str(error)) from None


def _add_key(mapping: TableMapping, datum: Datum, given: dict[str, Any]) -> None:
    key = mapping.key_of(datum.id)
    if key is None:
        names = ", ".join(field.name for field in mapping.keys)
        raise InvalidRow(mapping.name, names, f"the id {datum.id[:80]!r} is none of this table's")
    if mapping.textual:
        _loaded(mapping, mapping.keys[0], key[0])
    for field, part in zip(mapping.keys, key, strict=True):
        if given.setdefault(field.name, part) != part:
            raise InvalidRow(mapping.name, field.name, f"the content has another key than the id {datum.id[:80]!r}")


def _add_created(mapping: TableMapping, datum: Datum, given: dict[str, Any]) -> None:
    field = mapping.created
    if field is None:
        return
    said = given.get(field.name)
    if said is None:
        try:
            moment = datetime.fromtimestamp(datum.created_at, UTC)
        except (ValueError, OverflowError):
            raise InvalidRow(mapping.name, field.name, "is not between the years 1 and 9999") from None
        given[field.name] = moment if has_zone(field) else moment.replace(tzinfo=None)
    elif abs(as_utc(said).timestamp() - datum.created_at) >= 1e-6:  # finer than a row keeps
        raise InvalidRow(
            mapping.name, field.name, "the content has another time than created_at: leave it out of the content"
        )


def _add_parent(mapping: TableMapping, datum: Datum, given: dict[str, Any]) -> None:
    field, parent = mapping.parent, datum.causal_parent
    if field is None:
        if parent is not None:
            raise InvalidRow(mapping.name, "causal_parent", "the table has no such column, and the datum has a cause")
        return
    cause = None if parent is None else mapping.cause_of(parent)
    if field.name in given:
        if as_id(shown(field, given[field.name])) != parent:
            raise InvalidRow(
                mapping.name, field.name, "the content has another cause than the datum: leave it out of it"
            )
        return
    if parent is not None and cause is None:
        raise InvalidRow(mapping.name, field.name, f"the id {parent[:80]!r} is none of this table's")
    given[field.name] = cause


def _add_metadata(mapping: TableMapping, datum: Datum, given: dict[str, Any]) -> None:
    if datum.metadata_json in {"{}", mapping.plain_metadata}:
        return
    for name, value in datum.metadata.items():
        if name == "tags" and mapping.tags is not None:
            if mapping.tags.name not in given:  # else they are what the row had when the datum was read
                given[mapping.tags.name] = _loaded(mapping, mapping.tags, value)
        elif value != {"source": SOURCE, "table": mapping.name}.get(name, _NOWHERE):
            raise InvalidRow(mapping.name, f"metadata.{name[:200]}", "a row has no place for it: put it into a column")
