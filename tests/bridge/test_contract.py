"""A typed table obeys the contract of agent memory, as far as its capabilities go."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import orjson
import pytest
from tests.faults.damaged_datum_rows import execute

from dgent.bridge import TableAdapter
from dgent.datum import Datum
from dgent.limits import Limits
from dgent.sql import open_database
from dgent.testing import DgentContract

from .conftest import settings_of
from .wide_models import Note

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.capabilities import Capabilities
    from dgent.store import DgentProtocol

START = 1_700_000_000.0


class TableContract(DgentContract):
    """The rows of `test_notes`. What changes at each write is hidden, so that the model need not know it."""

    capabilities: ClassVar[Capabilities] = TableAdapter(Note, lambda: None).capabilities  # type: ignore[arg-type,return-value]

    async def open(
        self,
        place: Any,
        namespace: str,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008
    ) -> DgentProtocol:
        database = open_database(settings_of(place))
        adapter = _Opened(Note, database, hidden=("updated_at", "secret"), limits=limits)
        adapter.database = database
        await database.write(Note.metadata.create_all)
        if namespace not in _seen:
            _seen.add(namespace)
            await adapter.delete_many([datum.id for datum in await adapter.list(limit=limits.max_page)])
        return adapter

    async def close(self, store: DgentProtocol) -> None:
        assert isinstance(store, _Opened)
        await store.database.close()

    def make_datum(self, id: str, n: int, parent: str | None = None) -> Datum:
        tags = [f"t{n % 2}", "é"] if n % 5 else []
        return Datum(id, orjson.dumps({"n": n}), START + n % 4, parent, {"tags": tags})

    def expected(self, datum: Datum) -> Datum:
        from datetime import UTC, datetime

        shown = {
            "causal_parent": datum.causal_parent,
            "created_at": datetime.fromtimestamp(datum.created_at, UTC),
            "id": datum.id,
            "n": datum.data["n"],
            "tags": datum.metadata["tags"],
        }
        content = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)
        metadata = {"source": "alembic", "table": "test_notes", "tags": datum.metadata["tags"]}
        return Datum(datum.id, content, datum.created_at, datum.causal_parent, metadata)


_seen: set[str] = set()


class _Opened(TableAdapter):
    database: Any


class TestOnSQLite(TableContract):
    @pytest.fixture
    def place(self, sqlite_path: Any) -> str:
        return f"sqlite:///{sqlite_path}"

    def damage(self, place: str, namespace: str, id: str) -> None:
        execute(place, "UPDATE test_notes SET tags = ? WHERE id = ?", "no JSON", id)


class TestInMemory(TableContract):
    capabilities = replace(TableContract.capabilities, durable=False, shared=False)

    @pytest.fixture
    def place(self) -> str:
        return f"sqlite:////{uuid4()}?vfs=memdb"


class TestOnPostgres(TableContract):
    chain_depth = 2_000

    @pytest.fixture
    def place(self, postgres_url: str) -> str:
        return postgres_url
