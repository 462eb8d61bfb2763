"""The one object that a program opens: both tracks, their bridge and their common transaction."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from sqlalchemy import URL

from dgent import migrations
from dgent.agentese import AGENT_TABLES, Resolver, Umwelt, promoted
from dgent.bridge import MaintainedTables, Outbox, TableAdapter, TableRegistry, UnitOfWork, unit_of_work
from dgent.causal import AsyncGeneration, AsyncLog, Doorbell, MaintainedLog
from dgent.crystal import Universe
from dgent.error_messages import called
from dgent.exceptions import DgentError, InvalidSettings
from dgent.memory.event_bus import DataBus
from dgent.memory.failover.router import DgentRouter
from dgent.memory.sql.maintenance import MaintainedMemory
from dgent.runtime.event_loop import running_loop
from dgent.runtime.private_files import look_at_directory
from dgent.settings import Settings
from dgent.sql import Database, open_database
from dgent.storage.relational import RelationalStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from dgent.delivery import DeliveryReport, QueuedWrite
    from dgent.sql.maintained import Maintained

_NOWHERE: Final = Path("/dev/null/dgent")  # no folder can be made there: what wanted one would be refused


class StorageProvider:
    """Agent memory and typed tables in one database.

    Attributes:
        settings: what it was opened with.
        database: what runs SQL.
        memory: agent memory under the namespace of the settings, a `Backend`; `memory.within(...)` for others.
        relational: plain SQL.
        tables: the typed tables that are registered, and by that readable for agents.
        bus: tells of what was put, deleted, degraded and recovered, after the fact.
        log: chained logs, which nobody can edit unseen.
        doorbell: rings when one of them got an entry.
        universe: the crystals of agent memory: values under the schemas that `@schema` declared.
        maintained: what lies in the database, each with its tables, how much there is, and a check.
    """

    def __init__(self, settings: Settings, database: Database, memory: DgentRouter, bus: DataBus) -> None:
        self.settings = settings
        self.database = database
        self.memory = memory
        self.relational = RelationalStore(database)
        self.tables = TableRegistry(database, bus.publish)
        for model in (*AGENT_TABLES, *promoted()):
            self.tables.register(model)
        self.bus = bus
        self.doorbell = Doorbell()
        self.log = AsyncLog(database, self.doorbell)
        self.universe = Universe(self.memory)
        self.maintained: list[Maintained] = [
            MaintainedMemory(database),
            MaintainedLog(database),
            MaintainedTables(self.tables),
        ]
        self._resolver = Resolver(self.memory, self.tables)

    @classmethod
    async def from_config(cls, settings: Settings | None = None, **overrides: Any) -> Self:
        """Open what the settings say: `membrane.db` under the XDG data directory, or KGENTS_DATABASE_URL.

        `overrides` are settings by name: `from_config(data_dir=..., strict=True)`.

        Raises:
            NoEventLoop: asyncio does not run here.
            InvalidSettings: a setting does not fit, or both `settings` and overrides are given.
            BackendUnavailable: no memory of the chain answers, or, with `strict`, not the first.
            Corrupt: the agent memory is damaged, another than was here, or newer than this code.
            SchemaTooNew: the agent memory is damaged, another than was here, or newer than this code.
        """
        running_loop()
        if settings is not None and overrides:
            raise InvalidSettings(f"settings are given, so {', '.join(overrides)} must be in them: Settings.load(...)")
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidSettings(
                f"{called(settings)} is no Settings: name what it is, as in from_config(data_dir=...) or "
                "from_config(database_url=...)"
            )
        loaded = Settings.load(**overrides) if settings is None else settings
        look_at_directory(loaded.data_dir)
        database = open_database(loaded)
        bus = DataBus()
        storage = cls(loaded, database, DgentRouter(loaded, database=database, bus=bus), bus)
        try:
            await storage.memory.open()
        except BaseException:
            await storage.close()
            raise
        return storage

    @classmethod
    async def create_minimal(cls) -> Self:
        """Open an empty storage in memory that is gone when it is closed, with every table in place.

        For tests and trials: it touches no disk, and what does not fit into memory is `DiskFull`.
        """
        url = URL.create("sqlite+aiosqlite", database=f"/dgent-{uuid4()}", query={"vfs": "memdb"})
        here: dict[str, Any] = {
            "database_url": url,
            "chain": ("sqlite",),
            "store": {"backend": "sqlite"},
            "database_schema": None,
        }
        storage = await cls.from_config(data_dir=_NOWHERE, **here)
        try:
            await storage.run_migrations()
        except BaseException:
            await storage.close()
            raise
        return storage

    async def run_migrations(self) -> str | None:
        """Bring the typed tables to the newest revision, and return it.

        Raises:
            SchemaTooNew: a newer D-gent wrote the database.
            MigrationError: a migration failed; nothing changed.
        """
        revision = await migrations.upgrade(self.settings)
        await self.memory.recover()  # looks at the store anew: the manifest learns that it is not empty
        return revision

    def table(self, model: type[Any]) -> TableAdapter:
        """Return a typed table as a `DgentProtocol`. Agents reach it only after `tables.register(model)`."""
        return self.tables.adapter(model)

    def generation(self, key: str) -> AsyncGeneration:
        """Return the counter of that name, which only moves forward.

        Raises:
            InvalidDatum: the key is no text of 1 to 2,000 bytes.
        """
        return AsyncGeneration(self.database, key)

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open one transaction: `tx.session`, `tx.memory`, `tx.table(Model)`, `tx.log`, `tx.generation`; all or none.

        Raises:
            StorageTimeout: it stayed open longer than `transaction_timeout`.
            TransactionOpen: another task's is open here.
            DeliveryPending: writes that waited for the memory are on their way to it, for longer than
                `delivery_timeout`.
        """
        if self.memory.is_settled:
            return unit_of_work(self.database, self.memory.serving, self.tables, self.log)
        return self._transaction_later()

    @asynccontextmanager
    async def _transaction_later(self) -> AsyncIterator[UnitOfWork]:
        async with unit_of_work(self.database, await self.memory.settled(), self.tables, self.log) as tx:
            yield tx

    async def resolve(self, path: str, umwelt: Umwelt | None = None, /, **arguments: Any) -> Any:
        """Follow an agent path: `self.data.<verb>` or `self.data.table.<table>.<verb>`.

        Raises:
            InvalidPath: with the nearest names.
            PathNotFound: with the nearest names.
            TableNotFound: with the nearest names.
            PermissionDenied: the umwelt does not grant it.
        """
        return await self._resolver.resolve(path, umwelt, **arguments)

    async def reconcile(self) -> DeliveryReport:
        """Deliver what a crash kept between the two tracks, where agent memory lies elsewhere than the tables.

        Raises:
            BackendUnavailable: the memory is out of reach.
        """
        return await (await self._outbox()).reconcile()

    async def set_aside(self) -> list[QueuedWrite]:
        """Return the writes that could not be delivered, to the memory or to the first store of its chain."""
        return [*await self.memory.set_aside(), *await (await self._outbox()).set_aside()]

    async def retry(self, entry: QueuedWrite) -> bool:
        """Deliver a write that was set aside over whatever is there; tell whether it was there and whole."""
        return await self.memory.retry(entry) or await (await self._outbox()).retry(entry)

    async def discard(self, entry: QueuedWrite) -> bool:
        """Erase a write that was set aside; tell whether it was there."""
        return await self.memory.discard(entry) or await (await self._outbox()).discard(entry)

    async def _outbox(self) -> Outbox:
        return Outbox(self.database, await self.memory.settled())

    async def status(self) -> Mapping[str, object]:
        """Return, for people, where the data is, how much there is and the state of the stores; no secrets."""
        schema: object
        holds: dict[str, object] = {}
        try:
            schema = await migrations.current(self.settings)
        except DgentError as error:  # then nobody else has to wait for it in vain
            schema = f"unknown: {error}"
        else:
            for store in self.maintained:
                holds[store.name] = await _stats(store)
        return {
            "database": self.database.what,
            "schema": schema,
            "schema_needed": migrations.head(),
            "holds": holds,
            "memory": await self.memory.status(),
        }

    async def close(self) -> None:
        """Wait for what was acknowledged, then release everything. May be called twice."""
        await self.memory.close()
        await self.database.close()
        self.bus.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _stats(store: Maintained) -> object:
    try:
        return await store.stats()
    except DgentError as error:
        return f"unknown: {error}"
