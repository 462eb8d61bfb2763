"""Agent memory on SQLite against the store of another framework, with the same durability and as many tasks."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import Case, spread
from dgent.datum import Datum
from dgent.memory.sql.sqlite_backend import SQLiteBackend

STORE = "langgraph.store.sqlite.aio"
_next = itertools.count()


def _is_installed() -> bool:
    return importlib.util.find_spec("langgraph") is not None and importlib.util.find_spec(STORE) is not None


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases, if LangGraph's store is installed."""
    if not _is_installed():
        print("    peers  LangGraph's store is not installed: pip install langgraph-checkpoint-sqlite")
        return
    ours = SQLiteBackend(folder / "ours.db")
    await ours.prepare()
    async with importlib.import_module(STORE).AsyncSqliteStore.from_conn_string(str(folder / "theirs.db")) as theirs:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            await theirs.conn.execute(f"PRAGMA {pragma}")
        await theirs.setup()
        for tasks, count, budget in ((1, 300, 2.0), (16, 3000, 1.2), (256, 12_000, 1.0)):

            async def put_ours(tasks: int = tasks, count: int = count) -> int:
                return await spread([Datum.create(b"x" * size) for _ in range(count)], tasks, ours.put)()

            async def put_theirs(tasks: int = tasks, count: int = count) -> int:
                keys = [f"{at:036}" for at in itertools.islice(_next, count)]
                value = {"text": "x" * size}
                return await spread(keys, tasks, lambda key: theirs.aput(("f",), key, value))()

            name = f"put, {tasks} task{'s' * (tasks > 1)}, {size} B, beside LangGraph"
            yield Case(name, "AsyncSqliteStore", budget, put_ours, put_theirs)
    await ours.close()
