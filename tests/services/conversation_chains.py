"""What law L-V1 asks of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.services import Town

if TYPE_CHECKING:
    from dgent.storage import StorageProvider


async def check_v1(storage: StorageProvider, conversation_id: str, said: set[str]) -> None:
    """Numbers 0..n-1, turn_count n, and two chains of length n with the same shape."""
    town, n = Town(storage), len(said)
    conversation = await town.conversation(conversation_id)
    turns = await town.transcript(conversation_id, limit=10_000)
    assert [turn.turn_number for turn in turns] == list(range(n))
    assert conversation.turn_count == n
    assert {turn.content for turn in turns} == said
    assert [turn.causal_parent for turn in turns] == [None, *(turn.id for turn in turns[:-1])]
    assert conversation.turn_chain_head == turns[-1].id
    datums = await storage.memory.causal_chain(conversation.datum_chain_head or "")
    assert [datum.id for datum in datums] == [turn.datum_id for turn in turns]
    assert [datum.causal_parent for datum in datums] == [None, *(datum.id for datum in datums[:-1])]
    assert [datum.content.decode() for datum in datums] == [turn.content for turn in turns]
    assert [datum.metadata["turn_number"] for datum in datums] == list(range(n))
