"""The transaction of one block, as a runner of units of work; what a block within it does is a savepoint."""

# a transaction    who, on which thread                              what a cancel of its task does
# open             its task runs the block; a unit of work of it     the block ends with all undone
#                  holds `_turn`, those of other tasks wait
# ending           its block has ended: who waits for `_turn` is     that it is undone, unless it commits already
#                  refused, and who holds it is waited for; where
#                  all is undone he is cancelled first
# committing       a task of its own, under `uninterrupted`          it is held back until the COMMIT and the callbacks
#                                                                    have ended, and raised then, also where they went
#                                                                    well
# over             nobody: `_run` refuses what comes later           nothing
#
# `open` is the one mark of that, set by `end` alone and looked at by whoever has `_turn`. So behind the end no unit
# runs, and what one answered before is in the transaction, kept or undone with it.
#
# A block within another has a transaction of its own: the same session, the same `_turn`, and a savepoint, which begins
# and ends while it holds `_turn`; a cancel of RELEASE undoes it, one of the undoing is held back. It is the `innermost`
# of the block until it is `over`. What a task of the outer block asks meanwhile waits for that, because there is one
# connection, and what is undone with the savepoint has to be of its block alone. What is asked within it, also of the
# outer transaction, is of it. Its end waits for the unit that runs, also where it is undone: to cut that off would lose
# the connection of PostgreSQL, and the outer block with it; so does a cancel of the task whose unit it is.
#
# The task that opened it is its owner. Another one that was made inside of the block may run units of work in it, and
# may not open a block: so they end in the order in which they are within each other. `session` is not shared so: it is
# for one task at a time, as SQLAlchemy's is everywhere.

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from sqlalchemy import text

from dgent.exceptions import TransactionOpen
from dgent.runtime.callbacks import call_all
from dgent.runtime.event_loop import uninterrupted
from dgent.sql.errors import translated
from dgent.sql.runner import A, Each, T, Work, only
from dgent.sql.statement import Statement
from dgent.sql.transaction_block import ended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSessionTransaction
    from sqlalchemy.orm import SessionTransaction

    from dgent.sql.database import Database
    from dgent.sql.runner import RunIn
    from dgent.sql.transaction_block import BlockSession

FEW: Final = 8
"""Items of a list that are written at once in a transaction still count as short work."""


