"""What a person may plausibly pass by mistake: every public door answers with an error of ours that says what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

import dgent
from dgent import (
    Agent,
    Datum,
    DataAgent,
    DataBus,
    DgentRouter,
    Doorbell,
    Flux,
    FunctorRegistry,
    Id,
    JSONLBackend,
    Lens,
    LensAgent,
    Limits,
    MemoryBackend,
    PostgresBackend,
    Prism,
    Query,
    Ref,
    Schema,
    Settings,
    SQLiteBackend,
    StateFunctor,
    StorageProvider,
    Symbiont,
    TableAdapter,
    Traversal,
    Umwelt,
    Universe,
    schema,
    set_universe,
)
from dgent.exceptions import CapabilityMissing, DgentError
from dgent.models.brain import BrainSetting, Crystal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WRONG: list[Any] = [None, 7, -1.5, b"bytes", "", "accounts", "x.db", [], {}, object(), int, lambda: None]


@pytest_asyncio.fixture
async def storage() -> AsyncIterator[StorageProvider]:
    async with await StorageProvider.create_minimal() as storage:
        yield storage


Door = Callable[[StorageProvider, Any], Any]

_DATUM = Datum.create("x", id="x")

DOORS: dict[str, Door] = {
    # what a program opens
    "StorageProvider.from_config": lambda s, x: StorageProvider.from_config(x),
    "StorageProvider.from_config(data_dir=)": lambda s, x: StorageProvider.from_config(data_dir=x, chain="?"),
    "StorageProvider.from_config(database_url=)": lambda s, x: StorageProvider.from_config(database_url=x, chain="?"),
    "Settings.load(max_content=)": lambda s, x: Settings.load(max_content=x, chain="?"),
    "DgentRouter": lambda s, x: DgentRouter(x),
    "SQLiteBackend": lambda s, x: SQLiteBackend(x, namespace="../x"),
    "SQLiteBackend(settings=)": lambda s, x: SQLiteBackend("m.db", settings=x or "x"),
    "PostgresBackend": lambda s, x: PostgresBackend(x),
    "JSONLBackend": lambda s, x: JSONLBackend(x, namespace="../x"),
    "MemoryBackend(namespace=)": lambda s, x: MemoryBackend(x or None),
    # a storage
    "storage.table": lambda s, x: s.table(x),
    "storage.resolve": lambda s, x: s.resolve(x),
    "storage.resolve(umwelt)": lambda s, x: s.resolve("self.data.list", x or "x"),
    "storage.generation": lambda s, x: s.generation(x).bump() if not isinstance(x, str) or not x else _no(),
    "storage.relational.fetch_all": lambda s, x: s.relational.fetch_all(x),
    "storage.relational.fetch_one": lambda s, x: s.relational.fetch_one("SELECT 1", x or [1]),
    "storage.relational.execute": lambda s, x: s.relational.execute(x),
    "storage.tables.register": lambda s, x: s.tables.register(x),
    "storage.tables.register(hidden=)": lambda s, x: s.tables.register(Crystal, hidden=x or 7),
    "TableAdapter": lambda s, x: TableAdapter(x, s.database),
    "TableAdapter(runner)": lambda s, x: TableAdapter(Crystal, x).list(),
    "TableAdapter(id_field=)": lambda s, x: TableAdapter(Crystal, s.database, id_field=x or 7),
    # a store
    "memory.put": lambda s, x: s.memory.put(x),
    "memory.put(expect=)": lambda s, x: s.memory.put(_DATUM, expect="x" if x is None or x == 7 else x),
    "memory.put(ttl=)": lambda s, x: s.memory.put(_DATUM, ttl="x" if x is None or x == 7 else x),
    "memory.put_many": lambda s, x: s.memory.put_many([x]),
    "memory.put_many(whole)": lambda s, x: s.memory.put_many(x or 7),
    "memory.get": lambda s, x: s.memory.get(x if not isinstance(x, str) else ""),
    "memory.get(version=)": lambda s, x: s.memory.get("x", version="x" if x is None or x == 7 else x),
    "memory.get_many": lambda s, x: s.memory.get_many([x if not isinstance(x, str) else ""]),
    "memory.get_many(whole)": lambda s, x: s.memory.get_many(x or 7),
    "memory.delete": lambda s, x: s.memory.delete(x if not isinstance(x, str) else ""),
    "memory.delete_many": lambda s, x: s.memory.delete_many([x if not isinstance(x, str) else ""]),
    "memory.delete_many(whole)": lambda s, x: s.memory.delete_many(x or 7),
    "memory.exists": lambda s, x: s.memory.exists(x if not isinstance(x, str) else ""),
    "memory.count(prefix=)": lambda s, x: s.memory.count(prefix=7 if x is None or isinstance(x, str) else x),
    "memory.list(prefix)": lambda s, x: s.memory.list(7 if x is None or isinstance(x, str) else x),
    "memory.list(after=)": lambda s, x: s.memory.list(after="x" if x is None or x in {7, -1.5} else x) if _hashable(x) else s.memory.list(after=x),
    "memory.list(limit=)": lambda s, x: s.memory.list(limit=-1 if x == 7 else x),
    "memory.list(cursor=)": lambda s, x: s.memory.list(cursor=7 if x is None else x),
    "memory.list(order=)": lambda s, x: s.memory.list(order=x),
    "memory.query": lambda s, x: s.memory.query(x),
    "memory.causal_chain": lambda s, x: s.memory.causal_chain(x if not isinstance(x, str) else ""),
    "memory.history": lambda s, x: s.memory.history(x if not isinstance(x, str) else ""),
    "memory.history(limit=)": lambda s, x: s.memory.history("x", limit=-1 if x == 7 else x),
    "memory.as_of": lambda s, x: s.memory.as_of("x" if x in {7, -1.5} else x) if _hashable(x) else s.memory.as_of(x),
    "memory.purge": lambda s, x: s.memory.purge(x if not isinstance(x, str) else ""),
    "memory.within": lambda s, x: s.memory.within(x if not isinstance(x, str) else "../x"),
    "table.put": lambda s, x: s.table(Crystal).put(x),
    "table.put(datum)": lambda s, x: s.table(Crystal).put(Datum.create(b"\xff", id="x")),
    "table.get": lambda s, x: s.table(Crystal).get(x if not isinstance(x, str) else ""),
    "table.query": lambda s, x: s.table(Crystal).query(x),
    "table.update": lambda s, x: s.table(Crystal).update("x", x or {"nosuch": 1}),
    # the atom and its queries
    "Datum.create": lambda s, x: Datum.create(x) if not isinstance(x, str | bytes | list | dict) and x is not None and not isinstance(x, int | float) else Datum.create(object()),
    "Datum.create(id=)": lambda s, x: Datum.create("x", id=7 if x is None else x if not isinstance(x, str) else ""),
    "Datum.create(tags=)": lambda s, x: Datum.create("x", tags=x if not isinstance(x, list | dict | str | bytes) and x is not None else [7]),
    "Datum.create(metadata=)": lambda s, x: Datum.create("x", metadata=x or 7),
    "Datum.create(causal_parent=)": lambda s, x: Datum.create("x", causal_parent=7 if x is None or isinstance(x, str) else x),
    "Datum.create(created_at=)": lambda s, x: Datum.create("x", created_at="x" if x is None or x in (7, -1.5) else x),
    "Datum.from_json": lambda s, x: Datum.from_json(x),
    "Query(prefix=)": lambda s, x: Query(prefix=7 if x is None or isinstance(x, str) else x),
    "Query(tags=)": lambda s, x: Query(tags=x if x and not isinstance(x, str) else 7),
    "Query(limit=)": lambda s, x: Query(limit=-1 if x == 7 else x),
    "Query(where=)": lambda s, x: Query(where=x or 7),
    "Limits": lambda s, x: Limits(max_content="x" if x == 7 else x),
    # agents
    "StateFunctor.lift": lambda s, x: StateFunctor(int, s.memory).lift(x),
    "StateFunctor.lift_logic": lambda s, x: StateFunctor(int, s.memory).lift_logic(x),
    "StateFunctor.lift_logic(one argument)": lambda s, x: StateFunctor(int, s.memory).lift_logic(lambda x: x),
    "StateFunctor(backend)": lambda s, x: StateFunctor(int, x),
    "StateFunctor(state_type)": lambda s, x: StateFunctor(x if x is not int else "int", s.memory, object()),
    "StateFunctor.from_table_adapter": lambda s, x: StateFunctor.from_table_adapter(x),
    "DataAgent": lambda s, x: DataAgent(x, int),
    "Symbiont": lambda s, x: Symbiont(lambda given, state: (given, state), x),
    "Symbiont(logic)": lambda s, x: Symbiont(x, DataAgent(s.memory, int)),
    "Id >>": lambda s, x: Id() >> x if not callable(x) else Id() >> 7,
    "Flux.lift": lambda s, x: Flux.lift(x),
    "Flux.start": lambda s, x: _flow(x),
    "LensAgent": lambda s, x: LensAgent(s.memory, x, "x"),
    "FunctorRegistry.register": lambda s, x: FunctorRegistry.register("x", x),
    "FunctorRegistry.get": lambda s, x: FunctorRegistry.get(x),
    # crystals, bus, log
    "Universe": lambda s, x: Universe(x),
    "set_universe": lambda s, x: set_universe(x if x is not None else 7),
    "schema": lambda s, x: schema(x)(type("C", (), {})),
    "Ref": lambda s, x: Ref(x if not isinstance(x, str) else ""),
    "bus.subscribe": lambda s, x: s.bus.subscribe(x if not callable(x) else 7),
    "bus.subscribe(kinds=)": lambda s, x: s.bus.subscribe(print, kinds=x if x not in (None, [], {}) else 7),
    "bus.subscribe(size=)": lambda s, x: s.bus.subscribe(print, size=x if x != 7 else 0),
    "bus.listen(namespace=)": lambda s, x: s.bus.listen(namespace=x if x is not None and not isinstance(x, str) else "../x"),
    "doorbell.subscribe": lambda s, x: s.doorbell.subscribe(x if not callable(x) else 7),
    "log.append(payload)": lambda s, x: s.log.append("s", "w", x if not isinstance(x, bytes) else "text"),
    "log.append(stream)": lambda s, x: s.log.append(x if not isinstance(x, str) else "", "w", b"x"),
    "log.append_many": lambda s, x: s.log.append_many("s", "w", x if not isinstance(x, list | dict | str) else 7),
    "Umwelt": lambda s, x: Umwelt(x),
}


def _no() -> None:
    raise CapabilityMissing("a name that may be: nothing to refuse")


def _hashable(x: Any) -> bool:
    return getattr(type(x), "__hash__", None) is not None


async def _flow(source: Any) -> None:
    async for _ in Flux.lift(Id()).start(source):
        pass


@pytest.mark.parametrize("door", DOORS)
async def test_a_wrong_value_is_answered_with_what_to_do(storage: StorageProvider, door: str) -> None:
    raw: list[str] = []
    for wrong in WRONG:
        try:
            answer = DOORS[door](storage, wrong)
            if inspect.isawaitable(answer):
                await answer
        except DgentError as error:
            if not str(error):
                raw.append(f"{wrong!r}: no words")
        except Exception as error:
            raw.append(f"{wrong!r}: {type(error).__name__}: {error}")
        else:
            raw.append(f"{wrong!r}: taken: {answer!r:.80}")
    assert raw == []
