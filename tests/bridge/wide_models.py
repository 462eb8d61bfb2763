"""Test models that are wider than D-gent's own: every column type, and every kind of key."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta  # SQLAlchemy reads the annotations at run time
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Time,
    Uuid,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from dgent.models import (
    Base,
    CausalMixin,
    IdMixin,
    JSONDict,
    JSONList,
    TimestampMixin,
    UTCDateTime,
    VersionMixin,
    utcnow,
)

_codes = count()


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Wide(Base):
    """Every column type, with and without null."""

    __tablename__ = "test_wide"
    metadata = MetaData()

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utcnow, onupdate=utcnow)
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    body: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    whole: Mapped[int | None] = mapped_column(Integer)
    big: Mapped[int | None] = mapped_column(BigInteger)
    real: Mapped[float | None] = mapped_column(Float(53))
    exact: Mapped[Decimal | None] = mapped_column(Numeric(12, 4))
    short: Mapped[str | None] = mapped_column(String(5))
    flag: Mapped[bool | None] = mapped_column(Boolean)
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)
    uid: Mapped[UUID | None] = mapped_column(Uuid)
    day: Mapped[date | None] = mapped_column(Date)
    hour: Mapped[time | None] = mapped_column(Time)
    local: Mapped[datetime | None] = mapped_column(DateTime)
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    moment: Mapped[datetime | None] = mapped_column(UTCDateTime())
    span: Mapped[timedelta | None] = mapped_column(Interval)
    color: Mapped[Color | None] = mapped_column(Enum(Color))
    word: Mapped[str | None] = mapped_column(Enum("a", "b", name="test_word"))
    plain: Mapped[Any] = mapped_column(JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=True)
    code: Mapped[str] = mapped_column(String(5), unique=True, default=lambda: f"{next(_codes):05x}")
    score: Mapped[int] = mapped_column(server_default=text("7"))
    column_name: Mapped[str | None] = mapped_column("other_name")


class Counted(Base):
    """A key that the database counts."""

    __tablename__ = "test_counted"
    metadata = Wide.metadata

    id: Mapped[int] = mapped_column(primary_key=True)
    causal_parent: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utcnow)
    slug: Mapped[str] = mapped_column(unique=True)


class Uniquely(Base):
    """A UUID as the key."""

    __tablename__ = "test_uniquely"
    metadata = Wide.metadata

    id: Mapped[UUID] = mapped_column(primary_key=True)
    n: Mapped[int]


class Paired(Base):
    """A key of two columns, which is all there is."""

    __tablename__ = "test_paired"
    metadata = Wide.metadata

    left: Mapped[str] = mapped_column(primary_key=True)
    right: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Note(IdMixin, CausalMixin, TimestampMixin, VersionMixin, Base):
    """What the contract of agent memory is checked on: it can all that a table can."""

    __tablename__ = "test_notes"
    metadata = Wide.metadata

    n: Mapped[int]
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    secret: Mapped[str] = mapped_column(default="unset")
