"""Tables that code makes on first use, beside those that Alembic migrates: numbered, and upgraded in place.

What an agent remembers has to open without a migration step, so these tables carry the number of their format in
`dgent_meta`. An older format is brought up to date in the transaction that first looks at it; a newer one is refused.
"""

# noted         the format in `dgent_meta` is ours: `prepare` only reads, and takes no lock of its own
# bringing up   one transaction holds the advisory lock TABLE_SETS (on SQLite: is the one that writes), reads the
#               format again, upgrades and makes; others, of whatever process, wait for it in the database and then
#               find all of it noted. It also holds the table `written_first`, so no writer is under way: those before
#               it have committed, and those that come after it see what is noted then, and refuse to go on by less
# broken off    by a cancel or an error: that transaction is undone or done as a whole, and the next one that looks
#               goes by what it finds

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sqlalchemy import Column, Connection, MetaData, Table, inspect, select
from sqlalchemy.dialects.postgresql import insert as upsert

from dgent.datum_id import uuid7
from dgent.exceptions import Corrupt, SchemaOutdated, SchemaTooNew
from dgent.sql.advisory_locks import AdvisoryLock
from dgent.sql.constructs import BYTEWISE, keep_writers_out, transaction_lock

Upgrade: TypeAlias = Callable[[Connection], None]
"""Brings the tables from one format to the next."""

UNNUMBERED: Final = 1
"""The format of tables that were made before they carried a number."""

_STORE_ID: Final = "store_id"

metadata = MetaData()

meta = Table(
    "dgent_meta",
    metadata,
    Column("key", BYTEWISE, primary_key=True),
    Column("value", BYTEWISE, nullable=False),
    comment="The id of this store, and the format of each set of tables.",
)


