"""Agent memory in PostgreSQL obeys the contract."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.faults.damaged_datum_rows import execute
from tests.server_clock import ServerClock

from dgent.limits import Limits
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.testing import DgentContract


class TestPostgres(DgentContract):
    capabilities = PostgresBackend.capabilities

    @pytest.fixture
    def place(self, postgres_url: str) -> str:
        return postgres_url

    async def open(
        self,
        place: str,
        namespace: str,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> PostgresBackend:
        ServerClock(place).follow(clock)
        return PostgresBackend(place, namespace, clock=clock, limits=limits)

    def damage(self, place: str, namespace: str, id: str) -> None:
        execute(place, "UPDATE dgent_datums SET content = ? WHERE namespace = ? AND id = ?", b"else", namespace, id)
