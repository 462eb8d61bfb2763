"""Agent memory in SQLite obeys the contract."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.rows import execute

from dgent.datum import Limits
from dgent.memory.sqlite import SQLiteBackend
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
