"""A conversation in both tracks: whole, in causal order, once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select
from tests.cli.run_kg import SAMPLE

from dgent import Query, StorageProvider
from dgent.importing.conversation_file import Conversation, parse_conversation, read_conversation
from dgent.importing.conversation_import import Counts, import_conversation, session_id, topic, turn_id
from dgent.models import Citizen, CitizenConversation, ConversationTurn, Crystal
from dgent.services import Brain, Town
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REAL = sorted(Path(__file__).resolve().parents[3].glob("shared/data/locomo/*.json"))
RECORD: dict[str, Any] = json.loads(SAMPLE.read_bytes())


def conversation(**changes: Any) -> Conversation:
    return parse_conversation(json.dumps({**deepcopy(RECORD), **changes}).encode(), "changed.json")


@pytest.fixture(params=["sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[StorageProvider]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    async with await StorageProvider.from_config(database_url=url, strict=True) as opened:
        await opened.run_migrations()
        yield opened


async def counted(storage: StorageProvider) -> dict[str, int]:
    models = (Citizen, CitizenConversation, ConversationTurn, Crystal)
    rows = {model.__tablename__: await storage.table(model).count() for model in models}
    return {**rows, "datums": await storage.memory.count()}


def expected(record: dict[str, Any]) -> Counts:
    """Count what is in a file, without the parser."""
    turns = [len(value) for key, value in record.items() if re.fullmatch(r"session_\d+", key)]
    observed = [value for key, value in record.items() if key.endswith("_observation")]
    return Counts(len(turns), sum(turns), sum(len(entries) for each in observed for entries in each.values()))


async def test_rows_and_datums_have_the_same_chain(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    await import_conversation(storage, read)
    session = read.sessions[0]
    ids = [turn_id(read, session, at) for at in range(len(session.turns))]
    datums = await storage.memory.causal_chain(ids[-1])
    rows = await storage.table(ConversationTurn).causal_chain(ids[-1])
    assert [datum.id for datum in datums] == [row.id for row in rows] == ids
    assert [datum.text for datum in datums] == [row.data["content"] for row in rows] == [t.text for t in session.turns]
    assert [datum.causal_parent for datum in datums] == [row.causal_parent for row in rows] == [None, *ids[:-1]]
    assert [datum.created_at for datum in datums] == [turn.said_at.timestamp() for turn in session.turns]
    begun = await Town(storage).conversation(session_id(read, session))
    assert (begun.turn_count, begun.turn_chain_head, begun.datum_chain_head) == (8, ids[-1], ids[-1])
    assert (begun.citizen_name, begun.created_at) == ("Mateo", session.started_at)
    assert begun.topic == "Iris maps forgotten footpaths; Mateo has bought an old rowing boat."
    assert {row.data["role"] for row in rows if row.data["speaker"] == "Iris"} == {"user"}
    assert datums[2].metadata["extra"] == {"blip_caption": "a photo of a muddy notebook on a stone wall"}


async def test_a_crystal_is_caused_by_its_first_evidence(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    await import_conversation(storage, read)
    (crystal,) = await Brain(storage).search(text="named his boat")
    assert crystal.tags == ["Mateo", "session-2", "iris-mateo"]
    chain = await storage.memory.causal_chain(crystal.id)
    assert [datum.metadata.get("dia_id") for datum in chain] == [*(f"D2:{n}" for n in range(1, 7)), None]
    assert chain[-1].metadata["evidence"] == ["D2:6", "D2:7"]
    assert await Brain(storage).content(crystal.id) == chain[-1].text
    tagged = await storage.memory.query(Query(tags=frozenset({"Mateo", "session-2"})))
    assert len(tagged) == 4 + 2


async def test_evidence_that_is_not_there_ends_the_chain(storage: StorageProvider) -> None:
    read = conversation(session_1_observation={"Iris": [["Nobody said so.", "D99:1"], ["Nor this.", "see above"]]})
    assert (await import_conversation(storage, read)).new.crystals == 2 + 8
    for crystal in await Brain(storage).search(tags=["session-1"]):
        assert [datum.id for datum in await storage.memory.causal_chain(crystal.id)] == [crystal.id]


async def test_twice_is_once(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    first = await import_conversation(storage, read)
    before = await counted(storage), (await storage.memory.stats()).seq
    again = await import_conversation(storage, read)
    assert (first.new, first.known) == (Counts(3, 24, 12), Counts())
    assert (again.new, again.known) == (Counts(), Counts(3, 24, 12))
    assert (await counted(storage), (await storage.memory.stats()).seq) == before


async def test_two_at_once_are_once(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    both = await asyncio.gather(import_conversation(storage, read), import_conversation(storage, read))
    assert [sum(counts) for counts in zip(*(done.new for done in both), strict=True)] == [3, 24, 12]
    assert (await counted(storage))["datums"] == 24 + 12 + 1


async def test_a_file_that_has_grown_brings_what_is_new(storage: StorageProvider) -> None:
    await import_conversation(storage, read_conversation(SAMPLE))
    more = conversation(
        session_4_date_time="9:00 am on 1 July, 2026",
        session_4=[{"speaker": "Iris", "dia_id": "D4:1", "text": "They are printed!"}],
        session_3_observation={
            "Iris": [*RECORD["session_3_observation"]["Iris"], ["Iris is glad.", "D3:1"]],
            "Mateo": [],
        },
    )
    done = await import_conversation(storage, more)
    assert (done.new, done.known) == (Counts(1, 1, 1), Counts(3, 24, 10))


async def test_other_files_do_not_collide(storage: StorageProvider) -> None:
    await import_conversation(storage, read_conversation(SAMPLE))
    changed = deepcopy(RECORD["session_2"])
    changed[0]["text"] = "First plank is out!"
    assert (await import_conversation(storage, conversation(session_2=changed))).new == Counts(1, 8, 4)
    twins = SAMPLE.read_text("utf-8").replace('"Iris"', '"iris!"').replace('"Mateo"', '"MATEO"')
    alike = parse_conversation(twins.encode(), "twins.json")
    assert alike.name == "iris-mateo"
    assert (await import_conversation(storage, alike)).new == Counts(3, 24, 12)


async def test_what_was_changed_since_stays_as_it_is(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    await import_conversation(storage, read)
    (crystal,) = await Brain(storage).search(text="leaks a little")
    datum = await storage.memory.get(crystal.id)
    assert datum is not None
    await storage.memory.put(datum.replace(content=b"Better now."))
    assert (await import_conversation(storage, read)).new == Counts()
    assert (await storage.memory.get(crystal.id)).text == "Better now."  # type: ignore[union-attr]


async def test_what_was_forgotten_comes_back(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    await import_conversation(storage, read)
    (crystal,) = await Brain(storage).search(text="leaks a little")
    await Brain(storage).forget(crystal.id)
    assert (await import_conversation(storage, read)).new == Counts(0, 0, 1)
    assert await Brain(storage).content(crystal.id) == crystal.summary


async def test_a_session_comes_in_whole_or_not_at_all(storage: StorageProvider) -> None:
    read = read_conversation(SAMPLE)
    taken = turn_id(read, read.sessions[1], 5)
    async with storage.transaction() as tx:
        other = await Town(storage).start_conversation("Somebody", id="other")
        tx.session.add(
            ConversationTurn(id=taken, conversation_id=other.id, turn_number=0, role="user", content="Mine.")
        )
    done = []
    with pytest.raises(Exception, match="is something else that was said"):
        await import_conversation(storage, read, done.append)
    assert done == [read.sessions[0].size]
    assert await storage.memory.count(prefix=session_id(read, read.sessions[1])) == 0
    async with storage.transaction() as tx:
        await tx.session.delete(await tx.session.get_one(ConversationTurn, taken))
    assert (await import_conversation(storage, read)).known == Counts(1, 8, 4)


def test_a_topic_is_the_first_sentence_of_the_summary() -> None:
    session = read_conversation(SAMPLE).sessions[0]

    def of(summary: str | None) -> str:
        return topic(type(session)(session.key, 7, session.started_at, summary, (), ()))

    assert of("One. Two.") == "One."
    assert of("version 1.5 is out and more") == "version 1.5 is out and more"
    assert of(None) == of("") == of("  ") == "Session 7"
    assert len(of("x" * 1000)) == 200


@pytest.mark.skipif(not REAL, reason="no real conversations beside this checkout")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
async def test_a_real_conversation_comes_in_whole(storage: StorageProvider, path: Path) -> None:
    counts = expected(json.loads(path.read_bytes()))
    assert counts.turns > 100
    done = await import_conversation(storage, read_conversation(path))
    assert done.new == counts
    assert await counted(storage) == {
        "citizens": 1,
        "citizen_conversations": counts.sessions,
        "conversation_turns": counts.turns,
        "brain_crystals": counts.crystals,
        "datums": 1 + counts.turns + counts.crystals,
    }
    async with storage.transaction() as tx:
        counted_turns = await tx.session.scalar(select(func.sum(CitizenConversation.turn_count)))
    assert counted_turns == counts.turns
    assert (await import_conversation(storage, read_conversation(path))).known == counts


KILLED = """
import asyncio, os, sys
from pathlib import Path
from dgent import StorageProvider
from dgent.importing.conversation_file import read_conversation
from dgent.importing.conversation_import import import_conversation

async def main():
    async with await StorageProvider.from_config() as storage:
        await storage.run_migrations()
        print("ready", flush=True)
        await import_conversation(storage, read_conversation(Path(sys.argv[1])), lambda n: print(n, flush=True))

asyncio.run(main())
"""


@pytest.mark.parametrize("sessions", [0, 1, 2])
async def test_an_import_that_was_killed_goes_on_where_it_stopped(sessions: int) -> None:
    running = subprocess.Popen([sys.executable, "-c", KILLED, SAMPLE], stdout=subprocess.PIPE)
    assert running.stdout is not None
    with running.stdout as told:
        acknowledged = [told.readline() for _ in range(1 + sessions)]
        os.kill(running.pid, signal.SIGKILL)
    running.wait(patience(30))
    assert len(acknowledged) == 1 + sessions
    read = read_conversation(SAMPLE)
    async with await StorageProvider.from_config() as storage:
        done = await import_conversation(storage, read)
        assert done.known.sessions >= sessions
        assert [sum(pair) for pair in zip(done.new, done.known, strict=True)] == [3, 24, 12]
        assert done.known in {Counts(), Counts(1, 8, 4), Counts(2, 16, 8), Counts(3, 24, 12)}
        assert (await counted(storage))["datums"] == 37