class Transaction:
    """One open transaction of a database, as a runner. `session` sees what units of work wrote, and the reverse."""

    def __init__(
        self, database: Database, session: BlockSession, run_in: RunIn, outer: Transaction | None = None
    ) -> None:
        self.database, self.session, self.outer = database, session, outer
        self.owner = asyncio.current_task()
        self.open = True
        self._block, self._run_in, self._what = session.block, run_in, database.what
        # One connection runs one unit at a time.
        self._turn: asyncio.Lock = asyncio.Lock() if outer is None else outer._turn
        self._running: asyncio.Timeout | None = None
        self._over = asyncio.Event()
        if outer is None:
            self._block.innermost = self

    async def read(self, work: Work[T], *, short: bool = False) -> T:
        """Run work inside the transaction."""
        return await self._run(work, short=short)

    async def write(self, work: Work[T]) -> T:
        """Run work inside the transaction; an error undoes this work alone."""
        return await self._run(_in_savepoint(work))

    async def read_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run the work for this item alone."""
        return only(await self._run(lambda connection: work(connection, [item]), short=True))

    async def write_each(self, work: Each[A, T], item: A, batch_key: Hashable) -> T:
        """Run the work for this item alone."""
        few = not isinstance(item, list) or len(item) <= FEW
        return only(await self._run(_in_savepoint(lambda connection: work(connection, [item])), short=few))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Keep the callback until the transaction commits; it goes with the savepoint in which it came."""
        self._block.callbacks.append(callback)

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[Transaction]:
        """Open one within the innermost of this: kept with that if its block ends well, undone alone if it does not.

        Raises:
            TransactionOpen: another task has this open.
            StoreClosed: this has ended.
            RolledBack: it ended well, but was undone before.
        """
        if self.owner is not asyncio.current_task():
            raise TransactionOpen(
                "the transaction that is open here belongs to another task: await it there, or after it"
            )
        inner = Transaction(self.database, self.session, self._run_in, self._innermost)
        with translated(self._what, only_sql=True):
            savepoint = await self._savepoint()
            self._block.innermost = inner
            try:
                with self.database.as_current(inner):
                    yield inner
                await inner.end()
                self._block.check()
                await inner._leave(savepoint)
            except BaseException as error:
                await uninterrupted(inner._leave(savepoint, error))
                raise

    async def end(self, *, undone: bool = False) -> None:
        """Refuse what comes from now on and wait for the unit that runs; it is cut off where all is undone."""
        self.open = False
        if self.outer is None:
            self._innermost._over.set()  # of a generator that nobody closed
        if undone and self.outer is None and self._running is not None:
            self._running.reschedule(0)
        async with self._turn:
            pass

    async def commit(self) -> None:
        """Commit, then run the callbacks that wait for it. It has ended before.

        Raises:
            RolledBack: it was undone before.
        """
        block = self._block
        block.check()
        block.committing = True
        try:
            await self.session.commit()
        except BaseException as error:
            if not block.committed:
                raise
            block.callbacks.insert(0, partial(_raise, error))  # a listener of the session's own
        finally:
            block.committing = False
        call_all(block.callbacks)

    async def _savepoint(self) -> AsyncSessionTransaction:
        async with self._turn:
            self._check()
            savepoint = await self.session.begin_nested().__aenter__()
            try:
                await self.session.connection()  # a session says SAVEPOINT when it is used first
            except BaseException as error:
                await savepoint.__aexit__(type(error), error, None)
                raise
            self._block.savepoints.append(cast("SessionTransaction", savepoint.sync_transaction))
        return savepoint

    @property
    def _innermost(self) -> Transaction:
        return cast("Transaction", self._block.innermost)

    async def _take_turn(self) -> None:
        """Wait for the turn, and for the end of a block within this one, unless it is the caller's own."""
        await self._turn.acquire()
        while self.open and self._innermost is not self and self._innermost is not self.database.current():
            self._turn.release()
            await self._innermost._over.wait()
            await self._turn.acquire()

    async def _leave(self, savepoint: AsyncSessionTransaction, error: BaseException | None = None) -> None:
        """Keep what was done since the savepoint, or undo it after an error."""
        if error is not None:
            await self.end(undone=True)
        async with self._turn:
            with suppress(ValueError):  # RELEASE failed: it was left before
                self._block.savepoints.remove(cast("SessionTransaction", savepoint.sync_transaction))
            try:
                await savepoint.__aexit__(None if error is None else type(error), error, None)
            finally:
                self._block.innermost = self.outer
                self._over.set()

    def _check(self) -> None:
        if not self.open:
            raise ended()
        self._block.check()

    async def _run(self, work: Work[T], *, short: bool = False) -> T:
        await self._take_turn()
        running = asyncio.timeout(None)
        try:
            self._check()
            async with running as self._running:
                with translated(self._what):
                    await self.session.flush()
                    return await self._run_in(self.session, work, short=short)
        except TimeoutError:
            if running.expired():  # by `end`
                raise ended() from None
            raise
        finally:
            self._running = None
            self._turn.release()


def _raise(error: BaseException) -> None:
    raise error


_SAVEPOINT, _ROLLBACK, _RELEASE = (
    Statement(text(command)) for command in ("SAVEPOINT unit", "ROLLBACK TO SAVEPOINT unit", "RELEASE SAVEPOINT unit")
)
"""Run past SQLAlchemy, whose own savepoint costs as much as writing a datum."""


def _in_savepoint(work: Work[T]) -> Work[T]:
    def run(connection: Connection) -> T:
        _SAVEPOINT.run(connection)
        try:
            result = work(connection)
            _RELEASE.run(connection)
        except BaseException:
            with suppress(Exception):  # it is gone where all was rolled back, as when the disk is full
                _ROLLBACK.run(connection)
                _RELEASE.run(connection)
            raise
        return result

    return run
