"""One transaction over both tracks: typed rows, agent memory and logs are committed together, or none of them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeGuard, TypeVar

from dgent.bridge.outbox import Outbox
from dgent.bridge.outbox_memory import OutboxMemory
from dgent.bridge.table_registry import TableRegistry
from dgent.causal import AsyncGeneration, AsyncLog
from dgent.error_messages import called
from dgent.exceptions import CapabilityMissing
from dgent.sql import InDatabase, database_of
from dgent.store import DgentProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.bridge.table_adapter import TableAdapter
    from dgent.erasure_request import Erased
    from dgent.sql import Database, Joinable, Runner, Transaction
    from dgent.store import Backend


View = TypeVar("View", bound=InDatabase)
_log: Final = logging.getLogger("dgent.bridge")


class JoinableMemory(DgentProtocol, Protocol):
    """Agent memory that can be part of a transaction of its `database`."""

    database: Database

    async def prepare(self) -> object:
        """Make the tables if they are not there."""

    def joined(self, transaction: Runner, /) -> Self:
        """Return the same store as part of an open transaction."""

    async def erase(
        self, *, prefix: str | None = None, everything: bool = False, below: bool = False, vacuum: bool = False
    ) -> Erased:
        """Erase datums for good, as `Backend.erase` does."""


class UnitOfWork:
    """An open transaction.

    Attributes:
        session: for the ORM.
        memory: agent memory, under the namespace of the storage.
    """

    def __init__(self, transaction: Transaction, memory: JoinableMemory, tables: TableRegistry, log: AsyncLog) -> None:
        self.session: AsyncSession = transaction.session
        self._transaction, self._tables, self._log = transaction, tables, log
        self.memory: JoinableMemory = self.join(memory)

    def join(self, store: Joinable[View]) -> View:
        """Return a store as part of this transaction: what it writes is committed with the rest, or not at all.

        For whatever lies in the same database: memory under another namespace, `storage.memory.within(...)`, logs of
        another format, a table, a store of one's own. Once the block has ended, what was joined raises StoreClosed.

        Raises:
            CapabilityMissing: the store lies elsewhere, or takes no part in transactions.
        """
        joined = getattr(store, "joined", None)  # who passes what is none may have no type checker
        if joined is None or isinstance(store, type):
            raise CapabilityMissing(f"{called(store)} takes no part in a transaction: {_ELSEWHERE}")
        view: View = joined(self._transaction)
        if view.database is not self._transaction.database:
            where = "sessions of its own" if view.database is None else view.database.what
            mine = self._transaction.database.what
            raise CapabilityMissing(f"{called(store)} lies in {where}, this transaction in {mine}: {_ELSEWHERE}")
        return view

    @property
    def log(self) -> AsyncLog:
        """The logs inside of this transaction; the doorbell rings after the commit."""
        return self.join(self._log)

    def generation(self, key: str) -> AsyncGeneration:
        """Return a counter inside of this transaction."""
        return self.join(AsyncGeneration(self._transaction.database, key))

    def table(self, model: type[Any]) -> TableAdapter:
        """Return a typed table as a `DgentProtocol` inside of this transaction."""
        return self.join(self._tables.adapter(model))


_ELSEWHERE: Final = (
    "use a store in the database of the transaction, or write to this one after the block; what goes to the memory of "
    "the storage, wherever that lies, is put through tx.memory"
)


@asynccontextmanager
async def unit_of_work(
    database: Database, memory: Backend, tables: TableRegistry | None = None, log: AsyncLog | None = None
) -> AsyncIterator[UnitOfWork]:
    """Open a transaction over the tables of a database and an agent memory; commit at the end, roll back on any error.

    Where the memory lies in the same database it takes part. Where it lies elsewhere its writes go through the outbox:
    they are committed with the rows, and delivered after the commit, or by `Outbox.reconcile` if that is interrupted.
    Once it is committed the block ends well: a delivery that fails is logged, and the rest waits.
    Inside of a transaction that the same task opened it is a savepoint of that, and the outermost one delivers; where
    that is the database's own the next delivery does.
    Tasks that were made inside may write until the block ends: it waits for what runs then, or cuts it off if it is
    undone, and whatever comes later raises StoreClosed and does nothing.

    Raises:
        StorageTimeout: it stayed open longer than `transaction_timeout`.
        TransactionOpen: another task's is open here.
        CapabilityMissing: the memory lies elsewhere and does not say where.
    """
    registered = TableRegistry(database) if tables is None else tables
    logs = AsyncLog(database) if log is None else log
    outermost = database.current() is None
    if _is_joinable(memory, database):
        if outermost:  # else its first use makes the tables, inside
            await memory.prepare()
        async with database.transaction() as transaction:
            yield UnitOfWork(transaction, memory, registered, logs)
        return
    box = Outbox(database, memory)
    if outermost:
        await box.prepare()
    async with database.transaction() as transaction:
        if not outermost:
            await box.prepare()
        yield UnitOfWork(transaction, OutboxMemory(box), registered, logs)
    if outermost:
        await _deliver(box)


async def _deliver(box: Outbox) -> None:
    """Deliver what was committed; it is, so whatever fails here is logged, and the rest waits."""
    try:
        await box.deliver()
    except Exception:
        _log.exception("a transaction is committed, and what it wrote to %s waits: see reconcile()", box.memory.name)


def _is_joinable(memory: Backend, database: Database) -> TypeGuard[JoinableMemory]:
    """Tell whether it can take part; not by `isinstance`, which takes longer than the whole of `prepare`."""
    return database_of(memory) is database
