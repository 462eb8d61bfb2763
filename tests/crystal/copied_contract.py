"""A contract with a field of every kind, the table that it is promoted to, and older versions of a mark."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta  # SQLAlchemy and pydantic read the annotations at run time
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from sqlalchemy import BigInteger, Enum, Interval, LargeBinary, MetaData
from sqlalchemy.orm import Mapped, mapped_column

from dgent.crystal import Ref, Schema, Schemas
from dgent.crystal.default_schemas import WitnessMark
from dgent.models import Base
from dgent.models.base import JSON, CrystalMixin, ExactDecimal, JSONDict, JSONList


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild; -- o'clock"


@dataclass(frozen=True)
class Part:
    name: str
    raw: bytes = b""
    at: datetime | None = None


@dataclass(frozen=True)
class Wide:
    word: str
    count: int
    real: float
    flag: bool
    exact: Decimal
    moment: datetime
    day: date
    hour: time
    span: timedelta
    uid: UUID
    raw: bytes
    mood: Mood
    kind: Literal["a", "b"]
    points: tuple[int, ...]
    parts: tuple[Part, ...]
    part: Part
    names: dict[str, int]
    either: int | str
    whatever: Any = None
    words: frozenset[str] = frozenset()
    maybe: str | None = None
    perhaps: tuple[str, ...] | None = None
    on: Ref[Any] | None = None
    tags: tuple[str, ...] = ()
    author: str | None = None


@dataclass(frozen=True)
class Narrow:
    """A mark without its principles."""

    action: str
    reasoning: str
    author: str


class WideRow(CrystalMixin, Base):
    __tablename__ = "test_wides"
    metadata = MetaData()

    word: Mapped[str]
    count: Mapped[int] = mapped_column(BigInteger)
    real: Mapped[float]
    flag: Mapped[bool]
    exact: Mapped[Decimal] = mapped_column(ExactDecimal)
    moment: Mapped[datetime]
    day: Mapped[date]
    hour: Mapped[time]
    span: Mapped[timedelta] = mapped_column(Interval)
    uid: Mapped[UUID]
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    mood: Mapped[str] = mapped_column(
        Enum("calm", "wild; -- o'clock", native_enum=False, create_constraint=True, name="mood")
    )
    kind: Mapped[str] = mapped_column(Enum("a", "b", native_enum=False, create_constraint=True, name="kind"))
    points: Mapped[list[Any]] = mapped_column(JSONList)
    parts: Mapped[list[Any]] = mapped_column(JSONList)
    part: Mapped[dict[str, Any]] = mapped_column(JSONDict)
    names: Mapped[dict[str, Any]] = mapped_column(JSONDict)
    either: Mapped[Any] = mapped_column(JSON())
    whatever: Mapped[Any] = mapped_column(JSON(), nullable=True)
    words: Mapped[list[Any]] = mapped_column(JSONList)
    maybe: Mapped[str | None]
    perhaps: Mapped[list[Any] | None] = mapped_column(JSONList)
    on: Mapped[str | None]
    author: Mapped[str | None]


class MarkRow(CrystalMixin, Base):
    __tablename__ = "test_marks"
    metadata = MetaData()

    action: Mapped[str]
    reasoning: Mapped[str]
    author: Mapped[str]
    principles: Mapped[list[str]] = mapped_column(JSONList)


WIDE = Schema("test.wide", 1, Wide)
MARK = WitnessMark.schema
KNOWN = Schemas([WIDE, MARK])

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
zones = st.sampled_from([ZoneInfo(name) for name in ("UTC", "America/New_York", "Asia/Kathmandu", "Europe/Zurich")])
moments = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=zones)  # noqa: DTZ001  # the zone is drawn
parts = st.builds(Part, texts, st.binary(max_size=8), st.none() | moments)
numbers = st.integers(-(2**53), 2**53)
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
wides = st.builds(
    Wide,
    word=texts,
    count=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    exact=st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**30), max_value=10**30),
    moment=moments,
    day=st.dates(),
    hour=st.times(),
    span=st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000)),
    uid=st.uuids(),
    raw=st.binary(max_size=40),
    mood=st.sampled_from(Mood),
    kind=st.sampled_from(["a", "b"]),
    points=st.lists(numbers, max_size=4).map(tuple),
    parts=st.lists(parts, max_size=3).map(tuple),
    part=parts,
    names=st.dictionaries(texts, numbers, max_size=3),
    either=numbers | texts,
    whatever=plain,
    words=st.frozensets(texts, max_size=4),
    maybe=st.none() | texts,
    perhaps=st.none() | st.lists(texts, max_size=3).map(tuple),
    on=st.none() | st.builds(Ref, st.uuids().map(str)),
    tags=st.lists(texts, max_size=3, unique=True).map(tuple),
    author=st.none() | texts,
)
