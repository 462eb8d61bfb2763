"""Law Y1: what the synchronous face and `anywhere` answer is what the store answers, for every law of stores."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.memory import test_inmemory, test_jsonl, test_postgres_backend, test_sqlite_backend
from tests.sync.stores import Awaited, OnLoops, faced

from dgent.sync import anywhere


class TestSyncSQLite(test_sqlite_backend.TestSQLite):
    async def open(self, place: Any, namespace: str, **named: Any) -> Any:
        return Awaited(faced(await super().open(place, namespace, **named)))


class TestSyncInMemory(test_inmemory.TestMemory):
    async def open(self, place: Any, namespace: str, **named: Any) -> Any:
        return Awaited(faced(await super().open(place, namespace, **named)))


class TestSyncJSONL(test_jsonl.TestJSONL):
    async def open(self, place: Any, namespace: str, **named: Any) -> Any:
        return Awaited(faced(await super().open(place, namespace, **named)))


class TestSyncPostgres(test_postgres_backend.TestPostgres):
    async def open(self, place: Any, namespace: str, **named: Any) -> Any:
        return Awaited(faced(await super().open(place, namespace, **named)))


class TestAnywhereSQLite(test_sqlite_backend.TestSQLite):
    async def open(self, place: Any, namespace: str, **named: Any) -> Any:
        store = await super().open(place, namespace, **named)
        return OnLoops(await asyncio.to_thread(anywhere, store))  # where no loop runs, so the owner is one of its own
