"""What is to be written, and whether both databases and Python take every name in it."""

from __future__ import annotations

import keyword
import re
import textwrap
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects import postgresql, sqlite

from dgent.bridge.table_registry import names_of
from dgent.crystal.promotion.columns import TAGS, columns_of
from dgent.error_messages import nearest
from dgent.exceptions import InvalidInput, InvalidSchema
from dgent.migrations import VERSION_TABLE
from dgent.models import Base, CrystalMixin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.crystal.promotion.columns import Column
    from dgent.crystal.schema import Schema

_DIALECTS: Final = (postgresql.dialect(), sqlite.dialect())  # type: ignore[no-untyped-call]
_LONGEST: Final = 63
"""Bytes of a name in PostgreSQL, which would cut a longer one."""
_TABLE: Final = re.compile(r"[a-z][a-z0-9_]*")
_OURS: Final = ("dgent_", "sqlite_", "pg_", VERSION_TABLE, "alembic_version")
_MIXED_IN: Final = ("id", "causal_parent", "version", "created_at", TAGS, "about")
"""The columns of CrystalMixin; the first, the second and the fourth have an index."""
_HIDING: Final = {"Any", "datetime", "dict", "int", "list", "str"}
"""What the annotations of the mixins name, which SQLAlchemy looks up in the class first."""
_TAKEN: Final = {*dir(Base), *dir(CrystalMixin), *_HIDING} - {TAGS}


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table that is to be written. Make it with `plan`, which checks it.

    Attributes:
        schema: the contract's.
        version: that of the schema.
        summary: one line on it, in which there is nothing to escape but backslashes.
        name: of the model.
        table: of the model.
        indexes: names of columns.
    """

    schema: str
    version: int
    summary: str
    name: str
    table: str
    columns: tuple[Column, ...]
    indexes: tuple[str, ...]

    @property
    def bounded(self) -> list[Column]:
        """The columns of any text that are indexed: what is longer than an id fits no index of PostgreSQL."""
        return [each for each in self.columns if each.name in self.indexes and each.kind.revision == "TEXT"]

    @property
    def relations(self) -> list[str]:
        """How the table, its key and its indexes are called: in a database they share one space of names."""
        columns = [*self.indexes, "causal_parent", "created_at_id"]
        return [self.table, f"pk_{self.table}", *(f"ix_{self.table}_{each}" for each in columns)]

    @property
    def checks(self) -> list[str]:
        """How the checks of the table are called."""
        lengths = [f"{each}_length" for each in ["id", *(each.name for each in self.bounded), "causal_parent"]]
        labels = [each.name for each in self.columns if each.kind.labels]
        return [f"ck_{self.table}_{each}" for each in [*lengths, *labels]]


def plan(schema: Schema[Any], table: str, indexes: Iterable[str]) -> TablePlan:
    """Plan the table that the crystals of a schema get.

    Raises:
        InvalidInput: no table can be called that, or an index is asked for that there cannot be.
        InvalidSchema: a field of the contract cannot be a column under its name.
    """
    _check_table(table)
    for name in schema.fields:
        _check_field(schema, name)
    _check_spelling(schema)
    columns = tuple(columns_of(schema))
    asked = dict.fromkeys([indexes] if isinstance(indexes, str) else indexes)
    made = TablePlan(
        schema.name,
        schema.version,
        summary_of(schema.contract, f"A crystal of {schema.name}"),
        _class_name(schema),
        table,
        columns,
        tuple(name for name in asked if _check_index(name, table, columns)),
    )
    _check_names(made)
    return made


def reserved(name: str) -> bool:
    """Tell whether one of the databases takes a name in quotes only."""
    return any(dialect.identifier_preparer.quote(name) != name for dialect in _DIALECTS)


def summary_of(contract: type, otherwise: str) -> str:
    """Return the first line of a class's own docstring as one plain sentence, without quotes and line ends."""
    own = contract.__dict__.get("__doc__") or ""
    if own.startswith(f"{contract.__name__}("):  # what @dataclass writes where there is none
        own = ""
    first = next((line for line in own.splitlines() if line.strip()), "")
    plain = "".join(each if each.isprintable() else " " for each in first).replace('"', "'")
    text = textwrap.shorten(plain, 100, placeholder="...") or otherwise
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _check_table(table: str) -> None:
    if not isinstance(table, str) or not _TABLE.fullmatch(table):
        raise InvalidInput(f"a table is named with small letters, digits and _, like witness_marks, not {table!r:.80}")
    if table.startswith(_OURS) or keyword.iskeyword(table) or reserved(table):
        raise InvalidInput(
            f"a table cannot be called {table}, which has a meaning already: choose a noun in the plural"
        )
    if table in Base.metadata.tables:
        raise InvalidInput(f"there is a table {table} already: choose another name")


