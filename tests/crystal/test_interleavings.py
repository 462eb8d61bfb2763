"""Upgrades and copies are stopped before each call that they make while somebody writes too: what was put stays."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column
from tests.crystal import copied_contract
from tests.crystal.old_versions import MARK, datum, mark
from tests.crystal.stores import KINDS, opened
from tests.crystal.test_copying import opened as copying
from tests.faults.breakpoints import Calls, Pause

from dgent.bridge import TableAdapter
from dgent.crystal.copying import backfill
from dgent.crystal.upgrade import upgrade
from dgent.datum import Datum
from dgent.models import Base
from dgent.models.base import JSONDict, JSONList, UTCDateTime, utcnow
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from pathlib import Path

HANG = patience(120.0)


class PlainMark(Base):
    """The table of a mark, without a column for its version."""

    __tablename__ = "test_plain_marks"
    metadata = MetaData()

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utcnow)
    causal_parent: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    about: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)
    action: Mapped[str]
    reasoning: Mapped[str]
    author: Mapped[str]
    principles: Mapped[list[str]] = mapped_column(JSONList)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_crystal_that_is_put_beside_an_upgrade_stays(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue("postgres_url") if kind == "postgres" else str(tmp_path)
    async with asyncio.timeout(HANG), opened(kind, place) as home:
        at = 0
        while True:
            store = home.within(f"n{at}")
            await store.put_many([datum(n, 1) for n in range(4)])
            newer = datum(1, 3).replace(metadata={**datum(1, 3).metadata, "said": "acknowledged"})
            pause = Pause(at, lambda store=store, newer=newer: store.put(newer))  # type: ignore[misc]
            calls: Any = Calls(store, pause)
            await upgrade(calls, MARK)
            if pause.task is None:
                break
            assert await store.get(newer.id) == await pause.task == newer
            for n in (0, 2, 3):
                found = await store.get(f"m{n:04}")
                assert found is not None
                assert MARK.decode(found.content) == mark(n)
            at += 1
        assert at == pause.passed > 4


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


async def test_a_row_that_is_put_beside_a_backfill_stays(url: str) -> None:
    """The table has no version column. Mutant: put where no row was seen, without `expect=0`."""
    async with asyncio.timeout(HANG), copying(url) as storage:
        await storage.database.write(PlainMark.metadata.create_all)
        adapter = TableAdapter(PlainMark, storage.database)
        assert not adapter.capabilities.versioned
        at = 0
        while True:
            data = {"action": f"act {at}", "reasoning": "because", "author": "Ada"}
            metadata = {"schema": copied_contract.MARK.name, "schema_version": 1}
            old = Datum.create(id=f"m{at}", data=data, metadata=metadata, created_at=1.0)
            await storage.memory.put(old)
            row = Datum(old.id, b'{"action":"mine","reasoning":"r","author":"Di","principles":[]}', 1.0)
            pause = Pause(at, partial(adapter.put, row))
            calls: Any = Calls(adapter, pause)
            await backfill(storage.memory, copied_contract.MARK, calls)
            if pause.task is None:
                break
            assert (await adapter.get(old.id)) == await pause.task
            at += 1
        assert at == pause.passed > 2
