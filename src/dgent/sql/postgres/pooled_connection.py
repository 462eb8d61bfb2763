"""One connection to PostgreSQL: it opens when needed, is replaced when it dies, and learns what became of a COMMIT."""

# Whoever borrowed it from the pool has it alone, on the event loop of the pool, so there is no lock.
#
# state                                       what a cancel of whoever has it does
# closed                                      nothing
# opening                                     the task that connects goes on, and what it opened is closed in the
#                                             background
# idle, in autocommit                         nothing
# reading, at BEGIN                           the connection is dropped
# in a transaction                            ROLLBACK is sent; cut off again, the connection is dropped
# one statement that commits itself, COMMIT   the connection is dropped, and nobody asks whether the write is in
# asking after a lost COMMIT                  it asks no more, and the write may be in
#
# A block may end while another task runs a statement of its session: COMMIT is refused then, and the connection is
# dropped, or that statement would go on in the next transaction. Units of work have ended before (`transaction`).
# To drop it is to close it in the background, which cancels at the server what still runs. A caller who waits for a
# batch, or for the end of a block, is not whoever has it: their cancel does not come here (`pool`, `sql/database.py`).

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection

from dgent.exceptions import BackendUnavailable, OutcomeUnknown, RolledBack
from dgent.runtime.backoff import Backoff
from dgent.sql.blocking_session import await_here
from dgent.sql.errors import RETRYABLE, sqlstate, translate
from dgent.sql.postgres.commit_status import IN_THE_FUTURE, UNKNOWN, is_committed
from dgent.sql.postgres.engine import ClosingConnections, Opened, connect, cut_off, load_driver
from dgent.sql.postgres.session_settings import GRACE, begin, begin_reading
from dgent.sql.reusable_greenlet import ReusableGreenlet
from dgent.sql.runner import Optimistic
from dgent.sql.transaction_block import Block, BlockSession, follow_savepoints, undone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dgent.sql.postgres.url_options import Target
    from dgent.sql.runner import A, Attempt, Each, T, Work

TRIES: Final = 8
"""How often a unit of work runs before a conflict with other writers is its answer."""
_FIRST_PAUSE: Final = 0.002
_FIRST_LOOK: Final = 0.05
_LONGEST_PAUSE: Final = 0.2
_IN_RECOVERY: Final = "25006"
_STALE_PLAN: Final = "0A000"
_BUSY: Final = (
    "another task still ran a statement of the session when the block ended, so all is undone: await it within it"
)


