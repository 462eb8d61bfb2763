from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

from dgent.storage import StorageProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

T = TypeVar("T")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """The URL of a database without a row, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{sqlite_path}"
    found: str = request.getfixturevalue("migrated_postgres_url")
    return found


async def opened(url: str) -> StorageProvider:
    storage = await StorageProvider.from_config(database_url=url, synchronous="NORMAL")
    await storage.run_migrations()
    return storage


@pytest.fixture
async def storage(url: str) -> AsyncIterator[StorageProvider]:
    storage = await opened(url)
    try:
        yield storage
    finally:
        await storage.close()


class Lab(NamedTuple):
    """A storage and an event loop that stay open over all the examples of a law; each example uses ids of its own."""

    storage: StorageProvider
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


@pytest.fixture
def lab(url: str) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        storage = runner.run(opened(url))
        try:
            yield Lab(storage, runner)
        finally:
            runner.run(storage.close())
