"""What every typed table shares: the declarative base, column types that are equal on SQLite and Postgres, mixins."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON as SQLJSON
from sqlalchemy import CheckConstraint, DateTime, Integer, MetaData, Numeric, event, inspect, text
from sqlalchemy import Text as SQLText
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, declared_attr, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from dgent.datum_id import uuid7
from dgent.exceptions import InvalidDatum, InvalidRow
from dgent.jsonvalue import canonical_json
from dgent.validation import ID_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.operators import OperatorType

_ISO = "%(year)04d-%(month)02d-%(day)02dT%(hour)02d:%(minute)02d:%(second)02d.%(microsecond)06dZ"
_LARGEST, _SMALLEST = 131_071, -16_383
"""The exponents of the first and of the last digit that a NUMERIC of PostgreSQL can have."""


class InvalidValue(InvalidRow, DontWrapMixin):
    """A value that its column does not take, refused before it reaches the driver."""

    def __init__(self, reason: str) -> None:
        super().__init__("value", None, reason)


class UTCDateTime(TypeDecorator[datetime]):
    """A moment with microseconds, kept and given back in UTC; a naive datetime is refused.

    On SQLite it is text of a fixed width, `2026-01-31T08:15:00.000000Z`: it sorts by time and a person can read it.
    """

    impl = DateTime(timezone=True).with_variant(
        sqlite.DATETIME(storage_format=_ISO),  # type: ignore[no-untyped-call]
        "sqlite",
    )
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC.

        Raises:
            InvalidValue: it is no datetime, has no time zone, or lies outside of the years 1 to 9999.
        """
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise InvalidValue(f"a time is a datetime, not {type(value).__name__}")
        if value.utcoffset() is None:
            raise InvalidValue(f"{value} has no time zone: write datetime.now(UTC), or value.replace(tzinfo=...)")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidValue(f"{value} is not between the years 1 and 9999 in UTC") from None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC; SQLite's own `CURRENT_TIMESTAMP` names no zone and means it."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Text(TypeDecorator[str]):
    """Text that compares and sorts byte by byte on both databases; NUL and lone surrogates are refused."""

    impl = SQLText().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        """Return the text as it is.

        Raises:
            InvalidValue: it is no text, or text that not both databases can keep.
        """
        if value is None:
            return None
        if not isinstance(value, str):
            raise InvalidValue(f"text is str, not {type(value).__name__}")
        if "\0" in value:
            raise InvalidValue("text holds a NUL character, which PostgreSQL cannot store: remove it or encode it")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidValue("text holds a lone surrogate, which is not Unicode text") from None
        return value


class _JSONText(SQLJSON):
    """JSON in a TEXT column: in one declared JSON, SQLite would turn the text `1e15` into an integer."""


@compiles(_JSONText)
def _text(element: _JSONText, compiler: SQLCompiler, **kw: Any) -> str:
    return "TEXT"


class JSON(TypeDecorator[Any]):
    """A JSON value, JSONB on Postgres; None is SQL's NULL. What not both databases can keep is refused."""

    impl = _JSONText(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    cache_ok = True

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """Let paths into the value, `column["a"]`, work as on a plain JSON column."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the value as plain lists and dicts.

        Raises:
            InvalidValue: it is not JSON, or JSON that not both databases can keep (NUL, NaN, integers over 64 bits).
        """
        if value is None:
            return None
        plain = _plain(value)
        try:
            canonical_json(plain, "the value")
        except InvalidDatum as error:
            raise InvalidValue(str(error)) from None
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, MutableList):
        return list(value)
    return dict(value) if isinstance(value, MutableDict) else value


JSONList = MutableList.as_mutable(JSON())
"""A JSON list whose changes in place are noticed and saved: `crystal.tags.append("maps")`."""
JSONDict = MutableDict.as_mutable(JSON())
"""A JSON object whose changes in place are noticed and saved, one level deep: `citizen.traits["age"] = 3`."""


def digits(number: Decimal) -> str:
    """Return the digits of a number, without an exponent and without zeros at the end: numbers that are equal have one.

    Raises:
        ValueError: it is not finite, or no NUMERIC of PostgreSQL can hold it; the reason, without the subject.
    """
    if not number.is_finite():
        raise ValueError(f"holds {number}, which JSON cannot")
    if number and not (number.adjusted() <= _LARGEST and int(number.as_tuple().exponent) >= _SMALLEST):
        raise ValueError("has more digits than PostgreSQL can keep")
    text = f"{number:f}" if number else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


