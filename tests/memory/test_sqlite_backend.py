"""Agent memory in SQLite obeys the contract."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from tests.faults.damaged_datum_rows import execute

from dgent.limits import Limits
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.testing import DgentContract


class TestSQLite(DgentContract):
    capabilities = SQLiteBackend.capabilities

    async def open(
        self,
        place: Path,
        namespace: str,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008
    ) -> SQLiteBackend:
        return SQLiteBackend(place / "membrane.db", namespace, clock=clock, limits=limits)

    def damage(self, place: Path, namespace: str, id: str) -> None:
        execute(
            f"sqlite:///{place}/membrane.db",
            "UPDATE dgent_datums SET content = ? WHERE namespace = ? AND id = ?",
            b"else",
            namespace,
            id,
        )


class TestInMemory(DgentContract):
    """What `StorageProvider.create_minimal()` stands on."""

    capabilities = replace(SqlBackend.capabilities, durable=False, shared=False)

    async def open(
        self,
        place: Path,
        namespace: str,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008
    ) -> SqlBackend:
        database = open_database(Settings.load(database_url=f"sqlite:////{uuid4()}?vfs=memdb"))
        return SqlBackend(database, namespace, clock=clock, limits=limits)
