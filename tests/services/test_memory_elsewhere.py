"""Agent memory in another place than the tables (D5): the services write both tracks all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.services.conversation_chains import check_v1

from dgent.services import Brain, Gardener, Town
from dgent.storage import StorageProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def storage() -> AsyncIterator[StorageProvider]:
    storage = await StorageProvider.from_config(chain=("jsonl",), synchronous="NORMAL")
    try:
        await storage.run_migrations()
        yield storage
    finally:
        await storage.close()


async def test_l_v1_turns_keep_one_shape_in_two_places(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    said = {f"turn {number}" for number in range(20)}
    await asyncio.gather(*(town.add_turn(conversation.id, "user", content) for content in said))
    await check_v1(storage, conversation.id, said)


async def test_l_p2_what_is_rolled_back_is_never_delivered(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    before = await storage.memory.count()

    async def say_and_fail() -> None:
        async with storage.transaction():
            await town.add_turn(conversation.id, "user", "never said")
            await Brain(storage).capture("never thought")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await say_and_fail()
    assert await town.transcript(conversation.id) == []
    assert await storage.memory.count() == before


async def test_crystals_and_ideas_live_in_two_places(storage: StorageProvider) -> None:
    brain, gardener = Brain(storage), Gardener(storage)
    crystal = await brain.capture("a thought", ["maps"])
    assert await brain.content(crystal.id) == "a thought"
    assert await brain.forget(crystal.id)
    assert not await storage.memory.exists(crystal.id)
    idea = await gardener.plant("seed")
    await gardener.nurture(idea.id, "note")
    await gardener.advance(idea.id)
    datum = await storage.memory.get(idea.id)
    assert datum is not None
    assert (datum.text, datum.metadata["lifecycle"], datum.version) == ("seed\n\nnote", "SAPLING", 3)
