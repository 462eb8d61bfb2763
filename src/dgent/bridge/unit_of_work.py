"""One transaction over both tracks: typed rows, agent memory and logs are committed together, or none of them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard

from dgent.bridge.outbox import Outbox
from dgent.bridge.pending import PendingMemory
from dgent.bridge.tables import Tables
from dgent.causal import AsyncGeneration, Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.bridge.table_adapter import TableAdapter
    from dgent.database import Database, Runner, Transaction
    from dgent.store import DgentProtocol


_log: Final = logging.getLogger("dgent.bridge")


class Joinable(Protocol):
    """Agent memory that can be part of a transaction of its `database`."""

    database: Database

    async def prepare(self) -> object:
        """Make the tables if they are not there."""

    def joined(self, transaction: Runner) -> DgentProtocol:
        """Return the same store as part of an open transaction."""


class UnitOfWork:
    """An open transaction.

    Attributes:
        session: for the ORM. memory: agent memory, under the namespace of the storage.
    """

    def __init__(self, transaction: Transaction, memory: DgentProtocol, tables: Tables, log: Log) -> None:
        self.session: AsyncSession = transaction.session
        self.memory = memory
        self._transaction, self._tables, self._log = transaction, tables, log

    @property
    def log(self) -> Log:
        """The logs inside of this transaction; the doorbell rings after the commit."""
        return self._log.joined(self._transaction)

    def generation(self, key: str) -> AsyncGeneration:
        """Return a counter inside of this transaction."""
        return AsyncGeneration(self._log.database, key).joined(self._transaction)

    def table(self, model: type[Any]) -> TableAdapter:
        """Return a typed table as a `DgentProtocol` inside of this transaction."""
        return self._tables.adapter(model).joined(self._transaction)


@asynccontextmanager
async def unit_of_work(
    database: Database, memory: DgentProtocol, tables: Tables | None = None, log: Log | None = None
) -> AsyncIterator[UnitOfWork]:
    """Open a transaction over the tables of a database and an agent memory; commit at the end, roll back on any error.

    Where the memory lies in the same database it takes part. Where it lies elsewhere its writes go through the outbox:
    they are committed with the rows, and delivered after the commit, or by `Outbox.reconcile` if that is interrupted.
    Once it is committed the block ends well: a delivery that fails is logged, and the rest waits.
    Inside of a transaction that the same task opened it is a savepoint of that, and the outermost one delivers.

    Raises:
        StorageTimeout: it stayed open longer than `transaction_timeout`. NestedWrite: another task's is open here.
    """
    registered = Tables(database) if tables is None else tables
    logs = Log(database) if log is None else log
    if _is_joinable(memory, database):
        await memory.prepare()
        async with database.transaction() as transaction:
            yield UnitOfWork(transaction, memory.joined(transaction), registered, logs)
        return
    box = Outbox(database, memory)
    outermost = database.current() is None
    await box.prepare()
    async with database.transaction() as transaction:
        pending = PendingMemory(box, transaction)
        yield UnitOfWork(transaction, pending, registered, logs)
    if outermost:
        await _deliver(box)


async def _deliver(box: Outbox) -> None:
    """Deliver what was committed; it is, so whatever fails here is logged, and the rest waits."""
    try:
        await box.deliver()
    except Exception:
        _log.exception("a transaction is committed, and what it wrote to %s waits: see reconcile()", box.memory.name)


def _is_joinable(memory: DgentProtocol, database: Database) -> TypeGuard[Joinable]:
    """Tell whether it can take part; not by `isinstance`, which takes longer than the whole of `prepare`."""
    return getattr(memory, "database", None) is database