class PooledConnection:
    """A place in a pool. Whoever holds it has it alone; its connection is in autocommit between transactions."""

    def __init__(self, engine: AsyncEngine, what: str, target: Target, closing: ClosingConnections) -> None:
        self._engine, self._what, self._target, self._closing = engine, what, target, closing
        self._timeout = target.settings.connect_timeout
        self._begins, self._begins_reading = begin(target), begin_reading(target)
        self._opened: Opened | None = None
        self._xid = ""
        self._runner = ReusableGreenlet()
        self._block: Block | None = None  # that of the session, whose own begin, commit and rollback then count

    async def read(self, work: Work[T]) -> T:
        """Run work that only reads; once more, if its connection had died or its plan was out of date."""
        try:
            return await self._read_on(self._alive() or await self._open(), work)
        except Exception as error:
            passing = self._opened is not None and (self._alive() is None or sqlstate(error) == _STALE_PLAN)
            if passing or isinstance(error, TimeoutError):  # which leaves a statement behind
                self.drop()
            if not passing:
                self._raise(error)
        except BaseException:
            self.drop()
            raise
        try:
            return await self._read_on(await self._open(), work)
        except BaseException as error:
            self.drop()
            if isinstance(error, Exception):
                self._raise(error)
            raise

    async def _read_on(self, opened: Opened, work: Work[T]) -> T:
        """Run work in autocommit; behind a pooler in a transaction: else each statement might meet another server."""
        if not self._target.pooled:
            return await self._runner.run(work, opened.connection)
        await opened.driver.execute(self._begins_reading, timeout=self._timeout)
        try:
            result = await self._runner.run(work, opened.connection)
            await opened.driver.execute("COMMIT", timeout=self._timeout)
        except BaseException:
            await self._roll_back()
            raise
        finally:
            _tidy(opened.connection)
        return result

    async def read_each(self, work: Each[A, T], items: list[A]) -> list[T | Exception]:
        """Run work that only reads, for each of these items."""
        return await self.read(lambda connection: work(connection, items))

    async def write_each(self, work: Each[A, T], items: list[A]) -> list[T | Exception]:
        """Write each of these items: in one statement that commits itself, if the work knows one, or in a transaction.

        Raises:
            Conflict: as `transact`.
            BackendUnavailable: as `transact`.
            OutcomeUnknown: as `transact`.
        """
        attempt = work.attempt(items) if isinstance(work, Optimistic) and not self._target.pooled else None
        done = None if attempt is None else await self._try(attempt, work, items)
        return await self.transact(lambda connection: work(connection, items)) if done is None else done

    async def transact(self, work: Work[T]) -> T:
        """Run a unit of work in a transaction of its own, again after a conflict, and answer after its COMMIT.

        Raises:
            Conflict: it met other writers every time.
            BackendUnavailable: the connection was lost, twice; nothing was written.
            OutcomeUnknown: the answer to COMMIT was lost, and the server cannot tell what became of it.
        """
        lost, backoff = 0, Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, least=0)
        for attempt in range(1, TRIES + 1):
            opened = self._alive() or await self._open()
            try:
                return await self._transact_on(opened.connection, work)
            except Exception as error:
                gone = isinstance(translate(error, self._what), BackendUnavailable)
                lost += gone
                again = gone or sqlstate(error) in {*RETRYABLE, _STALE_PLAN}
                if not again or lost > 1 or attempt == TRIES:
                    self._raise(error)
            await asyncio.sleep(backoff.pause())
        raise AssertionError

    async def session(self) -> BlockSession:
        """Return a session in a transaction that has begun on this connection; end it with `end`."""
        opened = self._alive()
        if opened is not None:
            with suppress(Exception):  # it had died without a sign: BEGIN is what finds out
                return await self._session_on(opened.connection)
        return await self._session_on((await self._open()).connection)

    async def end(self, session: BlockSession) -> None:
        """Close a session and its connection, which is then the next one's; what it did not commit is rolled back."""
        try:
            self._drop_if_busy()
            with suppress(exc.IllegalStateChangeError):  # another task is in the midst of a call of it
                await session.end()
        finally:
            self._drop_if_busy()
            self._block = None
            cast("AsyncConnection", session.bind).sync_connection = None

    def _drop_if_busy(self) -> None:
        """Let no statement of a task that uses the session of a block go on in the next transaction."""
        if self._opened is not None and self._opened.busy.locked():
            self.drop()

    def drop(self) -> None:
        """Let go of the connection: it is closed in the background, and what still runs on it is cancelled."""
        opened, self._opened = self._opened, None
        if opened is not None and not opened.driver.is_closed():
            self._closing.close(opened.driver)

    def forget(self) -> None:
        """Let go of a connection whose event loop is closed."""
        opened, self._opened = self._opened, None
        if opened is not None:
            cut_off(opened.driver)

    def rest(self) -> None:
        """Drop the connection unless it is as it was lent: open, and in no transaction."""
        opened = self._opened
        if opened is None:
            return
        used_up = opened.connection.closed or opened.connection.invalidated
        if used_up or opened.driver.is_closed() or opened.driver.is_in_transaction():
            self.drop()
        else:
            _tidy(opened.connection)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise what an error means; one that is no driver's passes as it is."""
        ours = translate(error, self._what)
        if ours is None or ours is error:
            raise error
        raise ours from None

    def _alive(self) -> Opened | None:
        opened = self._opened
        return opened if opened is not None and not opened.driver.is_closed() else None

    async def _open(self) -> Opened:
        """Connect anew, on a task of its own: a cancelled caller need not wait for it."""
        self.drop()
        task = asyncio.get_running_loop().create_task(connect(self._engine, self._what, pooled=self._target.pooled))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._timeout + GRACE)
        except BaseException:
            self._closing.close_late(task)
            raise
        if not done:
            self._closing.close_late(task)
            raise BackendUnavailable(f"{self._what} takes connections, but does not answer: check what runs there")
        opened = self._opened = task.result()
        ends = ("begin", self._begin_block), ("commit", self._commit_block), ("rollback", self._undo_block)
        for name, do in ends:
            event.listen(opened.connection, name, self._in_turn(do))
        follow_savepoints(opened.connection, lambda _: self._block)
        return opened

    def _in_turn(self, do: Callable[[Block], Awaitable[None]]) -> Callable[[Connection], None]:
        def on_event(connection: Connection) -> None:
            if self._block is not None:
                await_here(connection, partial(do, self._block))

        return on_event

    async def _begin_block(self, block: Block) -> None:
        if block.begun:
            raise undone()
        block.begun = True
        await self._begin()

    async def _commit_block(self, block: Block) -> None:
        block.refuse_commit()
        opened = self._require()
        if opened.connection.invalidated or opened.busy.locked():
            block.undone = True
            raise RolledBack(_BUSY) if opened.busy.locked() else undone()
        await self._commit()
        block.committed = True

    async def _undo_block(self, block: Block) -> None:
        block.undone = True
        await self._roll_back()

    async def _transact_on(self, connection: Connection, work: Work[T]) -> T:
        await self._begin()
        try:
            result = await self._runner.run(work, connection)
            await self._commit()
        except BaseException:
            await self._roll_back()
            raise
        finally:
            _tidy(connection)
        return result

    async def _try(self, attempt: Attempt[T], work: Each[A, T], items: list[A]) -> list[T | Exception] | None:
        """Run one statement that commits itself; None if it wrote nothing. One transaction clears up a lost answer."""
        opened = self._alive() or await self._open()
        try:
            return await self._runner.run(attempt.run, opened.connection)
        except Exception as error:
            if sqlstate(error) in {*RETRYABLE, _STALE_PLAN}:
                return None
            gone = self._alive() is None or isinstance(translate(error, self._what), BackendUnavailable)
            if not gone and not isinstance(error, TimeoutError):
                self._raise(error)  # the server said no
        except BaseException:
            self.drop()
            raise
        self.drop()
        try:
            return await self.transact(lambda connection: attempt.look(connection) or work(connection, items))
        except Exception:
            raise OutcomeUnknown(UNKNOWN.format(what=self._what)) from None

    async def _session_on(self, connection: Connection) -> BlockSession:
        self._block = block = Block()
        session = BlockSession(AsyncConnection(self._engine, connection), block=block)
        try:
            await session.connection()
        except BaseException:
            self._block = None
            self.drop()
            raise
        return session

    async def _begin(self) -> None:
        driver = self._require().driver
        try:
            await driver.control(self._begins, timeout=self._timeout)
        except BaseException as error:
            if sqlstate(error) == _IN_RECOVERY:  # a standby gives out no ids: what reads may go on
                await self._begin_reading(driver)
                driver.guarded = True
                return
            self.drop()
            raise
        driver.guarded = True
        self._xid = driver.get_settings().application_name.removeprefix("dgent ")

    async def _begin_reading(self, driver: Any) -> None:
        self._xid = ""
        try:
            await driver.control(f"ROLLBACK; {self._begins_reading}", timeout=self._timeout)
        except BaseException:
            self.drop()
            raise

    async def _roll_back(self) -> None:
        opened = self._alive()
        if opened is None:
            return
        opened.driver.guarded = False
        if opened.driver.is_in_transaction():
            try:
                await opened.driver.control("ROLLBACK", timeout=self._timeout)
            except BaseException as error:
                self.drop()
                if not isinstance(error, Exception):
                    raise

    def _require(self) -> Opened:
        if self._opened is None:
            raise BackendUnavailable(f"the connection to {self._what} was closed in its transaction, which is undone")
        return self._opened

    async def _commit(self) -> None:
        opened = self._require()
        opened.driver.guarded = False
        try:
            status = await opened.driver.control("COMMIT")
        except Exception as error:
            if sqlstate(error) is not None and not opened.driver.is_closed():
                raise  # the server answered, and said no
            if isinstance(error, load_driver().InterfaceError) and not opened.driver.is_closed():
                raise RolledBack(_BUSY) from None  # COMMIT was not even sent
            self.drop()
            if not self._xid or not await self._is_in(self._xid, opened.life):
                raise BackendUnavailable(
                    f"the connection to {self._what} was lost at COMMIT, and the write is not in: try again"
                ) from None
            return
        except BaseException:
            self.drop()
            raise
        if status != "COMMIT":
            raise RolledBack(
                f"{self._what} rolled back the transaction, because one of its statements had failed: run what may "
                "fail in a savepoint, session.begin_nested()"
            )

    async def _is_in(self, xid: str, life: str) -> bool:
        """Tell whether a transaction was committed, on a new connection; end it, if it still runs.

        Raises:
            OutcomeUnknown: nobody can tell.
        """
        clock = asyncio.get_running_loop().time
        deadline, backoff = clock() + self._timeout, Backoff(_FIRST_LOOK, _LONGEST_PAUSE)
        while clock() < deadline:
            try:
                known = await self._ask(xid, life)
            except OutcomeUnknown:
                raise
            except Exception as error:  # whatever it is, there may be time to ask again
                if sqlstate(error) == IN_THE_FUTURE:  # a crash undid it, and its id was not given out again
                    return False
                self.drop()
                known = None
            if known is not None:
                return known
            await asyncio.sleep(backoff.pause())
        raise OutcomeUnknown(UNKNOWN.format(what=self._what))

    async def _ask(self, xid: str, life: str) -> bool | None:
        driver = (self._alive() or await self._open()).driver
        async with driver.transaction() if self._target.pooled else nullcontext():
            return await is_committed(driver, xid, life, seconds=self._timeout, what=self._what)


def _tidy(connection: Connection) -> None:
    """End the transaction that SQLAlchemy began in its own books, as it does by itself. Nothing is sent."""
    if connection.in_transaction():
        connection.rollback()
