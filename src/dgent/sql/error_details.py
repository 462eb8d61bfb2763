"""What a database says of a row that it refused, and of SQL that it cannot run: names, and never a value.

SQLite names things in its text, in English whatever the locale. PostgreSQL has fields for tables, columns and
constraints; the columns of a key stand in the detail, before the values, which are left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dgent.error_messages import UPGRADE
from dgent.exceptions import DgentError, IntegrityViolation, InvalidQuery, SchemaOutdated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import MetaData

_KINDS: Final = {
    "SQLITE_CONSTRAINT_UNIQUE": "unique",
    "SQLITE_CONSTRAINT_PRIMARYKEY": "unique",
    "SQLITE_CONSTRAINT_ROWID": "unique",
    "SQLITE_CONSTRAINT_NOTNULL": "not null",
    "SQLITE_CONSTRAINT_CHECK": "check",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "foreign key",
    "SQLITE_CONSTRAINT_DATATYPE": "type",
    "SQLITE_MISMATCH": "type",
    "23505": "unique",
    "23502": "not null",
    "23514": "check",
    "23503": "foreign key",
    "23001": "foreign key",
}
_KEY: Final = re.compile(r"Key \((.+?)\)=\(")  # what follows are values
_OF_SQLITE: Final = re.compile(r"(?:UNIQUE|NOT NULL) constraint failed: (?!index )(.+)", re.DOTALL)
_CHECK: Final = re.compile(r"CHECK constraint failed: (\w+)\Z")  # one without a name says its expression
_MISTAKE: Final = re.compile(
    r"no such (?:table|column|function|index|view|trigger|savepoint|module|collation sequence)\b|ambiguous column name|"
    r"table \S+ (?:has no column named|already exists|has \d+ columns)|near \".*\": syntax error|incomplete input|"
    r"\d+ values for \d+ columns|wrong number of arguments|You can only execute one statement|"
    r"misuse of |row value misused|sub-select returns|(?:GROUP|ORDER) BY ",
    re.DOTALL,
)
_MISSING: Final = re.compile(r"no such (?:table|column): (?:\w+\.)?(\w+)\Z|has no column named (\w+)\Z")
_QUOTED: Final = re.compile(r"[\"«„](?:\w+\.)?(\w+)[\"»“]|\b\w+\.(\w+)\b")
_OURS: Final = re.compile(r"dgent_\w+|_agent_store_\w+")
_UNKNOWN_NAME: Final = ("42P01", "42703")
_SCHEMA: Final = f"{{what}} lacks a table or column that this code needs: {UPGRADE}"
_SQL: Final = "{what} does not take this SQL: {text}"

_declared: list[MetaData] = []


def declare(metadata: MetaData) -> None:
    """Let what lacks a table or a column of this metadata be SchemaOutdated, not a mistake in somebody's SQL."""
    if metadata not in _declared:
        _declared.append(metadata)


def violation_of_sqlite(name: str, text: str) -> IntegrityViolation:
    """Return the error for a row that SQLite refused with an error of this name and text."""
    kind = _KINDS.get(name)
    found = _OF_SQLITE.match(text)
    places = [place.rpartition(".") for place in found[1].split(", ")] if found else []
    check = _CHECK.match(text)
    table = places[0][0] or None if places else None
    return IntegrityViolation(table, tuple(column for _, _, column in places), kind, check[1] if check else None)


def violation_of_postgres(state: str, links: Iterable[BaseException]) -> IntegrityViolation:
    """Return the error for a row that PostgreSQL refused with this SQLSTATE."""
    said = [each for link in links for each in (link, getattr(link, "diag", None)) if each is not None]

    def first(*names: str) -> str | None:
        found = (getattr(each, name, None) for each in said for name in names)
        return next((value for value in found if isinstance(value, str)), None)

    column, key = first("column_name"), _KEY.match(first("detail", "message_detail") or "")
    columns = (column,) if column else tuple(key[1].split(", ")) if key else ()
    return IntegrityViolation(first("table_name"), columns, _KINDS.get(state), first("constraint_name"))


def mistake_of_sqlite(text: str, sql: str | None, what: str) -> DgentError | None:
    """Return the error for SQL that SQLite does not take, if its text says that, and holds no stored value."""
    if not _MISTAKE.match(text):
        return None
    missing = _MISSING.search(text)
    return _mistake((missing[1] or missing[2]) if missing else None, text, sql, what)


def mistake_of_postgres(state: str, links: Iterable[BaseException], sql: str | None, what: str) -> DgentError | None:
    """Return the error for SQL that PostgreSQL does not take."""
    if not state.startswith("42"):
        return None
    text = next(
        (said for link in links if isinstance(said := getattr(link, "message", None), str)), f"SQLSTATE {state}"
    )
    missing = _QUOTED.search(text) if state in _UNKNOWN_NAME else None
    return _mistake((missing[1] or missing[2]) if missing else None, text, sql, what)


def _mistake(missing: str | None, text: str, sql: str | None, what: str) -> DgentError:
    """Tell a name that the code of this library needs from one that somebody wrote."""
    if missing is not None and (
        _OURS.fullmatch(missing) or any(_needs(metadata, missing, sql) for metadata in _declared)
    ):
        return SchemaOutdated(_SCHEMA.format(what=what))
    return InvalidQuery(_SQL.format(what=what, text=text.splitlines()[0]))


def _needs(metadata: MetaData, name: str, sql: str | None) -> bool:
    """Tell whether a table has this name, or has a column of it and is spoken of; without `sql` the SQL is ours."""
    tables = metadata.tables.values()
    return name in metadata.tables or any(name in table.c and (sql is None or table.name in sql) for table in tables)
