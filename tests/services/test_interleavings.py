"""A service is stopped before each of its statements while somebody writes the same datum: what was put stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.breakpoints import Pause, statements

from dgent.datum import Datum
from dgent.exceptions import Conflict
from dgent.services import Brain, Gardener
from dgent.testing.contract_base import patience

from .conftest import opened

if TYPE_CHECKING:
    from dgent.storage import StorageProvider

HANG = patience(120.0)
STATEMENTS = 12
"""Of one healing, those that come after another writer's among them; a stop that is not reached changes nothing."""


@pytest.mark.parametrize("harm", ["deleted", "shortened", "grown"])
async def test_a_datum_that_is_put_beside_a_healing_is_not_put_under(url: str, harm: str) -> None:
    """Mutant: read before memory is held. On PostgreSQL the healing puts an old version on top then."""
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


async def test_an_id_that_something_else_takes_beside_a_capture_is_not_taken_from_it(url: str) -> None:
    storage, other = await opened(url), await opened(url)
    try:
        async with asyncio.timeout(HANG):
            for at in range(STATEMENTS):
                taken = Datum(f"id {at}", b"acknowledged", 1.0)
                pause = Pause(at, partial(other.memory.put, taken))
                with statements(pause), suppress(Conflict):
                    await Brain(storage).capture("mine", id=taken.id)
                if pause.task is not None:
                    await pause.task
                    assert await other.memory.get(taken.id) == taken
    finally:
        await storage.close()
        await other.close()


async def test_a_label_that_is_put_beside_a_step_of_an_idea_stays(url: str) -> None:
    storage, other = await opened(url), await opened(url)
    try:
        async with asyncio.timeout(HANG):
            for at in range(STATEMENTS):
                idea = await Gardener(storage).plant(f"idea {at}")
                datum = await storage.memory.get(idea.id)
                assert datum is not None
                labelled = datum.replace(metadata={**datum.metadata, "label": "acknowledged"})
                pause = Pause(at, partial(other.memory.put, labelled))
                with statements(pause):
                    await Gardener(storage).nurture(idea.id, "a note", confidence=0.1)
                if pause.task is not None:
                    await pause.task
                    live = await other.memory.get(idea.id)
                    assert live is not None
                    assert live.metadata["label"] == "acknowledged"
    finally:
        await storage.close()
        await other.close()