def _check_field(schema: Schema[Any], name: str) -> None:
    free = name not in _TAKEN and not name.startswith("_") and not keyword.iskeyword(name)
    plain = name.isidentifier() and unicodedata.normalize("NFKC", name) == name
    if not (free and plain):
        raise _rename(schema, f"a column cannot be called {name!r:.80}, which every model or Python itself uses")


def _check_spelling(schema: Schema[Any]) -> None:
    """Refuse two names that SQLite takes for one."""
    counted = Counter(name.lower() for name in [*schema.fields, *(set(_MIXED_IN) - schema.fields.keys())])
    for name in schema.fields:
        if counted[name.lower()] > 1:
            raise _rename(schema, f"SQLite takes the column {name!r} for another that is spelled in other letters")


def _check_index(name: str, table: str, columns: tuple[Column, ...]) -> bool:
    """Tell whether an index is to be made; the mixin has some.

    Raises:
        InvalidInput: there is no such column, or it fits no index.
    """
    if name in {"id", "causal_parent", "created_at"}:
        return False
    found = {each.name: each for each in columns}
    if name not in {*found, *_MIXED_IN}:
        raise InvalidInput(f"{table} has no column {name!r:.80}{nearest(str(name), found)}")
    if name not in found or found[name].kind.revision in {"JSON", "sa.LargeBinary()"}:
        raise InvalidInput(
            f"{table}.{name} cannot be indexed: an index is of a text, a number, a time or an id of the contract"
        )
    return True


def _check_names(made: TablePlan) -> None:
    for mapper in Base.registry.mappers:
        taken = set(names_of(mapper.class_.__name__, str(mapper.persist_selectable)))
        if both := taken.intersection(names_of(made.name, made.table)):
            raise InvalidInput(
                f"agents would take {made.table} for {mapper.persist_selectable}, which is called {min(both)} as well: "
                "choose another name"
            )
    tables = Base.metadata.tables
    theirs = {*tables}
    for table in tables.values():
        theirs |= {str(each.name) for each in table.indexes} | {str(each.name) for each in table.constraints}
    names = [*made.relations, *made.checks]
    for name in names:
        if len(name.encode()) > _LONGEST:
            raise InvalidInput(
                f"{name} has more than {_LONGEST} bytes, which is the longest name in PostgreSQL: "
                f"choose a shorter one than {made.table}"
            )
        if names.count(name) > 1 or name in theirs:
            raise InvalidInput(f"there would be two of the name {name}: choose another name than {made.table}")
    for each in made.columns:
        if len(each.name.encode()) > _LONGEST:
            raise InvalidInput(f"the column {each.name} has more than {_LONGEST} bytes: PostgreSQL would cut its name")


def _class_name(schema: Schema[Any]) -> str:
    name = schema.contract.__name__
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise InvalidSchema(f"{schema.name}: a model cannot be called {name!r:.80}, as the contract is: rename that")
    mapped = {each.class_.__name__ for each in Base.registry.mappers}
    return f"{name}Row" if name in mapped else name


def _rename(schema: Schema[Any], reason: str) -> InvalidSchema:
    return InvalidSchema(f"{schema.name}: {reason}: rename the field, with a migration to version {schema.version + 1}")
