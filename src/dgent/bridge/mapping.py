"""What a model looks like from agent memory: which columns are the id, the content, the time, the cause, the version.

A row is this datum:

* `id`: the primary key, as `dgent.bridge.row_id` says.
* `content`: a JSON object of all mapped columns but the version and those that are hidden, in the forms of
  `dgent.bridge.column_codec`, with sorted keys.
* `created_at`, `causal_parent`, `version`: the columns of these names; the version is the mapper's `version_id_col`.
* `metadata`: where it comes from, `{"source": "alembic", "table": ...}`, and the row's `tags`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from sqlalchemy import JSON, Column, DateTime, Integer, Table, Uuid, inspect

from dgent.bridge.column import CANONICAL, ColumnMapping, column_mapping_of, processors, shown
from dgent.bridge.column_codec import is_text, unwrapped
from dgent.bridge.row_id import as_id, id_from, key_in
from dgent.datum import Datum, load_datum
from dgent.error_messages import called
from dgent.exceptions import CapabilityMissing, Corrupt, InvalidInput, InvalidRow
from dgent.models.base import Base
from dgent.page import Damaged
from dgent.sql.damaged_pages import as_text
from dgent.sql.error_details import declare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.engine import Dialect
    from sqlalchemy.orm import Mapper

SOURCE: Final = "alembic"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
_dumps: Final = orjson.dumps


class _Codecs(NamedTuple):
    """What stands between the values of a driver and JSON."""

    shown: list[tuple[int, Callable[[Any], Any]]]
    """(place in the row, from the driver's value to JSON)"""
    loaded: list[Callable[[Any], Any] | None]
    bound: dict[str, Callable[[Any], Any] | None]


class TableMapping:
    """The columns of one model, by their roles. Make it with `mapping_of`.

    Attributes:
        name: the table.
        fields: what the content shows, in the order of the names.
        by_name: the same, by name.
        keys: what the id is made of; `textual` if that is one text, `is_primary` if it is the primary key.
        created: the field of the time; `ordered` is that if every row has one.
        parent: the field of the cause.
        tags: the field of the tags.
        version: the column that counts the writes.
        kept: hidden fields that have a default or a stamp.
    """

    def __init__(self, model: type[Any], id_field: str | None, hidden: frozenset[str]) -> None:
        mapper: Mapper[Any] = inspect(model)
        self.model = model
        self.table = _single_table(mapper)
        declare(self.table.metadata)
        self.name = self.table.name
        self.version = _version_column(mapper)
        columns: dict[str, Column[Any]] = {each.key: each.columns[0] for each in mapper.column_attrs}  # type: ignore[misc]
        keys = [id_field] if id_field else [mapper.get_property_by_column(each).key for each in mapper.primary_key]
        _check_names(self.name, columns, keys, hidden)
        fields = {
            name: column_mapping_of(model, name, column, shown=name not in hidden)
            for name, column in sorted(columns.items())
            if column is not self.version and column.computed is None
        }
        self.kept = [
            fields[name] for name in sorted(hidden & fields.keys()) if fields[name].default or fields[name].stamp
        ]
        self.by_name = {name: field for name, field in fields.items() if name not in hidden}
        self.fields = list(self.by_name.values())
        self.keys = [self.by_name[name] for name in keys]
        self.is_primary = not id_field or [self.by_name[id_field].column] == list(mapper.primary_key)
        self.textual = len(keys) == 1 and is_text(self.keys[0].column.type)
        self.created = self._role("created_at", lambda kind: isinstance(kind, DateTime))
        self.parent = self._role("causal_parent", self._names_a_row)
        self.tags = self._role("tags", lambda kind: isinstance(kind, JSON))
        self.ordered = self.created if self.created is not None and not self.created.column.nullable else None
        self.columns: list[Column[Any]] = [field.column for field in self.fields]
        if self.version is not None:
            self.columns.append(self.version)
        self._at = {field.name: at for at, field in enumerate(self.fields)}
        roles = (self.created, self.parent, self.tags)
        self._key_at = self._at[keys[0]]
        self._roles_at = tuple(None if field is None else self._at[field.name] for field in roles)
        self._codecs: dict[str, _Codecs] = {}

    def _role(self, name: str, fits: Callable[[Any], bool]) -> ColumnMapping | None:
        field = self.by_name.get(name)
        return field if field and field not in self.keys and fits(unwrapped(field.column.type)) else None

    def _names_a_row(self, kind: Any) -> bool:
        own = self.keys[0].column.type
        same = any(isinstance(kind, each) and isinstance(unwrapped(own), each) for each in (Integer, Uuid))
        return len(self.keys) == 1 and (same or (is_text(kind) and is_text(own)))

    @cached_property
    def derive(self) -> Callable[..., None] | None:
        """What brings the tables that follow this one up to date: see `Base.derive`."""
        own = getattr(self.model, "derive", None)
        return None if own is None or own.__func__ is Base.derive.__func__ else own  # type: ignore[attr-defined]

    @cached_property
    def tag_table(self) -> tuple[Column[Any], Column[Any]] | None:
        """The columns (row, tag) of the table by which rows are found by tag.

        It is the one whose primary key is a foreign key to the row and a column `tag`; the model keeps it up to date.
        """
        if self.tags is None or len(self.keys) > 1:
            return None
        for table in self.table.metadata.tables.values():
            key = table.primary_key.columns
            refers = [column for column in key if column.references(self.keys[0].column)]
            if refers and len(key) == 2 and "tag" in key:
                return refers[0], key["tag"]
        return None

    def datum_of(self, row: Sequence[Any], dialect: Dialect) -> Datum:
        """Return the datum that one row is: see `datums_of`."""
        return self.datums_of([row], dialect)[0]

    def datums_of(self, rows: Iterable[Sequence[Any]], dialect: Dialect) -> list[Datum]:
        """Return the datums that rows of `columns` are, from the driver's values.

        Raises:
            Corrupt: a column holds what its type cannot be read from.
        """
        shows = self.codecs(dialect).shown
        found = []
        for row in rows:
            cells = [*row]
            at = 0
            try:
                for at, show in shows:
                    if (value := cells[at]) is not None:
                        cells[at] = show(value)
            except (ValueError, TypeError, ArithmeticError, LookupError):
                raise self._corrupt(at, row) from None
            found.append(cells)
        try:
            return self.datums_from(found)
        except (ValueError, TypeError, AttributeError, OverflowError):  # where no codec stands between
            raise self._unreadable(found) from None

    def _unreadable(self, rows: Iterable[Sequence[Any]]) -> Corrupt:
        """Return the error for the first of some rows that is no datum."""
        for row in rows:
            try:
                self.datums_from([row])
            except (ValueError, TypeError, AttributeError, OverflowError):
                key = [as_text(row[self._at[field.name]]) for field in self.keys]
                return Corrupt(
                    f"the row {key!r} of {self.name} holds what the types of its columns cannot be: mend it with an "
                    "UPDATE, or restore it from a backup"
                )
        raise AssertionError("unreachable")

    def each_of(
        self, rows: Iterable[Sequence[Any]], dialect: Dialect
    ) -> Iterator[tuple[Datum, Sequence[Any]] | Damaged]:
        """Return what each row of `columns` is: a datum, with its row, or what is left of one."""
        for row in rows:
            try:
                yield self.datum_of(row, dialect), row
            except Corrupt as error:
                yield self._damaged(row, str(error), dialect)

    def _damaged(self, row: Sequence[Any], reason: str, dialect: Dialect) -> Damaged:
        version = row[-1] if self.version is not None and type(row[-1]) is int else 0
        content = orjson.dumps(dict(zip(self._at, row, strict=False)), default=as_text, option=CANONICAL)
        return Damaged(self._legible_id(row, dialect), version, reason, content)

    def _legible_id(self, row: Sequence[Any], dialect: Dialect) -> str:
        """Return the id of a row, or what can be read of one that is damaged itself."""
        key = [row[self._at[field.name]] for field in self.keys]
        try:
            return self.id_of(key, dialect)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
            legible = [as_text(part) for part in key]
            return legible[0] if len(legible) == 1 else orjson.dumps(legible).decode()

    def datums_from(self, rows: Iterable[Sequence[Any]]) -> list[Datum]:
        """Return the datums that rows of `columns` are, from values in JSON form; times stay datetimes."""
        at, key, textual, versioned = self._at, self._key_at, self.textual, self.version is not None
        created, parent, tags = self._roles_at
        moment, cause, metadata = None, None, self.plain_metadata
        found = []
        for cells in rows:
            if created is not None and (moment := cells[created]) is not None and moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            if parent is not None and (cause := cells[parent]) is not None and type(cause) is not str:
                cause = as_id(cause)
            if tags is not None:
                metadata = self._metadata(cells[tags])
            found.append(
                load_datum(
                    cells[key] if textual else id_from([cells[at[field.name]] for field in self.keys]),
                    _dumps(dict(zip(at, cells)), None, CANONICAL),  # noqa: B905  # the last cell may be the version
                    0.0 if moment is None else moment.timestamp(),
                    cause,
                    metadata,
                    cells[-1] if versioned else 0,
                    0,
                )
            )
        return found

    @cached_property
    def plain_metadata(self) -> str:
        """The metadata of a row without tags, as canonical JSON."""
        return orjson.dumps({"source": SOURCE, "table": self.name}).decode()

    @cached_property
    def _metadata_start(self) -> str:
        return f'{self.plain_metadata[:-1]},"tags":'

    def _metadata(self, tags: Any) -> str:
        if not isinstance(tags, list):
            return self.plain_metadata
        return f"{self._metadata_start}{orjson.dumps(tags).decode()}}}"

    def key_of(self, id: str) -> list[Any] | None:
        """Return the Python values of the key that an id is made of, or None if no row of this table can have it.

        Raises:
            InvalidRow: it is another spelling of an id, which the message names.
        """
        return [id] if self.textual else key_in(self.name, self.keys, id)

    def cause_of(self, id: str) -> Any:
        """Return the Python value of the column `causal_parent` for an id, or None if it is no id of this table.

        Raises:
            InvalidRow: it is another spelling of an id, which the message names.
        """
        assert self.parent is not None  # noqa: S101  # the caller looked
        found = key_in(self.name, [self.parent], id)
        return None if found is None else found[0]

    def id_of(self, key: Sequence[Any], dialect: Dialect) -> str:
        """Return the id of a row from the driver's values of its key alone."""
        loaded = self.codecs(dialect).loaded
        places = [self._at[field.name] for field in self.keys]
        values = [load(part) if (load := loaded[at]) else part for at, part in zip(places, key, strict=True)]
        return id_from([shown(field, value) for field, value in zip(self.keys, values, strict=True)])

    def values_of(self, row: Sequence[Any], dialect: Dialect) -> dict[str, Any]:
        """Return the Python values of a row by the names of its fields."""
        loaded = self.codecs(dialect).loaded
        return {
            name: load(value) if value is not None and (load := loaded[at]) else value
            for (name, at), value in zip(self._at.items(), row, strict=False)
        }

    def bind(self, fields: Iterable[ColumnMapping], values: Iterable[Any], dialect: Dialect) -> list[Any]:
        """Return the driver's values of Python values.

        Raises:
            InvalidRow: the column does not take its value.
        """
        bound = self.codecs(dialect).bound
        found = []
        for field, value in zip(fields, values, strict=True):
            convert = bound[field.name]
            try:
                found.append(value if convert is None else convert(value))
            except (ValueError, TypeError, OverflowError) as error:
                reason = error.reason if isinstance(error, InvalidRow) else str(error)
                raise InvalidRow(self.name, field.name, reason) from None
        return found

    def codecs(self, dialect: Dialect) -> _Codecs:
        """Return what stands between the values of a driver and JSON; made once per driver."""
        found = self._codecs.get(dialect.driver)
        if found is None:
            found = self._codecs[dialect.driver] = self._make_codecs(dialect)
        return found

    def _make_codecs(self, dialect: Dialect) -> _Codecs:
        made = {field.name: processors(field, dialect) for field in [*self.fields, *self.kept]}
        shown = [(at, show) for name, at in self._at.items() if (show := made[name].show)]
        return _Codecs(shown, [made[name].load for name in self._at], {name: each.bind for name, each in made.items()})

    def _corrupt(self, at: int, row: Sequence[Any]) -> Corrupt:
        key = [row[self._at[field.name]] for field in self.keys]
        return Corrupt(
            f"{self.name}.{self.fields[at].name} of the row {key!r} holds what its type cannot be: "
            "mend it with an UPDATE, or restore the row from a backup"
        )


@cache
def mapping_of(model: type[Any], id_field: str | None = None, hidden: frozenset[str] = frozenset()) -> TableMapping:
    """Return the mapping of a mapped class.

    Raises:
        CapabilityMissing: it has a column without a form in JSON, or more than one table.
        InvalidRow: `id_field` or `hidden` name no column that can be that.
    """
    return TableMapping(model, id_field, hidden)


def check_mapped(model: object) -> None:
    """Refuse what is no mapped class.

    Raises:
        InvalidInput: says what to pass.
    """
    if not isinstance(model, type) or inspect(model, raiseerr=False) is None:
        raise InvalidInput(f"{called(model)} is no model: pass the mapped class itself, as in storage.table(Crystal)")


def as_utc(value: datetime) -> datetime:
    """Return a moment with its zone; a column that keeps none is read as UTC."""
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def has_zone(field: ColumnMapping) -> bool:
    """Tell whether a column of times keeps their zone."""
    kind = unwrapped(field.column.type)
    return isinstance(kind, DateTime) and kind.timezone


def _single_table(mapper: Mapper[Any]) -> Table:
    if len(mapper.tables) != 1 or mapper.polymorphic_on is not None or not isinstance(mapper.local_table, Table):
        raise CapabilityMissing(
            f"{mapper.class_.__name__} is not mapped to one table of its own: lift its parts one by one"
        )
    return mapper.local_table


def _version_column(mapper: Mapper[Any]) -> Column[Any] | None:
    column = mapper.version_id_col
    return column if column is not None and isinstance(column.type, Integer) else None  # type: ignore[return-value]


def _check_names(table: str, columns: dict[str, Column[Any]], keys: list[str], hidden: frozenset[str]) -> None:
    for name in (*keys, *hidden):
        if name not in columns:
            raise InvalidRow(table, name, f"is no column; they are {', '.join(sorted(columns))}")
    for name in keys:
        if name in hidden:
            raise InvalidRow(table, name, "is the id, which cannot be hidden")
    (first, *more) = keys
    if not more and columns[first].nullable:
        raise InvalidRow(table, first, "can be null, so it cannot be the id")
