"""What a model looks like from agent memory: which columns are the id, the content, the time, the cause, the version.

A row is this datum:

* `id`: the primary key. Text is the id as it is, other types in their JSON form, several columns as a JSON array.
* `content`: a JSON object of all mapped columns but the version and those that are hidden; sorted keys, the forms of
  `dgent.bridge.codec`.
* `created_at`, `causal_parent`, `version`: the columns `created_at` and `causal_parent`, and the mapper's version column.
* `metadata`: where it comes from, `{"source": "alembic", "table": ...}`, and the row's `tags`.

On the way back the columns come from the content. What the content leaves out comes from the datum (`created_at`,
`causal_parent`, `metadata["tags"]`), else it takes the column's default. A key, a time or a cause that the content and the
datum give differently is refused, and so is what the row has no place for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import JSON, Column, DateTime, Integer, String, Table, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper

from dgent.bridge.codec import Form, form_of, settled, unwrapped
from dgent.datum import Datum, load_datum
from dgent.exceptions import CapabilityMissing, Corrupt, DgentError, InvalidRow

SOURCE: Final = "alembic"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z
_dumps = orjson.dumps
_loads = orjson.loads


class Field(NamedTuple):
    """One column of a row.

    Attributes:
        default: makes the value of a new row that gives none; None where the database does, or there is none.
        fresh: the default is new at each call (a time, an id), so it is drawn for new rows only.
        stamp: makes the value when the row changes.
        optional: the content may leave it out.
    """

    name: str
    column: Column[Any]
    form: Form
    default: Callable[[], Any] | None
    fresh: bool
    stamp: Callable[[], Any] | None
    optional: bool


class Converters(NamedTuple):
    """What stands between a driver's values and ours, for one driver."""

    shown: list[tuple[int, Callable[[Any], Any]]]
    """(place in the row, from the driver's value to JSON)"""
    loaded: list[Callable[[Any], Any] | None]
    bound: dict[str, Callable[[Any], Any] | None]


class Layout:
    """The columns of one model by their roles. Make it with `layout_of`."""

    def __init__(self, model: type[Any], id_field: str | None, hidden: frozenset[str]) -> None:
        mapper: Mapper[Any] = inspect(model)
        self.model = model
        self.name = mapper.local_table.name if isinstance(mapper.local_table, Table) else model.__name__
        self.table = _single_table(mapper, self.name)
        self.version: Column[Any] | None = _version_column(mapper)
        every = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
        keys = [id_field] if id_field else [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        _check_names(self.name, every, keys, hidden)
        shown = {
            name: column
            for name, column in sorted(every.items())
            if name not in hidden and column is not self.version and column.computed is None
        }
        self.fields = [_field(model, self.name, name, column) for name, column in shown.items()]
        self.by_name = {field.name: field for field in self.fields}
        self.keys = [self.by_name[name] for name in keys]
        self.is_primary = [field.column for field in self.keys] == list(mapper.primary_key)
        self.created = self._role("created_at", lambda field: isinstance(unwrapped(field.column.type), DateTime))
        self.parent = self._role("causal_parent", self._points_to_a_row)
        self.tags = self._role("tags", lambda field: isinstance(unwrapped(field.column.type), JSON))
        self.kept = [  # hidden columns that the ORM would fill
            _field(model, self.name, name, every[name])
            for name in sorted(hidden)
            if every[name].default is not None or every[name].onupdate is not None
        ]
        self.textual = len(self.keys) == 1 and isinstance(unwrapped(self.keys[0].column.type), String)
        self._by_driver: dict[str, Converters] = {}
        self._read_by: dict[str, Callable[[Sequence[Any]], Datum]] = {}

    def _role(self, name: str, fits: Callable[[Field], bool]) -> Field | None:
        field = self.by_name.get(name)
        return field if field is not None and field not in self.keys and fits(field) else None

    def _points_to_a_row(self, field: Field) -> bool:
        (key, *more) = (type(unwrapped(key.column.type)) for key in self.keys)
        return not more and issubclass(type(unwrapped(field.column.type)), _family(key))

    @cached_property
    def tag_table(self) -> tuple[Table, Column[Any]] | None:
        """The table that indexes the tags of rows, and its column that refers to them.

        It is the one whose primary key is a foreign key to the row and a column `tag`.
        """
        if self.tags is None or len(self.keys) > 1:
            return None
        for table in self.table.metadata.tables.values():
            names = {column.name for column in table.primary_key}
            refers = [column for column in table.primary_key if column.references(self.keys[0].column)]
            if len(names) == 2 and "tag" in names and refers:
                return table, refers[0]
        return None

    @cached_property
    def derive(self) -> Callable[..., None] | None:
        """What the model does after rows were written past the ORM: its own classmethod `derive`."""
        own = getattr(self.model, "derive", None)
        base = next((cls for cls in reversed(self.model.__mro__) if "derive" in vars(cls)), None)
        if own is None or base is None or own.__func__ is getattr(base, "derive").__func__:  # noqa: B009  # a classmethod
            return None if base is None or base.__subclasses__() else own
        return own  # type: ignore[no-any-return]
