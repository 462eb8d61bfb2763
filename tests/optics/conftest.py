"""Every kind of store, each with one datum or row to look into."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.sql import open_database

from .models import MODELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.store import DgentProtocol

ID = "it"
CONTENT = {"n": 0, "m": 0, "tags": ["a", "b"], "body": {"deep": [{"x": 1}, {"x": 2}], "none": None}}


@asynccontextmanager
async def table(kind: str, url: str) -> AsyncIterator[TableAdapter]:
    database = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
    try:
        await database.write(MODELS[kind].metadata.create_all)
        yield TableAdapter(MODELS[kind], database)
    finally:
        await database.close()


@asynccontextmanager
async def memory(kind: str, folder: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[DgentProtocol]:
    makers = {
        "memory": lambda: MemoryBackend("optics", clock=clock),
        "jsonl": lambda: JSONLBackend(folder / "memory.jsonl", clock=clock),
        "sqlite": lambda: SQLiteBackend(folder / "memory.db", clock=clock),
    }
    store = makers[kind]()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def opened(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[DgentProtocol]:
    model, _, database = kind.partition("-")
    url = request.getfixturevalue("postgres_url") if "postgres" in kind else f"sqlite:///{folder / 'membrane.db'}"
    if database:
        async with table(model, url) as store:
            yield store
    elif kind == "postgres":
        store = PostgresBackend(url)
        try:
            yield store
        finally:
            await store.close()
    else:
        async with memory(kind, folder) as store:
            yield store


TABLES = ["versioned-sqlite", "versioned-postgres", "plain-sqlite", "plain-postgres"]


@pytest_asyncio.fixture(params=["memory", "jsonl", "sqlite", "postgres", *TABLES])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DgentProtocol]:
    """Return a store that holds the datum `it`."""
    async with opened(request.param, request, tmp_path) as store:
        await store.put(Datum.create(data=CONTENT, id=ID, created_at=1_700_000_000.0, causal_parent="cause"))
        yield store


@pytest_asyncio.fixture(params=TABLES)
async def rows(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TableAdapter]:
    """Return a table that holds the row `it`."""
    async with opened(request.param, request, tmp_path) as store:
        await store.put(Datum.create(data=CONTENT, id=ID, created_at=1_700_000_000.0, causal_parent="cause"))
        assert isinstance(store, TableAdapter)
        yield store
