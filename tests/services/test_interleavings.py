"""A healing is stopped before each of its statements while somebody writes the same datum: what was put stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.pausing import Pause, statements

from dgent.exceptions import Conflict
from dgent.services import Brain

from .conftest import opened

if TYPE_CHECKING:
    from dgent.storage import StorageProvider

HANG = 120.0
STATEMENTS = 12
"""Of one healing, those that come after another writer's among them; a stop that is not reached changes nothing."""


@pytest.mark.parametrize("harm", ["deleted", "shortened", "grown"])
async def test_a_datum_that_is_put_beside_a_healing_is_not_put_under(url: str, harm: str) -> None:
    """Mutant: put without `expect`. On PostgreSQL the healing puts an old version on top then."""
    storage, other = await opened(url), await opened(url)
    try:
        async with asyncio.timeout(HANG):
            for at in range(STATEMENTS):
                await _healed(storage, other, harm, at)
    finally:
        await storage.close()
        await other.close()


async def _healed(storage: StorageProvider, other: StorageProvider, harm: str, at: int) -> None:
    crystal = await Brain(storage).capture(f"first {at}")
    datum = await storage.memory.get(crystal.id)
    assert datum is not None
    match harm:
        case "deleted":
            await storage.memory.delete(crystal.id)
        case "shortened":
            await storage.memory.put(datum.replace(content=b"x"))
        case "grown":
            await storage.memory.put(datum.replace(content=b"x" * 50))
    newest = datum.replace(content=b"acknowledged " * 20)

    async def meanwhile() -> Any:
        return await other.memory.put(newest)

    pause = Pause(at, meanwhile)
    with statements(pause), suppress(Conflict):
        await Brain(storage).heal()
    if pause.task is not None:
        await pause.task
        assert await other.memory.get(crystal.id) == newest
    await Brain(storage).heal()  # the next example finds nothing to do
    if pause.task is not None:
        assert await Brain(storage).content(crystal.id) == newest.content.decode()
