"""What a person may plausibly pass by mistake: every public door answers with an error of ours that says what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from dgent import (
    Capabilities,
    DataAgent,
    Datum,
    DgentRouter,
    Flux,
    JSONLBackend,
    MemoryBackend,
    PostgresBackend,
    Query,
    Settings,
    SQLiteBackend,
    StateFunctor,
    StorageProvider,
    Symbiont,
    TableAdapter,
    Universe,
    set_universe,
)
from dgent.causal import AsyncLog, WriterLog
from dgent.exceptions import CapabilityMissing, DgentError
from dgent.models.brain import Crystal, CrystalTag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOTHING: list[Any] = [7, -1.5, object(), int]
"""No text, nothing to go through, and none of our classes."""
NO_TEXT: list[Any] = [None, *NOTHING, b"bytes", [], {}]
NO_OBJECT: list[Any] = [*NO_TEXT, "", "accounts", "x.db", lambda: None]
NO_ID: list[Any] = [*NO_TEXT, "", "nul\0"]
NO_LIST: list[Any] = [*NOTHING, None, "text", b"bytes"]
NO_COUNT: list[Any] = [object(), "ten", -1, 1.5, [], b"1", True, 2**63, -(2**70)]
NO_TIME: list[Any] = [object(), "noon", [], float("nan")]
NO_LOGIC: list[Any] = [None, 7, "logic", [], lambda x: x, lambda: None, lambda a, b, c: a]

Door = Callable[[StorageProvider, Any], Any]

_DATUM = Datum.create("x", id="x")
_CRYSTAL = Datum.create(data={"content": "x"}, id="x")


async def _flow(storage: StorageProvider, source: Any) -> None:
    agent = StateFunctor(int, storage.memory).lift_logic(lambda given, state: (given, state))
    async for _ in Flux.lift(agent).start(source):
        pass


def _store(call: Callable[[SQLiteBackend, Any], Any]) -> Door:
    async def door(storage: StorageProvider, value: Any) -> Any:
        store = SQLiteBackend("m.db")
        try:
            return await call(store, value)
        finally:
            await store.close()

    return door


DOORS: dict[str, tuple[Door, list[Any]]] = {
    # what a program opens
    "StorageProvider.from_config": (lambda s, x: StorageProvider.from_config(x), NO_OBJECT[1:]),
    "DgentRouter": (lambda s, x: DgentRouter(x), NO_OBJECT[1:]),
    "DgentRouter(backends=)": (lambda s, x: DgentRouter(backends=x), [7, "sqlite", object(), [7], [MemoryBackend]]),
    "SQLiteBackend": (lambda s, x: SQLiteBackend(x), NO_TEXT),
    "SQLiteBackend(settings=)": (lambda s, x: SQLiteBackend("m.db", settings=x), NO_OBJECT[1:]),
    "SQLiteBackend(namespace=)": (lambda s, x: SQLiteBackend("m.db", x), [None, 7, "../x", ""]),
    "PostgresBackend": (lambda s, x: PostgresBackend(x), [*NO_TEXT, "", "x.db", "sqlite:///x"]),
    "PostgresBackend(settings=)": (lambda s, x: PostgresBackend("postgresql://u@h/n", settings=x), NO_OBJECT[1:]),
    "JSONLBackend": (lambda s, x: JSONLBackend(x), NO_TEXT),
    "MemoryBackend": (lambda s, x: MemoryBackend(x), [7, "../x", "", b"n"]),
    "Settings.load": (lambda s, x: Settings.load(max_content=x), [object(), "much", -1, []]),
    # a storage
    "storage.table": (lambda s, x: s.table(x), NO_OBJECT),
    "storage.resolve": (lambda s, x: s.resolve(x), NO_OBJECT),
    "storage.generation": (lambda s, x: s.generation(x), NO_ID),
    "storage.relational.fetch_all": (lambda s, x: s.relational.fetch_all(x), NO_TEXT),
    "storage.relational.fetch_one": (lambda s, x: s.relational.fetch_one("SELECT 1", x), [7, "x", [1]]),
    "storage.relational.execute": (lambda s, x: s.relational.execute(x), NO_TEXT),
    "storage.tables.register": (lambda s, x: s.tables.register(x), NO_OBJECT),
    "storage.tables.register(hidden=)": (lambda s, x: s.tables.register(Crystal, hidden=x), ["summary", 7, ["none"]]),
    "TableAdapter": (lambda s, x: TableAdapter(x, s.database), NO_OBJECT),
    "TableAdapter(runner)": (lambda s, x: TableAdapter(Crystal, x).list(), [None, 7, "x.db", [], int, lambda: None]),
    "TableAdapter(id_field=)": (lambda s, x: TableAdapter(Crystal, s.database, id_field=x), [7, "nosuch", b"id"]),
    "tx.table": (lambda s, x: _in(s, lambda tx: tx.table(x)), NO_OBJECT),
    "tx.join": (lambda s, x: _in(s, lambda tx: tx.join(x)), [*NO_OBJECT, MemoryBackend, AsyncLog, TableAdapter]),
    "tx.session.add": (lambda s, x: _in(s, lambda tx: tx.session.add(x)), [*NO_OBJECT, _DATUM, Crystal]),
    "tx.session.get": (lambda s, x: _in(s, lambda tx: tx.session.get(x, "id")), [*NO_OBJECT, Datum]),
    "tx.generation": (lambda s, x: _in(s, lambda tx: tx.generation(x)), NO_ID),
    # a store
    "put": (lambda s, x: s.memory.put(x), NO_OBJECT),
    "put(expect=)": (lambda s, x: s.memory.put(_DATUM, expect=x), NO_COUNT),
    "put(ttl=)": (lambda s, x: s.memory.put(_DATUM, ttl=x), [object(), "long", [], -1, float("nan")]),
    "put_many": (lambda s, x: s.memory.put_many(x), [*NO_LIST, ["x"], [None]]),
    "get": (lambda s, x: s.memory.get(x), NO_ID),
    "get(version=)": (lambda s, x: s.memory.get("x", version=x), [object(), "ten", 1.5, []]),
    "get_many": (lambda s, x: s.memory.get_many(x), [*NO_LIST, [7], [""]]),
    "delete": (lambda s, x: s.memory.delete(x), NO_ID),
    "delete_many": (lambda s, x: s.memory.delete_many(x), [*NO_LIST, [7], [""]]),
    "delete(expect=)": (lambda s, x: s.memory.delete("x", expect=x), NO_COUNT),
    "SQLiteBackend.delete_many": (_store(lambda store, x: store.delete_many(x)), [*NO_LIST, [7], [""]]),
    "SQLiteBackend.put_many": (_store(lambda store, x: store.put_many(x)), [*NO_LIST, ["x"]]),
    "SQLiteBackend.get_many": (_store(lambda store, x: store.get_many(x)), [*NO_LIST, [7]]),
    "SQLiteBackend.delete(expect=)": (_store(lambda store, x: store.delete("x", expect=x)), NO_COUNT),
    "SQLiteBackend.history(limit=)": (_store(lambda store, x: store.history("x", limit=x)), NO_COUNT),
    "retry": (lambda s, x: s.memory.retry(x), NO_OBJECT),
    "discard": (lambda s, x: s.memory.discard(x), NO_OBJECT),
    "storage.retry": (lambda s, x: s.retry(x), NO_OBJECT),
    "storage.discard": (lambda s, x: s.discard(x), NO_OBJECT),
    "compact(keep_versions=)": (lambda s, x: s.memory.compact(keep_versions=x), NO_COUNT),
    "exists": (lambda s, x: s.memory.exists(x), NO_ID),
    "count(prefix=)": (lambda s, x: s.memory.count(prefix=x), NOTHING),
    "list(prefix)": (lambda s, x: s.memory.list(x), NOTHING),
    "list(after=)": (lambda s, x: s.memory.list(after=x), NO_TIME),
    "list(limit=)": (lambda s, x: s.memory.list(limit=x), NO_COUNT),
    "list(cursor=)": (lambda s, x: s.memory.list(cursor=x), [7, "made up", b"x"]),
    "list(order=)": (lambda s, x: s.memory.list(order=x), [None, 7, "random", []]),
    "query": (lambda s, x: s.memory.query(x), NO_OBJECT),
    "causal_chain": (lambda s, x: s.memory.causal_chain(x), NO_ID),
    "causal_chain(version=)": (lambda s, x: s.memory.causal_chain("x", version=x), ["1", 1.5, []]),
    "causal_chain(as_of=)": (lambda s, x: s.memory.causal_chain("x", as_of=x), NO_TIME[1:]),
    "causal_chain(limit=)": (lambda s, x: s.memory.causal_chain("x", limit=x), ["1", 1.5, -1, []]),
    "history": (lambda s, x: s.memory.history(x), NO_ID),
    "history(limit=)": (lambda s, x: s.memory.history("x", limit=x), NO_COUNT),
    "as_of": (lambda s, x: s.memory.as_of(x), NO_TIME),
    "seq_at": (lambda s, x: s.memory.seq_at(x), NO_TIME),
    "changes": (lambda s, x: s.memory.changes(x), [None, "1", 1.5, [], 2**64]),
    "changes(until=)": (lambda s, x: s.memory.changes(0, until=x), ["1", 1.5, [], 2**64]),
    "changes(limit=)": (lambda s, x: s.memory.changes(0, limit=x), NO_COUNT),
    "purge": (lambda s, x: s.memory.purge(x), NO_ID),
    "within": (lambda s, x: s.memory.within(x), [7, "", "../x", b"n"]),
    "volatile.query": (lambda s, x: MemoryBackend().query(x), NO_OBJECT),
    "volatile.put_many": (lambda s, x: MemoryBackend().put_many(x), NO_LIST),
    "volatile.get_many": (lambda s, x: MemoryBackend().get_many(x), NO_LIST),
    "tx.memory.query": (lambda s, x: _in(s, lambda tx: tx.memory.query(x)), NO_OBJECT),
    "tx.memory.put": (lambda s, x: _in(s, lambda tx: tx.memory.put(x)), NO_OBJECT),
    # a typed table
    "table.put": (lambda s, x: s.table(Crystal).put(x), NO_OBJECT),
    "table.put_many": (lambda s, x: s.table(Crystal).put_many(x), NO_LIST),
    "table.get": (lambda s, x: s.table(Crystal).get(x), NO_ID),
    "table.get_many": (lambda s, x: s.table(Crystal).get_many(x), NO_LIST),
    "table.put(expect=)": (lambda s, x: s.table(Crystal).put(_CRYSTAL, expect=x), NO_COUNT),
    "table.delete(expect=)": (lambda s, x: s.table(Crystal).delete("x", expect=x), NO_COUNT),
    "table.delete_many": (lambda s, x: s.table(Crystal).delete_many(x), [*NO_LIST, [7]]),
    "table.list(limit=)": (lambda s, x: s.table(Crystal).list(limit=x), NO_COUNT),
    "table.query": (lambda s, x: s.table(Crystal).query(x), NO_OBJECT),
    "table.update": (lambda s, x: s.table(Crystal).update("x", x), [*NO_LIST, {"nosuch": 1}]),
    # the atom and its queries
    "Datum.create": (lambda s, x: Datum.create(x), [object(), int, {1, 2}]),
    "Datum.create(id=)": (lambda s, x: Datum.create("x", id=x), [7, "", b"x", object()]),
    "Datum.create(tags=)": (lambda s, x: Datum.create("x", tags=x), [7, object(), [7], [None]]),
    "Datum.create(author=)": (lambda s, x: Datum.create("x", author=x), NO_TEXT[1:]),
    "Datum.create(metadata=)": (lambda s, x: Datum.create("x", metadata=x), [7, "x", {7: 1}, {"k": object()}]),
    "Datum.create(causal_parent=)": (lambda s, x: Datum.create("x", causal_parent=x), [7, "", _DATUM]),
    "Datum.create(created_at=)": (lambda s, x: Datum.create("x", created_at=x), NO_TIME),
    "Datum.from_json": (lambda s, x: Datum.from_json(x), [None, 7, "{", "{}", b"[]", object()]),
    "Query(prefix=)": (lambda s, x: Query(prefix=x), NOTHING),
    "Query(tags=)": (lambda s, x: Query(tags=x), [7, [7], object()]),
    "Query(limit=)": (lambda s, x: Query(limit=x), NO_COUNT),
    # agents
    "StateFunctor(state_type)": (lambda s, x: StateFunctor(x, s.memory), [None, "int", "", {}]),
    "StateFunctor(backend)": (lambda s, x: StateFunctor(int, x), NO_OBJECT),
    "StateFunctor.lift": (lambda s, x: StateFunctor(int, s.memory).lift(x), [*NO_TEXT, "agent"]),
    "StateFunctor.lift_logic": (lambda s, x: StateFunctor(int, s.memory).lift_logic(x), NO_LOGIC),
    "StateFunctor.from_table_adapter": (lambda s, x: StateFunctor.from_table_adapter(x), [*NO_OBJECT, Crystal]),
    "DataAgent": (lambda s, x: DataAgent(x, int), NO_OBJECT),
    "Symbiont(memory)": (lambda s, x: Symbiont(lambda given, state: (given, state), x), NO_OBJECT),
    "Symbiont(logic)": (lambda s, x: Symbiont(x, DataAgent(s.memory, int)), NO_LOGIC),
    "Flux.lift": (lambda s, x: Flux.lift(x), [*NO_TEXT, "agent"]),
    "Flux.start": (_flow, [None, 7, object()]),
    # crystals, bus, log
    "Universe": (lambda s, x: Universe(x), NO_OBJECT),
    "Universe.store": (lambda s, x: Universe(s.memory).store(x), NO_OBJECT),
    "Universe.store_many": (lambda s, x: Universe(s.memory).store_many(x), [*NO_LIST, ["x"]]),
    "Universe.upgrade": (lambda s, x: Universe(s.memory).upgrade(x), NO_OBJECT),
    "WriterLog": (lambda s, x: WriterLog(x), NO_OBJECT),
    "WriterLog(limits=)": (lambda s, x: WriterLog(limits=x), NO_OBJECT),
    "WriterLog.at": (lambda s, x: s.database.read(lambda c: WriterLog().at(c, "s", "w", x)), NO_COUNT),
    "log.entries(after=)": (lambda s, x: s.log.entries("s", "w", after=x), NO_COUNT),
    "log.entries(limit=)": (lambda s, x: s.log.entries("s", "w", limit=x), NO_COUNT),
    "log.merged(after=)": (lambda s, x: s.log.merged("s", after={"w": x}), NO_COUNT),
    "generation.set": (lambda s, x: s.generation("g").set(x), NO_COUNT),
    "set_universe": (lambda s, x: set_universe(x), NO_OBJECT[1:]),
    "bus.subscribe": (lambda s, x: s.bus.subscribe(x), [None, 7, "put", [], object()]),
    "bus.subscribe(kinds=)": (lambda s, x: s.bus.subscribe(print, kinds=x), [7, "puts", ["puts"], object()]),
    "bus.subscribe(size=)": (lambda s, x: s.bus.subscribe(print, size=x), NO_COUNT[:7]),
    "bus.listen(namespace=)": (lambda s, x: s.bus.listen(namespace=x), [7, "", "../x", b"n"]),
    "doorbell.subscribe": (lambda s, x: s.doorbell.subscribe(x), [None, 7, "ring", [], object()]),
    "log.append(payload)": (lambda s, x: s.log.append("s", "w", x), [None, 7, "text", [], object()]),
    "log.append(stream)": (lambda s, x: s.log.append(x, "w", b"x"), NO_ID),
    "log.append_many": (lambda s, x: s.log.append_many("s", "w", x), [*NO_LIST, ["text"]]),
}


@pytest_asyncio.fixture
async def storage() -> AsyncIterator[StorageProvider]:
    async with await StorageProvider.create_minimal() as storage:
        yield storage


async def _in(storage: StorageProvider, call: Callable[[Any], Any]) -> None:
    async with storage.transaction() as tx:
        answer = call(tx)
        if inspect.isawaitable(answer):
            await answer


@pytest.mark.parametrize("door", DOORS)
async def test_a_wrong_value_is_answered_with_what_to_do(storage: StorageProvider, door: str) -> None:
    call, wrong = DOORS[door]
    raw: list[str] = []
    for value in wrong:
        try:
            answer = call(storage, value)
            if inspect.isawaitable(answer):
                answer = await answer
        except DgentError as error:
            if len(str(error)) < 10:
                raw.append(f"{value!r}: says nothing: {error}")
        except Exception as error:
            raw.append(f"{value!r}: {type(error).__name__}: {error}")
        else:
            raw.append(f"{value!r}: taken: {answer!r:.80}")
    assert raw == []


@pytest.mark.parametrize(
    ("capability", "of_a_table", "words"),
    [
        ("versioned", True, "add VersionMixin to its model"),
        ("causal", True, "add CausalMixin to its model"),
        ("history", True, "put into agent memory what needs a history"),
        ("ttl", True, "put into agent memory what should"),
        *(
            (name, False, ": ")
            for name in ("durable", "history", "transactions", "ttl", "causal", "versioned", "shared")
        ),
    ],
)
def test_a_missing_capability_says_what_to_add(capability: str, of_a_table: bool, words: str) -> None:
    lacking = Capabilities(**{capability: False, "schema_free": not of_a_table})
    with pytest.raises(CapabilityMissing, match=words) as refused:
        lacking.require(capability, "accounts")
    said = str(refused.value)
    assert said.startswith("accounts ")
    assert f"has no {capability}" not in said
    Capabilities().require(capability, "accounts")


async def test_a_table_without_a_version_says_how_to_get_one(storage: StorageProvider) -> None:
    with pytest.raises(CapabilityMissing, match="add VersionMixin"):
        StateFunctor.from_table_adapter(storage.table(CrystalTag), id="x")
    with pytest.raises(CapabilityMissing, match="add VersionMixin"):
        await storage.table(CrystalTag).put(Datum.create(data={}, id="x"), expect=1)
