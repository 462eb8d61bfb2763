"""Every kind of store that a state can be kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from .state_stores import KINDS, Kept, kept_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if kind.startswith("postgres") else str(tmp_path)


@pytest_asyncio.fixture
async def kept(kind: str, place: str) -> AsyncIterator[Kept]:
    async with kept_in(kind, place) as kept:
        yield kept
