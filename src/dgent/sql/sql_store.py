"""What every store with tables of its own in a database shares: how they come to be, and how it joins a transaction."""

# A set of tables is looked at once for each database, by whichever store on it comes first:
#
# state     who is in it                      what the others do                   what a cancel does
# unknown   nobody has looked yet
# looking   one task of each event loop, in   of that loop wait for it; of other   the transaction is undone or done,
#           one transaction of the database   loops look, too                      and the next one looks again
# joined    the task that has a transaction   look for themselves                  it is undone with the transaction
#           of its own open, inside of that
# ready     every store on these tables       run at once
#
# Somebody may bring the tables to other formats afterwards. Work that notices raises SchemaOutdated where `prepare` can
# mend it: then they count as unknown, and the work runs once more when they were looked at; in a transaction, in that.
#
# Two that look at the same time do no harm: `TableSet.prepare` takes a lock of the database. A store that is joined to
# a transaction takes no lock of this file, because whoever holds it may be waiting for that transaction to end; its
# tables count as ready once that is committed, with the savepoint in which they were made. Until then it keeps the lock
# of the database, for which on PostgreSQL whoever makes other tables waits.

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from dgent.exceptions import AccessRefused, InvalidInput, ReadOnly, SchemaOutdated, SchemaTooNew
from dgent.runtime.event_loop import running_loop
from dgent.sql.empty_tables import EmptyTables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from dgent.sql.database import Database
    from dgent.sql.runner import A, Each, Runner, T, Work
    from dgent.sql.table_set import TableSet


class InDatabase(Protocol):
    """What lies in a database, or, with None, where that cannot be told."""

    @property
    def database(self) -> Database | None:
        """The database."""


def database_of(store: object) -> Database | None:
    """Return the database that a store lies in; None where it lies in none."""
    return getattr(store, "database", None)


View_co = TypeVar("View_co", bound=InDatabase, covariant=True)


class Joinable(Protocol[View_co]):
    """A store that can be part of a transaction of its database."""

    def joined(self, transaction: Runner, /) -> View_co:
        """Return the same store as part of an open transaction."""


