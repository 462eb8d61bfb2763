"""Conversations in both tracks: law L-V1, and imports that can be run again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from tests.faults.processes import started
from tests.services.conversation_chains import check_v1

from dgent.bridge.dual_write import select_rows
from dgent.datum import Datum
from dgent.exceptions import Conflict, InvalidInput, InvalidQuery, LimitExceeded, NotFound
from dgent.models import CitizenConversation, ConversationTurn
from dgent.services import NewTurn, Town
from dgent.storage import StorageProvider

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def add_turns(pipe: Connection, number: int, url: str, conversation: str, count: int) -> None:
    async def main() -> None:
        async with await StorageProvider.from_config(database_url=url) as storage:
            for turn in range(count):
                await Town(storage).add_turn(conversation, "user", f"{number} {turn}")

    asyncio.run(main())
    pipe.send("done")


async def test_l_v1_concurrent_tasks(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    said = {f"turn {number}" for number in range(50)}
    await asyncio.gather(*(town.add_turn(conversation.id, "user", content) for content in said))
    await check_v1(storage, conversation.id, said)


async def test_l_v1_concurrent_processes(storage: StorageProvider, url: str, full_size: bool) -> None:
    conversation = await Town(storage).start_conversation("Caroline")
    each = 200 if full_size else 15
    with started(4, add_turns, url, conversation.id, each) as writers:
        assert [await asyncio.to_thread(writer.answer) for writer in writers] == ["done"] * 4
    await check_v1(storage, conversation.id, {f"{name} {number}" for name in range(4) for number in range(each)})


async def test_l_v1_batches_and_single_turns_at_once(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    batches = [[NewTurn("user", f"batch {batch}, {number}") for number in range(20)] for batch in range(4)]
    await asyncio.gather(
        *(town.add_turns(conversation.id, batch) for batch in batches),
        *(town.add_turn(conversation.id, "citizen", f"single {number}") for number in range(10)),
    )
    said = {turn.content for batch in batches for turn in batch} | {f"single {number}" for number in range(10)}
    await check_v1(storage, conversation.id, said)
    contents = [turn.content for turn in await town.transcript(conversation.id, limit=200)]
    for batch in batches:  # a batch is one transaction: nobody speaks in the middle of it
        at = contents.index(batch[0].content)
        assert contents[at : at + 20] == [turn.content for turn in batch]


async def test_conversations_do_not_mix(storage: StorageProvider) -> None:
    town = Town(storage)
    first, second = [await town.start_conversation("Caroline", topic) for topic in ("maps", "territory")]
    await asyncio.gather(
        *(town.add_turn(one.id, "user", f"{one.topic} {n}") for n in range(10) for one in (first, second))
    )
    await check_v1(storage, first.id, {f"maps {n}" for n in range(10)})
    await check_v1(storage, second.id, {f"territory {n}" for n in range(10)})


async def test_importing_twice_imports_nothing_twice(storage: StorageProvider) -> None:
    town = Town(storage)
    said = [NewTurn("user", f"turn {n}", "Caroline", f"c1/{n}") for n in range(30)]
    moment = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    for _ in range(2):
        conversation = await town.start_conversation("Caroline", "session 1", id="c1", created_at=moment)
        turns = await town.add_turns("c1", said)
        assert [turn.id for turn in turns] == [turn.id for turn in said]
    assert conversation.created_at == moment
    await check_v1(storage, "c1", {turn.content for turn in said})
    assert [(await storage.memory.get(f"c1/{n}")).version for n in (0, 29)] == [1, 1]  # type: ignore[union-attr]


async def test_an_import_that_stopped_half_way_goes_on(storage: StorageProvider) -> None:
    town = Town(storage)
    await town.start_conversation("Caroline", id="c1")
    said = [NewTurn("user", f"turn {n}", id=f"c1/{n}") for n in range(10)]
    await town.add_turns("c1", said[:4])
    await town.add_turns("c1", said)
    await check_v1(storage, "c1", {turn.content for turn in said})


async def test_concurrent_imports_of_one_conversation(storage: StorageProvider) -> None:
    town = Town(storage)
    said = [NewTurn("user", f"turn {n}", id=f"c1/{n}") for n in range(10)]

    async def bring_in() -> None:
        await town.start_conversation("Caroline", id="c1")
        await town.add_turns("c1", said)

    await asyncio.gather(*(bring_in() for _ in range(8)))
    await check_v1(storage, "c1", {turn.content for turn in said})
    assert (await town.citizen("Caroline")).id == (await town.conversation("c1")).citizen_id


async def test_one_id_twice_in_a_batch_is_one_turn(storage: StorageProvider) -> None:
    town = Town(storage)
    await town.start_conversation("Caroline", id="c1")
    turn = NewTurn("user", "once", id="t")
    assert {row.id for row in await town.add_turns("c1", [turn, turn])} == {"t"}
    await check_v1(storage, "c1", {"once"})
    with pytest.raises(Conflict, match="'t'"):
        await town.add_turns("c1", [NewTurn("user", "new", id="n"), replace(turn, content="other")])
    await check_v1(storage, "c1", {"once"})


async def test_an_id_that_means_something_else_is_refused(storage: StorageProvider) -> None:
    town = Town(storage)
    for id in ("c1", "c2"):
        await town.start_conversation("Caroline", id=id)
    await town.add_turn("c1", "user", "hello", id="t1")
    await storage.memory.put(Datum.create(b"mine", id="a thought"))
    with pytest.raises(Conflict, match="'t1'"):
        await town.add_turn("c2", "user", "hello", id="t1")
    with pytest.raises(Conflict, match="'a thought'"):
        await town.add_turn("c2", "user", "hello", id="a thought")
    with pytest.raises(Conflict, match="'c1'"):
        await town.start_conversation("Melanie", id="c1")
    assert (await town.conversation("c2")).turn_count == 0
    assert (await storage.memory.get("a thought")).content == b"mine"  # type: ignore[union-attr]


async def test_l_p2_a_batch_that_fails_leaves_no_trace(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    await town.add_turn(conversation.id, "user", "first")
    before = await storage.memory.count()
    huge = NewTurn("user", "x" * (storage.settings.max_content + 1))
    with pytest.raises(LimitExceeded):
        await town.add_turns(conversation.id, [NewTurn("user", "second"), huge])
    await check_v1(storage, conversation.id, {"first"})
    assert await storage.memory.count() == before


async def test_l_p2_a_turn_is_part_of_the_transaction_around_it(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")

    async def say_and_fail() -> None:
        async with storage.transaction():
            turn = await town.add_turn(conversation.id, "user", "never said")
            assert [one.id for one in await town.transcript(conversation.id)] == [turn.id]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await say_and_fail()
    assert await town.transcript(conversation.id) == []
    async with storage.transaction():
        for n in range(3):
            await town.add_turn(conversation.id, "user", f"turn {n}")
    await check_v1(storage, conversation.id, {"turn 0", "turn 1", "turn 2"})


async def test_l_p2_a_cancelled_turn_leaves_no_trace(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    tasks = [asyncio.create_task(town.add_turn(conversation.id, "user", f"turn {n}")) for n in range(12)]
    for pause, task in enumerate(tasks[::2]):
        await asyncio.sleep(pause / 2000)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ConversationTurn | asyncio.CancelledError) for result in results)
    turns = await town.transcript(conversation.id)
    await check_v1(storage, conversation.id, {turn.content for turn in turns})
    acknowledged = {result.content for result in results if isinstance(result, ConversationTurn)}
    assert acknowledged <= {turn.content for turn in turns}


async def test_transcripts_come_in_pages(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    await town.add_turns(conversation.id, [NewTurn("user", str(n)) for n in range(10)])
    seen: list[str] = []
    after = None
    while page := await town.transcript(conversation.id, limit=3, after=after):
        assert len(page) <= 3
        seen += [turn.content for turn in page]
        after = page[-1].turn_number
    assert seen == [str(n) for n in range(10)]
    with pytest.raises(NotFound, match="nowhere"):
        await town.transcript("nowhere")
    with pytest.raises(InvalidQuery):
        await town.transcript(conversation.id, limit=-1)
    with pytest.raises(LimitExceeded):
        await town.transcript(conversation.id, limit=storage.settings.max_page + 1)


async def test_resume_gives_the_newest_conversation_and_its_last_turns(storage: StorageProvider) -> None:
    town = Town(storage)
    assert await town.resume("Caroline") is None
    for year in (2023, 2025, 2024):
        moment = datetime(year, 1, 1, tzinfo=UTC)
        await town.start_conversation("Caroline", str(year), id=str(year), created_at=moment)
    await town.start_conversation("Melanie", id="other")
    await town.add_turns("2025", [NewTurn("user", str(n)) for n in range(10)])
    resumed = await town.resume("Caroline", turns=3)
    assert resumed is not None
    assert resumed.conversation.topic == "2025"
    assert [turn.content for turn in resumed.turns] == ["7", "8", "9"]


async def test_a_citizen_is_one_row_and_one_datum(storage: StorageProvider) -> None:
    town = Town(storage)
    first, *rest = await asyncio.gather(*(town.citizen("Caroline") for _ in range(6)))
    assert {one.id for one in rest} == {first.id}
    changed = await town.citizen("Caroline", archetype="builder", traits={"calm": 1})
    datum = await storage.memory.get(first.id)
    assert datum is not None
    assert datum.data == {"name": "Caroline", "archetype": "builder", "traits": {"calm": 1}}
    assert (changed.id, changed.version, datum.version) == (first.id, 2, 2)
    again = await town.citizen("Caroline", archetype="builder")
    assert (again.version, again.traits) == (2, {"calm": 1})


async def test_a_datum_says_who_spoke_and_where(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    moment = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    turn = await town.add_turn(
        conversation.id, "citizen", "Hi!", speaker="Mel", created_at=moment, tags=["hello"], metadata={"dia_id": "D1:1"}
    )
    datum = await storage.memory.get(turn.id)
    assert datum is not None
    assert (datum.schema, datum.author, datum.tags) == ("town.turn", "Mel", {"hello"})
    assert datum.created_at == moment.timestamp()
    assert datum.metadata["dia_id"] == "D1:1"
    assert (datum.metadata["role"], datum.metadata["conversation"]) == ("citizen", conversation.id)
    assert turn.created_at == moment


async def test_bad_input_is_refused_with_its_name(storage: StorageProvider) -> None:
    town = Town(storage)
    conversation = await town.start_conversation("Caroline")
    bad = [
        (lambda: town.add_turn(conversation.id, " ", "hi"), "role"),
        (lambda: town.add_turn(conversation.id, "user", "a\0b"), "content"),
        (lambda: town.add_turn(conversation.id, "user", 5), "content"),  # type: ignore[arg-type]
        (lambda: town.add_turn(conversation.id, "user", "hi", created_at=datetime(2023, 1, 1)), "created_at"),  # noqa: DTZ001
        (lambda: town.add_turn(conversation.id, "user", "hi", metadata={"role": "x"}), "role"),
        (lambda: town.add_turn(conversation.id, "user", "hi", id=""), "id"),
        (lambda: town.citizen(""), "name"),
        (lambda: town.citizen("Eve", traits={"x": float("nan")}), "NaN|nan"),
        (lambda: town.start_conversation("Eve", id="\ud800"), "id"),
    ]
    for call, named in bad:
        with pytest.raises(InvalidInput, match=named):
            await call()  # type: ignore[no-untyped-call]
    with pytest.raises(NotFound, match="nowhere"):
        await town.add_turn("nowhere", "user", "hi")
    assert await town.transcript(conversation.id) == []
    assert len(await select_rows(storage, select(CitizenConversation))) == 1
