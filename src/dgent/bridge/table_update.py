"""How some columns of a row are written while other writers have the rest: one unit of work over a `Connection`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Integer, bindparam, literal_column, update

from dgent.bridge.from_datum import as_datum, loaded, stamp
from dgent.bridge.table_sql import bound_key, row_of, statements_of
from dgent.bridge.table_write import check_acyclic
from dgent.exceptions import DatumNotFound, InvalidDatum, InvalidRow, VersionConflict
from dgent.jsonvalue import comparable
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from dgent.bridge.mapping import TableMapping
    from dgent.datum import Datum
    from dgent.limits import Limits


class Update(NamedTuple):
    """Columns of a row to write: its id, its key, the new values, and the JSON forms that others must still have."""

    id: str
    key: list[Any]
    changes: Mapping[str, Any]
    given: Mapping[str, str]


def admitted(
    mapping: TableMapping, id: str, key: list[Any] | None, changes: Mapping[str, Any], given: Mapping[str, Any]
) -> Update:
    """Return an update of columns by their JSON forms; the key is None where the id is none of the table's.

    Raises:
        InvalidRow: a name is no column, a column does not take its value, or it is the id.
        DatumNotFound: the id is none of this table's.
    """
    if key is None:
        raise _not_found(mapping, id)
    values = loaded(mapping, changes)
    for field, part in zip(mapping.keys, key, strict=True):
        if values.pop(field.name, part) != part:
            raise InvalidRow(
                mapping.name, field.name, f"is the id of {id[:80]!r}, which stays: put another row instead"
            )
    loaded(mapping, given)
    return Update(id, key, values, {name: _form(mapping, name, value) for name, value in given.items()})


def write(connection: Connection, mapping: TableMapping, asked: Update, limits: Limits) -> tuple[Datum, bool]:
    """Write the columns of an update, and the stamps of the row; return the datum that the row is, and if it changed.

    Nothing is written if the row has these values already.

    Raises:
        DatumNotFound: there is no such row.
        VersionConflict: a given column is not as it was read.
        CausalCycle: the parent descends from this row.
        LimitExceeded: the row would be too large.
    """
    dialect = connection.dialect
    row = row_of(connection, mapping, asked.key, hold=True)
    if row is None:
        raise _not_found(mapping, asked.id)
    live, before = mapping.datum_of(row, dialect), mapping.values_of(row, dialect)
    data = live.data
    if any(_form(mapping, name, data[name]) != form for name, form in asked.given.items()):
        raise VersionConflict(asked.id, 0, live.version if mapping.version is not None else 1)
    values = {**before, **asked.changes}
    if as_datum(mapping, values, live.version) == live:
        return live, False
    stamp(mapping, values, before)
    limits.admit(as_datum(mapping, values, live.version))
    if mapping.parent is not None and mapping.parent.name in asked.changes:
        check_acyclic(connection, mapping, asked.id, asked.key, values[mapping.parent.name])
    return _store(connection, mapping, asked, values, live), True


def _store(connection: Connection, mapping: TableMapping, asked: Update, values: dict[str, Any], live: Datum) -> Datum:
    """Write what is asked and what was stamped, hidden columns included."""
    dialect = connection.dialect
    fields = [field for field in mapping.fields if field.name in asked.changes or field.stamp is not None]
    bound = mapping.bind(fields, [values[field.name] for field in fields], dialect)
    hidden = [field for field in mapping.kept if field.stamp is not None]
    bound += mapping.bind(hidden, [field.stamp() for field in hidden if field.stamp is not None], dialect)
    statement = _writing(mapping, tuple(field.column.key for field in (*fields, *hidden)))
    row = statement.row(connection, *bound, *bound_key(connection, mapping, asked.key), live.version)
    if row is None:  # another writer was first, where a host's session took no lock
        raise VersionConflict(asked.id, live.version, live.version + 1)
    if mapping.derive is not None:
        mapping.derive(connection, [asked.key[0] if len(asked.key) == 1 else tuple(asked.key)])
    return mapping.datum_of(row, dialect)


@lru_cache(maxsize=4096)
def _writing(mapping: TableMapping, columns: tuple[str, ...]) -> Statement:
    statements, version = statements_of(mapping), mapping.version
    params = [f"v{at}" for at in range(len(columns))]
    values: dict[Any, Any] = {mapping.table.c[key]: bindparam(name) for key, name in zip(columns, params, strict=True)}
    element = update(mapping.table).where(statements.is_row())
    if version is not None:
        element = element.where(version == bindparam("expected"))
        values[version] = version + literal_column("1", Integer)
    element = element.values(values).returning(*mapping.columns)
    return Statement(element, " ".join([*params, *statements.key_names, "expected"]))


def _form(mapping: TableMapping, name: str, value: Any) -> str:
    try:
        return comparable(value, name)
    except InvalidDatum as error:
        raise InvalidRow(mapping.name, name, str(error)) from None


def conflict(mapping: TableMapping, asked: Update, actual: int) -> VersionConflict:
    """Return the error of a row whose columns are not as they were read; which version that was nobody said."""
    error = VersionConflict(asked.id, 0, actual)
    names = ", ".join(asked.given) or "the row"
    error.args = (f"{asked.id!r}: {names} of {mapping.name} changed since it was read: get it again and retry",)
    return error


def _not_found(mapping: TableMapping, id: str) -> DatumNotFound:
    return DatumNotFound(f"{mapping.name} has no row {id[:80]!r}: put it first")