class SqlStore:
    """A store with tables of its own, which it makes or upgrades on first use. Where nothing can be written it checks.

    A subclass overrides `__init__(database)`, to pass its `TableSet`, and adds methods that run functions over a
    SQLAlchemy `Connection`, in its database or in the transaction that it is joined to:

        await self._read(work)   work(connection) only reads; it may run again after a lost connection
        await self._write(work)  work(connection) is a transaction; it may run again after a conflict in the database
        async def _look(self)    to override: runs once, after the tables were made or found

    `work` returns rows, not a result still to be read. docs/how-to/write-both-tracks.md has an example.

    Args:
        database: where the tables are.
        table_set: which they are.
        may_be_absent: where nothing can be made and none are there, reads find empty tables, until somebody who may has
            made them; without it they raise SchemaOutdated.

    Raises:
        InvalidInput: a store of other tables has the key of this set.
    """

    def __init__(self, database: Database, table_set: TableSet, *, may_be_absent: bool = False) -> None:
        self.database = database
        self.table_set = table_set
        self._may_be_absent = may_be_absent
        self._joined_to: Runner | None = None
        self._ready = _readiness(database, table_set)

    def joined(self, transaction: Runner) -> Self:
        """Return the same store as part of an open transaction."""
        other = copy.copy(self)
        other._joined_to = transaction  # a copy of this class
        return other

    @property
    def is_joined(self) -> bool:
        """Whether this is part of a transaction."""
        return self._runner is not self.database

    @property
    def _runner(self) -> Runner:
        """What runs its SQL: the transaction that it is joined to, or that this task has open, else the database."""
        return self._joined_to or self.database.runner()

    async def prepare(self) -> str:
        """Make the tables if they are not there, or bring them up to date, and return the id of the store.

        In a transaction on PostgreSQL that keeps others from making tables until it ends: prepare before it.

        Raises:
            SchemaOutdated: it can only be read, and they are not there or older; or no upgrade leads on.
            SchemaTooNew: a newer D-gent wrote them.
            Corrupt: their format is no number.
            ReadOnly: they are not there, and this role or this server cannot make them.
            AccessRefused: they are not there, and this role or this server cannot make them.
        """
        known = self._ready.store_id
        if known is not None:
            return known
        if self.is_joined:
            return await self._make()
        async with self._ready.lock():
            return self._ready.store_id or await self._make()

    async def runner(self) -> Runner:
        """Return what runs SQL, once the tables are there. Raises as `prepare` does."""
        if self._ready.store_id is None:
            if self._may_be_absent and self.database.read_only and await self._is_absent():
                return EmptyTables(self.table_set, self.database.read_only)
            await self.prepare()
        return self._runner

    async def _make(self) -> str:
        store_id = await self._prepared()
        self._runner.after_commit(partial(self._ready.mark, store_id))
        await self._look()
        return store_id

    async def _prepared(self) -> str:
        if self.database.read_only:
            return await self._runner.read(self.table_set.check)
        try:
            return await self._runner.write(self.table_set.prepare)
        except (SchemaTooNew, AccessRefused, ReadOnly):
            if await self._turns_out_read_only():  # who only reads needs less
                with suppress(SchemaOutdated):
                    return await self._runner.read(self.table_set.check)
            raise

    async def _turns_out_read_only(self) -> bool:
        await self._look()
        return bool(self.database.read_only)

    async def _look(self) -> None:
        """Do what a subclass wants done when it has looked at the tables, or was refused."""

    async def _is_absent(self) -> bool:
        return await self._runner.read(self.table_set.is_absent, short=True)

    async def _read(self, work: Work[T], *, short: bool = False) -> T:
        runner = await self.runner() if self._ready.store_id is None else self._runner
        return await runner.read(work, short=short)

    async def _read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        runner = await self.runner() if self._ready.store_id is None else self._runner
        return await runner.read_each(work, item, batch_key)

    async def _write(self, work: Work[T]) -> T:
        return await self._run(lambda runner: runner.write(work))

    async def _write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        runner = await self.runner() if self._ready.store_id is None else self._runner
        try:
            return await runner.write_each(work, item, batch_key)
        except SchemaOutdated:  # as in `_run`, through which each put would have to go
            self._ready.forget()
        return await (await self.runner()).write_each(work, item, batch_key)

    async def _run(self, do: Callable[[Runner], Awaitable[T]]) -> T:
        """Run work; once more, if it notices that the tables have to be looked at anew."""
        runner = await self.runner() if self._ready.store_id is None else self._runner
        try:
            return await do(runner)
        except SchemaOutdated:
            self._ready.forget()
        return await do(await self.runner())

    def _after_commit(self, callback: Callable[[], None]) -> None:
        self._runner.after_commit(callback)


class _Readiness:
    """Whether a set of tables is there in one database: the id of the store, once they are."""

    def __init__(self, table_set: TableSet) -> None:
        self.table_set = table_set
        self.store_id: str | None = None
        self._locks: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    def lock(self) -> asyncio.Lock:
        """Return the lock of the running loop, held by the task that looks; a cancel of that task gives it back."""
        return self._locks.setdefault(running_loop(), asyncio.Lock())

    def mark(self, store_id: str) -> None:
        """Remember that the tables are there."""
        self.store_id = store_id
        self._locks.clear()  # nobody asks for one any more, and each holds on to its loop

    def forget(self) -> None:
        """Let whoever comes next look again."""
        self.store_id = None


def _readiness(database: Database, table_set: TableSet) -> _Readiness:
    known: dict[str, _Readiness] = database.attached.setdefault(_Readiness, {})
    found = known.setdefault(table_set.key, _Readiness(table_set))
    if found.table_set.metadata.tables.keys() != table_set.metadata.tables.keys():
        raise InvalidInput(
            f"the key {table_set.key!r} of {table_set.name} is that of other tables already, {found.table_set.name}: "
            "give each set of tables a key of its own"
        )
    return found
