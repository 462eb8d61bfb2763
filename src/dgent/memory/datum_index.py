"""What datums can be found by: the seam between a store in SQL and its indexes.

An index has tables of its own in the database of the store, and is written in the transactions of the store: by put,
delete, purge, and the sweep of what expired. So it never shows what is not committed, and never misses what is. It is
derived from the live rows, so it can be dropped and is built again when it is next opened.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from sqlalchemy import Text, bindparam, func, insert, literal_column, or_, select, update

from dgent.error_messages import nearest
from dgent.exceptions import InvalidInput, SchemaTooNew
from dgent.memory.metadata_index import MetadataIndex
from dgent.memory.sql.datum_tables import FORMAT, MARK, Row, datums, heads, is_whole, metadata
from dgent.sql.statement import Statement
from dgent.sql.table_set import TableSet, meta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from dgent.datum import Datum

d = datums.c
BATCH: Final = 500
PREFIX: Final = "format.index."
_END: Final = "format.index/"
"""What every key with the prefix stands before."""


class DatumIndex(Protocol):
    """One thing that the datums of a store can be found by: see `register`.

    Every program that writes a store has to keep its indexes: one that does not know them all is refused, also if it
    had the store open before the index was made. Who only reads needs none but that of metadata.
    """

    @property
    def name(self) -> str:
        """What it is called in `search`."""

    @property
    def tables(self) -> TableSet:
        """Its tables, and their format under the key `PREFIX` + `name`. The namespace leads every key."""

    def add(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        """Take in rows that are live from now on; of an id that was in, the row before was removed."""

    def remove(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        """Take out rows that are not live any more, if they are in. One that is damaged (see `is_whole`) goes, too."""

    def erase(self, connection: Connection, namespace: str) -> None:
        """Take out everything of a namespace."""

    def search(self, connection: Connection, namespace: str, question: Any, limit: int) -> list[str]:
        """Return the first ids that may answer a question, the best first; all of them, if they are fewer than `limit`.

        The store gives those that are live and confirmed; where too few of them are, it asks again for more.

        Raises:
            InvalidInput: it is no question of this index.
        """

    def confirms(self, question: Any, datum: Datum) -> bool:
        """Tell whether a live datum that was found does answer it."""


@runtime_checkable
class CheckedIndex(DatumIndex, Protocol):
    """An index that `MaintainedMemory.check` compares with the live rows; others it does not look at."""

    def lacking(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> set[str]:
        """Return the ids of those live rows of which it has nothing, or not all that `add` would put in."""

    def strays(
        self, connection: Connection, namespace: str, at: Any, most: int
    ) -> tuple[list[tuple[str, int]], Any | None]:
        """Return id and version of what it has of no live row on a page, and where the next page begins, None for none.

        It is one statement: what is written meanwhile is in both or in neither. `at` is None for the first page.
        """


_NAMESPACES = Statement(select(heads.c.namespace), "")
_TOUCH = Statement(update(heads).values(seq=heads.c.seq))
_LIVE = Statement(
    select(datums)
    .where(d.namespace == bindparam("ns"), d.id > bindparam("last"), d.live)
    .order_by(d.id)
    .limit(bindparam("most")),
    "ns last most",
)


_registered: list[DatumIndex] = [MetadataIndex()]


def register(index: DatumIndex) -> None:
    """Keep an index from now on, in every store of this process in a database.

    One that is open makes it by its next write or search. A module that calls this can be named in `KGENTS_MODULES` for
    `kg`.

    Raises:
        InvalidInput: another one has the name.
    """
    if any(each.name == index.name for each in _registered):
        raise InvalidInput(f"there is an index {index.name!r} already: give this one another name")
    _registered.append(index)


def registered() -> list[DatumIndex]:
    """Return the indexes that every store keeps, that of metadata first."""
    return _registered


def named(name: str) -> DatumIndex:
    """Return the index of a name.

    Raises:
        InvalidInput: there is none.
    """
    for index in _registered:
        if index.name == name:
            return index
    raise InvalidInput(f"there is no index {name!r}{nearest(name, (index.name for index in _registered))}")


def _tables_of_indexes(known: Mapping[str, str]) -> list[TableSet]:
    """Return the tables of the indexes, which are filled when they are made; `known` are the formats in a database.

    Raises:
        SchemaTooNew: the database has an index that this process does not keep.
    """
    ours = {index.tables.key for index in _registered}
    if unknown := sorted(key for key in known if key.startswith(PREFIX) and key not in ours):
        names = ", ".join(key.removeprefix(PREFIX) for key in unknown)
        raise SchemaTooNew(
            f"the store is kept with the index {names}, which this program would leave behind: import the module that "
            "registers it (KGENTS_MODULES for kg)"
        )
    return [replace(index.tables, fill=partial(rebuild, index=index), written_first=heads) for index in _registered]


def _set_mark(connection: Connection) -> None:
    """Make the row of the mark with the tables: a writer that made it would hold up others until its commit."""
    connection.execute(insert(heads).values(namespace=MARK, seq=0, stored_at=0.0))


TABLES: Final = TableSet(
    "the memory tables",
    "format",
    metadata,
    FORMAT,
    fill=_set_mark,
    parts=_tables_of_indexes,
    read_parts=[MetadataIndex.tables],
    written_first=heads,
)
"""Those of the versions, and of all indexes."""

_memory, _first, _end = (literal_column(f"'{key}'", Text) for key in (TABLES.key, PREFIX, _END))
_noted = (
    select(meta.c.key, meta.c.value)
    .where(meta.c.key >= _memory, meta.c.key < _end, or_(meta.c.key == _memory, meta.c.key >= _first))  # one range
    .order_by(meta.c.key)
    .subquery("noted")
)
_each = _noted.c.key + literal_column("'='") + _noted.c.value
NOTED: Final = select(func.aggregate_strings(_each, literal_column("','"))).scalar_subquery()  # type: ignore[arg-type]
"""The formats that a database has noted, as `kept` gives them: read in the statement that locks a namespace."""


_kept: tuple[list[DatumIndex], str] = [], ""  # asked for at every write


def kept() -> str:
    """Return the formats that this process writes, in one text."""
    global _kept  # noqa: PLW0603
    if _kept[0] != _registered:
        formats = {TABLES.key: TABLES.format} | {index.tables.key: index.tables.format for index in _registered}
        _kept = [*_registered], ",".join(f"{key}={format}" for key, format in sorted(formats.items()))
    return _kept[1]


def rebuild(connection: Connection, index: DatumIndex) -> None:
    """Fill an empty index from all live rows; a row that is damaged is left out, as pages leave it out.

    Every head row is written, so that a transaction that sees what was there before cannot go on.
    """
    _TOUCH.run(connection)
    for (namespace,) in _NAMESPACES.rows(connection):
        last = ""
        while found := [Row(*row) for row in _LIVE.rows(connection, namespace, last, BATCH)]:
            index.add(connection, namespace, [row for row in found if is_whole(row)])
            last = found[-1].id
