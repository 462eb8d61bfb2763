"""A row is a datum and back, for every model and every column type."""

from __future__ import annotations

import base64
import math
import os
import time as clock
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, PickleType, inspect, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dgent import models
from dgent.bridge import TableAdapter
from dgent.bridge.layout import layout_of
from dgent.database import Database
from dgent.datum import Datum
from dgent.exceptions import CapabilityMissing, Corrupt, IntegrityViolation, InvalidRow
from dgent.models import Base, Crystal
from dgent.testing.base import examples

from .wide import Color, Counted, Note, Paired, Uniquely, Wide

MODELS = sorted((mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__module__.startswith("dgent.")), key=str)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(st.none() | st.booleans() | numbers | texts, lambda it: st.lists(it, max_size=3) | st.dictionaries(texts, it, max_size=3))
moments = st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-14))]),
                       min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31))  # noqa: DTZ001
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "created_at": moments,
    "updated_at": moments,
    "tags": st.lists(texts, max_size=3),
    "body": st.dictionaries(texts, jsons, max_size=3),
    "small": st.integers(-(2**15), 2**15 - 1),
    "whole": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "exact": st.decimals(-(10**8) + 1, 10**8 - 1, places=4),
    "short": texts.map(lambda value: value[:5]),
    "flag": st.booleans(),
    "raw": st.binary(max_size=9),
    "uid": st.uuids(),
    "day": st.dates(),
    "hour": st.times(),
    "local": st.datetimes(),
    "zoned": moments,
    "moment": moments,
    "span": st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000)),
    "color": st.sampled_from(Color),
    "word": st.sampled_from("ab"),
    "plain": jsons,
    "score": st.integers(-9, 9),
    "column_name": texts,
}
REQUIRED = {"created_at", "updated_at", "tags", "body", "score"}


def rows() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({
        name: values if name in REQUIRED else st.none() | values for name, values in VALUES.items()
    })


async def wide(database: Database, **options: Any) -> TableAdapter:
    await database.write(Wide.metadata.create_all)
    return TableAdapter(Wide, database, **options)


async def insert(database: Database, *instances: Any) -> None:
    """Write rows as a program does that has never heard of datums."""

    def work(connection: Any) -> None:
        with Session(connection) as session:
            session.add_all(instances)
            session.flush()

    await database.write(work)


async def load(database: Database, model: Any, key: Any) -> Any:
    def work(connection: Any) -> Any:
        with Session(connection, expire_on_commit=False) as session:
            return session.get(model, key)

    return await database.read(work)


@examples()
@given(row=rows())
async def test_b1_what_the_orm_wrote_comes_back_as_it_was(database: Database, row: dict[str, Any]) -> None:
    table = await wide(database)
    await table.purge("x")
    await insert(database, Wide(id="x", **row))
    before = await load(database, Wide, "x")
    found = await table.get("x")
    assert found is not None
    assert await table.put(found) == found
    after = await load(database, Wide, "x")
    for name in VALUES:
        assert getattr(after, name) == getattr(before, name), name
    await table.purge("x")
    assert await table.put(found) == found
    assert await table.get("x") == found
    again = await load(database, Wide, "x")
    for name in VALUES:
        assert getattr(again, name) == getattr(before, name), name