class _DecimalText(TypeDecorator[Decimal]):
    """A decimal number as the text of its digits."""

    impl = SQLText
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Return the digits."""
        return None if value is None else digits(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return the number."""
        return None if value is None else Decimal(value)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number with all of its digits: NUMERIC on PostgreSQL, TEXT on SQLite, whose numbers are floats.

    Zeros at the end are no digits: 1.50 is given back as 1.5. On SQLite it is equal to itself, and sorts as text.
    """

    impl = Numeric().with_variant(_DecimalText(), "sqlite")
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> Decimal | None:
        """Return the number in its shortest form.

        Raises:
            InvalidValue: it is no decimal number, or one that PostgreSQL cannot keep.
        """
        if value is None:
            return None
        if type(value) is not int and not isinstance(value, Decimal):
            raise InvalidValue(f'a number with exact digits is a Decimal, not {type(value).__name__}: Decimal("1.5")')
        try:
            return Decimal(digits(Decimal(value)))
        except ValueError as error:
            raise InvalidValue(f"the number {error}") from None


def length(column: str, most: int = ID_LENGTH, *, least: int = 1, quoted: bool = False) -> CheckConstraint:
    """Return a check that a text has `least` to `most` code points: what is longer fits no index of Postgres.

    `quoted` is for a column whose name means something in SQL, like `user`.
    """
    name = f'"{column}"' if quoted else column
    return CheckConstraint(f"length({name}) BETWEEN {least} AND {most}", name=f"{column}_length")


def utcnow() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


class Base(AsyncAttrs, DeclarativeBase):
    """Base of every typed table.

    A new instance has its columns' Python-side defaults at once, not only after the flush.
    """

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {str: Text(), datetime: UTCDateTime()}  # noqa: RUF012 - read by DeclarativeBase as it is

    @classmethod
    def derive(cls, connection: Connection, ids: Sequence[Any]) -> None:
        """Bring what other tables derive from these rows up to date; rows written through the ORM do it themselves.

        A writer that goes past the ORM calls it inside its transaction with the primary keys that it wrote.
        """

    def __repr__(self) -> str:
        state = inspect(self)
        keys = (state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key)
        return f"{type(self).__name__}({', '.join(f'{key}={state.dict.get(key)!r}' for key in keys)})"


@event.listens_for(Base, "init", propagate=True)
def _fill_defaults(target: Base, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for key, default in _defaults(type(target)):
        if key not in kwargs:
            kwargs[key] = default(None)


@cache
def _defaults(model: type[Base]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    return tuple(_python_side(inspect(model)))


def _python_side(mapper: Mapper[Any]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    for attribute in mapper.column_attrs:
        default = getattr(attribute.columns[0], "default", None)
        if default is not None and default.is_callable:
            yield attribute.key, default.arg
        elif default is not None and default.is_scalar:
            yield attribute.key, lambda _, value=default.arg: value  # type: ignore[misc]


class IdMixin:
    """A text id that every store can keep, as a UUIDv7 where none is given."""

    id: Mapped[str] = mapped_column(length("id"), primary_key=True, default=uuid7, sort_order=-1)


class TimestampMixin:
    """When a row was made and last changed."""

    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow, onupdate=utcnow)


class CausalMixin:
    """The id of the row in the same table that caused this one.

    It is no foreign key: an absent parent ends the chain, and deleting a parent changes no child.
    """

    causal_parent: Mapped[str | None] = mapped_column(length("causal_parent"), index=True)


class DatumMixin:
    """The id of the datum that holds this row's content in agent memory, which may lie in another store."""

    datum_id: Mapped[str | None] = mapped_column(length("datum_id"), index=True)


class VersionMixin:
    """A version that each write raises by one; 1 is the first.

    The ORM raises StaleDataError where the row in the database has another version than the one that was loaded. A
    statement that goes past the ORM sets `version = version + 1` itself.
    """

    version: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        return {"version_id_col": cls.version}


class CrystalMixin(IdMixin, CausalMixin, VersionMixin):
    """What a crystal that became a row keeps of its datum: id, cause, time, tags, and in `about` the other metadata.

    The version is that of the row: 1 is the first.
    """

    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    about: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)