@dataclass(frozen=True)
class TableSet:
    """Tables that belong together and have one format.

    Attributes:
        name: what they hold, for people.
        key: under which their format stands in `dgent_meta`.
        metadata: the tables as this version of the code wants them.
        format: the number of that.
        upgrades: from each older format to the next. They run in order, before missing tables are made.
        fill: puts into tables that were just made what is derived from others.
        parts: returns the sets that are derived from this one, given the formats that are noted; made after it.
        read_parts: those of them that reading needs; who writes has to keep all.
        written_first: the table in which every writer locks a row first, and looks at what is noted then. Without it
            writers that have a set open do not notice that it is brought up.
    """

    name: str
    key: str
    metadata: MetaData
    format: int
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    fill: Upgrade | None = None
    parts: Callable[[Mapping[str, str]], Sequence[TableSet]] = lambda _: ()
    read_parts: Sequence[TableSet] = ()
    written_first: Table | None = None

    def prepare(self, connection: Connection) -> str:
        """Make the tables or bring them up to date, in the transaction of the connection; return the id of the store.

        Raises:
            SchemaTooNew: a newer D-gent wrote them.
            SchemaOutdated: no upgrade leads on from their format.
            Corrupt: the format is no number. Nothing was changed.
        """
        known = formats(connection)
        for each in (self, *self.parts(known)):
            if known.get(each.key) != str(each.format) or _STORE_ID not in known:
                known = each._bring_up(connection)
        return known[_STORE_ID]  # most often nothing was to be done: who only opens them waits for nobody

    def _bring_up(self, connection: Connection) -> dict[str, str]:
        connection.execute(
            select(transaction_lock(AdvisoryLock.TABLE_SETS))
        )  # so that two processes do not upgrade at once
        metadata.create_all(connection)
        if self.written_first is not None and inspect(connection).has_table(self.written_first.name):
            keep_writers_out(connection, self.written_first)
        known = _read(connection)
        found = self._found(connection, known)
        steps = range(self.format if found is None else found, self.format)
        for upgrade in [self._upgrade_from(step) for step in steps]:  # none runs if one is missing
            upgrade(connection)
        self.metadata.create_all(connection)
        if found is None and self.fill is not None:
            self.fill(connection)
        if known.get(self.key) != str(self.format):
            _write(connection, self.key, str(self.format))
        if _STORE_ID not in known:
            known[_STORE_ID] = uuid7()
            _write(connection, _STORE_ID, known[_STORE_ID])
        return {**known, self.key: str(self.format)}

    def check(self, connection: Connection) -> str:
        """Return the id of a store that can only be read, once it is known that this code can read it.

        Raises:
            SchemaOutdated: the tables are not there, or are of an older format.
            SchemaTooNew: as `prepare`.
            Corrupt: as `prepare`.
        """
        known = formats(connection)
        for each in (self, *self.read_parts):
            each.check_noted(connection, known)
        if _STORE_ID not in known:
            raise self._outdated(None)
        return known[_STORE_ID]

    def check_for_writing(self, connection: Connection) -> None:
        """Make sure that the formats that are noted are still those that `prepare` would leave behind.

        Raises:
            SchemaOutdated: `prepare` has something to do.
            SchemaTooNew: as `prepare`.
            Corrupt: as `prepare`.
        """
        known = formats(connection)
        for each in (self, *self.parts(known)):
            if known.get(each.key) != str(each.format):
                raise each._outdated(each._found(connection, known))

    def check_noted(self, connection: Connection, known: Mapping[str, str]) -> None:
        """Make sure that these tables, without their parts, are there, and are of this format.

        Raises:
            SchemaOutdated: as `check`.
            SchemaTooNew: as `check`.
            Corrupt: as `check`.
        """
        found = self._found(connection, known)
        if found != self.format:
            raise self._outdated(found)

    def _outdated(self, found: int | None) -> SchemaOutdated:
        what = "not there" if found is None else f"of format {found}, and this version reads {self.format}"
        return SchemaOutdated(f"{self.name}: the tables are {what}: open the database once where it can be written")

    def create_all(self, connection: Connection) -> None:
        """Make the tables in an empty database, without a number: it is nobody's store."""
        for each in (self, *self.parts({})):
            each.metadata.create_all(connection)

    @property
    def names(self) -> list[str]:
        """The names of all tables, those of the parts included."""
        return [name for each in (self, *self.parts({})) for name in each.metadata.tables]

    def is_absent(self, connection: Connection) -> bool:
        """Tell whether there are none of these tables, of whatever format."""
        known = formats(connection)
        return self._found(connection, known) is None

    def _found(self, connection: Connection, known: Mapping[str, str]) -> int | None:
        """Return the format of the tables that are there, or None where there are none."""
        if self.key in known:
            return self._number(known[self.key])
        there = inspect(connection).get_table_names()
        return UNNUMBERED if any(name in there for name in self.metadata.tables) else None

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdecimal()):
            raise Corrupt(f"the format of {self.name} is {text!r:.40}, which is no number: restore a backup")
        if int(text) > self.format:
            raise SchemaTooNew(
                f"{self.name} have format {text}, this version of dgent knows {self.format}: upgrade dgent"
            )
        return int(text)

    def _upgrade_from(self, format: int) -> Upgrade:
        if format not in self.upgrades:
            raise SchemaOutdated(
                f"{self.name} have format {format}, and no upgrade leads from it to {self.format}: open them with the "
                "version of dgent that wrote them, and export what they hold"
            )
        return self.upgrades[format]


def formats(connection: Connection) -> dict[str, str]:
    """Return what is noted in a database: the format of each set of tables, by its key, and the id of the store."""
    return _read(connection) if inspect(connection).has_table(meta.name) else {}


def _read(connection: Connection) -> dict[str, str]:
    return dict(map(tuple, connection.execute(select(meta.c.key, meta.c.value))))


def _write(connection: Connection, key: str, value: str) -> None:
    row = upsert(meta).values(key=key, value=value)
    connection.execute(row.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": row.excluded.value}))
