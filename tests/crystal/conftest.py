"""Every kind of store that crystals lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.crystal.stores import KINDS, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dgent.store import Backend


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if kind == "postgres" else str(tmp_path)


@pytest_asyncio.fixture
async def store(kind: str, place: str) -> AsyncIterator[Backend]:
    async with opened(kind, place) as store:
        yield store
