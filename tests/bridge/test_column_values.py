"""Numbers and times at their ends: a row gives back what was put, equal on both databases, or the put is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bridge.conftest import opened
from tests.bridge.wide_models import Wide

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.exceptions import InvalidInput
from dgent.testing.value_laws import NUMBERS, TIMES

if TYPE_CHECKING:
    from pathlib import Path


@given(
    created=st.sampled_from(TIMES) | st.floats() | st.integers(),
    real=st.sampled_from(NUMBERS) | st.floats(),
    body=st.sampled_from(NUMBERS) | st.floats() | st.integers(),
)
@settings(max_examples=100)
@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_row_gives_back_what_was_put_or_it_is_refused(
    kind: str, created: Any, real: Any, body: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import asyncio

    asyncio.run(_put_and_read(f"sqlite:///{tmp_path_factory.mktemp('row')}/membrane.db", [(created, real, body)]))


async def test_the_ends_are_the_same_on_both_databases(sqlite_path: Path, postgres_url: str) -> None:
    asked = [(time, 0.5, 1) for time in TIMES] + [(1.0, number, number) for number in NUMBERS]
    one = await _put_and_read(f"sqlite:///{sqlite_path}", asked)
    assert one == await _put_and_read(postgres_url, asked)
    assert len({each for each in one if each is not None}) > 10


async def _put_and_read(url: str, asked: list[tuple[Any, Any, Any]]) -> list[Any]:
    """Put each and return it as it was read, spelled so that -0.0 differs from 0.0, or None where it was refused."""
    found: list[Any] = []
    async with opened(url) as database:
        await database.write(Wide.metadata.create_all)
        table = TableAdapter(Wide, database, hidden=("updated_at", "code"))
        for at, (created, real, body) in enumerate(asked):
            try:
                content = orjson.dumps({"real": real, "body": {"n": body}, "flag": True})
                put = await table.put(Datum(f"r{at}", content, created))
            except (InvalidInput, orjson.JSONEncodeError):
                found.append(None)
                continue
            page = await table.list(limit=1000)
            for read in (await table.get(put.id), next(each for each in page.whole() if each.id == put.id), put):
                assert read is not None
                spelled = (read.id, read.content, struct.pack("<d", read.created_at))
                assert spelled == (put.id, put.content, struct.pack("<d", put.created_at))
            assert abs(put.created_at - created) < 1e-5
            assert (await table.put(put)) == put, "putting back what was read changes nothing"
            found.append((put.id, put.content, struct.pack("<d", put.created_at)))
    return found
