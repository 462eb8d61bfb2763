"""How rows are written from what datums give. Plain functions over a `Connection`; each is one unit of work.

A row is held before it is looked at, so that what it keeps of itself is what is there when it is written. One that is
not there cannot be held: it is inserted, and where another writer was first it is held and looked at after all.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from dgent.bridge.from_datum import as_datum, completed, stamp
from dgent.bridge.table_sql import bound_key, get, row_of, rows_of, statements_of
from dgent.exceptions import CausalCycle, Conflict, VersionConflict
from dgent.operations import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from dgent.bridge.mapping import TableMapping


T = TypeVar("T")

TRIES: Final = 8
"""How often a row may come and go between two looks at it."""


class RowPut(NamedTuple):
    """A row to write: its id, its key, the values that were given, and the version that must be live."""

    id: str
    key: list[Any]
    given: Mapping[str, Any]
    expect: int | None = None


class RowDelete(NamedTuple):
    """A row to delete: its id, its key or None where no row of the table can have the id, and its version."""

    id: str
    key: list[Any] | None
    expect: int | None = None


def apply_all(connection: Connection, mapping: TableMapping, operations: Iterable[RowPut | RowDelete]) -> list[Outcome]:
    """Write and delete rows in order, and return what each led to.

    Raises:
        VersionConflict: a row has another version than was expected.
        CausalCycle: a parent descends from its own child.
    """
    outcomes: list[Outcome] = []
    for is_put, some in groupby(operations, lambda one: isinstance(one, RowPut)):
        if is_put:
            outcomes += _put_all(connection, mapping, [one for one in some if isinstance(one, RowPut)])
        else:
            outcomes += [Outcome(None, _remove(connection, mapping, one.id, one.key, one.expect)) for one in some]
    return outcomes


def _put_all(connection: Connection, mapping: TableMapping, puts: Sequence[RowPut]) -> list[Outcome]:
    rows = rows_of(connection, mapping, list(dict.fromkeys(put.id for put in puts)), hold=True)
    written: dict[str, Any] = {}
    outcomes: list[Outcome] = []
    for put in puts:
        row, wrote = _put(connection, mapping, put, rows.get(put.id))
        rows[put.id] = row
        if wrote:
            written[put.id] = put.key[0] if len(put.key) == 1 else tuple(put.key)
        stored = mapping.datum_of(row, connection.dialect)
        outcomes.append(Outcome(stored, wrote, stored.version))
    if mapping.derive is not None:
        for keys in batched(written.values()):
            mapping.derive(connection, keys)
    return outcomes


def _put(connection: Connection, mapping: TableMapping, put: RowPut, row: Any | None) -> tuple[Any, bool]:
    """Write a row that is held, or that was not there, unless it stays as it is; tell whether it was written."""
    for _ in range(TRIES):
        if row is not None and _stays(connection, mapping, put, row):
            return row, False
        stored = _write(connection, mapping, put, row)
        if stored is not None:
            return stored, True
        row = row_of(connection, mapping, put.key, hold=True)  # another writer was first
    raise Conflict(f"{put.id!r} was put and deleted by others each time: try again")


def _stays(connection: Connection, mapping: TableMapping, put: RowPut, row: Any) -> bool:
    version = row[-1] if mapping.version is not None else 0
    _check_expected(put, version or 1)
    values = completed(mapping, put.given, mapping.values_of(row, connection.dialect))
    return as_datum(mapping, values, version) == mapping.datum_of(row, connection.dialect)


def _write(connection: Connection, mapping: TableMapping, put: RowPut, row: Any | None) -> Any | None:
    """Write a row; None where it was not there, and is now."""
    if row is None:
        _check_expected(put, 0)
    live = None if row is None else mapping.values_of(row, connection.dialect)
    values = completed(mapping, put.given, live)
    if live is not None:
        stamp(mapping, values, live)
    if mapping.parent is not None and (live is None or live[mapping.parent.name] != values[mapping.parent.name]):
        check_acyclic(connection, mapping, put.id, put.key, values[mapping.parent.name])
    return _store(connection, mapping, put, values, "insert" if row is None else "update" if put.expect else "upsert")


def _store(connection: Connection, mapping: TableMapping, put: RowPut, values: dict[str, Any], kind: str) -> Any | None:
    given = [field for field in mapping.fields if field.name in values]
    bound = mapping.bind(given, [values[field.name] for field in given], connection.dialect)
    bound += mapping.bind(mapping.kept, [(each.stamp or each.default)() for each in mapping.kept], connection.dialect)  # type: ignore[misc]
    statement = statements_of(mapping).write(kind, tuple([field.name for field in given]))
    row = statement.row(connection, *bound, *bound_key(connection, mapping, put.key), put.expect or 0)
    if row is None and kind != "insert":  # another writer was first, where a host's session took no lock
        found = row_of(connection, mapping, put.key)
        actual = 0 if found is None else found[-1] if mapping.version is not None else 1
        raise VersionConflict(put.id, put.expect or 0, actual)
    return row


def _remove(
    connection: Connection, mapping: TableMapping, id: str, key: Sequence[Any] | None, expect: int | None
) -> bool:
    """Delete a row and tell whether it was there."""
    if key is None:
        if expect:
            raise VersionConflict(id, expect, 0)
        return False
    statements, bound = statements_of(mapping), bound_key(connection, mapping, key)
    if expect is None:
        return statements.delete.run(connection, *bound) > 0
    for _ in range(TRIES):
        if expect > 0 and statements.delete_expected.run(connection, *bound, expect) > 0:
            return True
        live = get(connection, mapping, key)
        actual = 0 if live is None else live.version
        if actual != expect:
            raise VersionConflict(id, expect, actual)
        if live is None:
            return False
    raise Conflict(f"{id!r} was changed by others each time: try again")  # it became what is expected after each look


def batched(items: Iterable[T], size: int = 1000) -> Iterator[list[T]]:
    """Go through items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _check_expected(put: RowPut, actual: int) -> None:
    if put.expect is not None and put.expect != actual:
        raise VersionConflict(put.id, put.expect, actual)


def check_acyclic(connection: Connection, mapping: TableMapping, id: str, key: Sequence[Any], parent: Any) -> None:
    """Refuse a parent below the row. Where nothing has the row as its parent there is nothing below it.

    Raises:
        CausalCycle: the parent descends from the row, or is it.
    """
    assert mapping.parent is not None  # noqa: S101  # the caller looked
    if parent is None:
        return
    if parent == key[0]:
        raise CausalCycle(f"{id!r} cannot be its own parent")
    statements, bound = statements_of(mapping), bound_key(connection, mapping, key)
    statements.lock.row(connection, statements.lock_key)
    if statements.has_child.row(connection, *bound) is None:
        return
    (above,) = mapping.bind([mapping.parent], [parent], connection.dialect)
    if statements.descends.row(connection, above, *bound) is not None:
        raise CausalCycle(f"the parent of {id!r} descends from it, so it cannot be its parent: choose another")
