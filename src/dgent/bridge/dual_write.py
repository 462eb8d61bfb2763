"""What dual writes share: one transaction over both tracks, and reads of rows and datums inside of it or outside.

Within a transaction rows are written before datums, and a row that will change is locked when it is read. So two
writers always wait for each other in the same order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from dgent.compare_and_swap import after_conflict
from dgent.exceptions import Conflict, IntegrityViolation, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection, Select

    from dgent.bridge.unit_of_work import UnitOfWork
    from dgent.datum import Datum
    from dgent.models import Base
    from dgent.sql import Database
    from dgent.store import DgentProtocol

T = TypeVar("T")
M = TypeVar("M", bound="Base")

ATTEMPTS: Final = 5


class Taken(Conflict):
    """What is there already stands against this; running again would change nothing."""


class BothTracks(Protocol):
    """What a dual write needs; `StorageProvider` is it."""

    @property
    def database(self) -> Database:
        """What runs SQL."""
        ...

    @property
    def memory(self) -> DgentProtocol:
        """Agent memory, outside of a transaction."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Return a transaction over both, which is part of the one that is open around the caller."""
        ...


async def in_both(storage: BothTracks, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
    """Run work in one transaction over both tracks; again, up to five times, when another writer was first.

    Inside of a transaction that the caller opened it is part of that one, and runs once.

    Raises:
        Conflict: others were first each time, or what is there already stands against it.
    """
    attempts = ATTEMPTS if storage.database.current() is None else 1
    backoff = after_conflict()
    for attempt in range(1, attempts + 1):
        try:
            return await _once(storage, work)
        except Conflict as error:
            if attempt == attempts or type(error) not in {Conflict, IntegrityViolation}:
                raise
        await asyncio.sleep(backoff.pause())
    raise AssertionError("unreachable")


async def _once(storage: BothTracks, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
    async with storage.transaction() as tx:
        try:
            result = await work(tx)
            await tx.session.flush()
        except StaleDataError:
            raise Conflict("another writer changed the row meanwhile: load it again and retry") from None
        return result


async def select_rows(storage: BothTracks, statement: Select[M], *, short: bool = True) -> list[M]:
    """Return the rows of a query, detached: their columns can be read, their relationships not."""

    def work(connection: Connection) -> list[M]:
        with Session(connection, expire_on_commit=False) as session:
            return list(session.scalars(statement))

    return await storage.database.runner().read(work, short=short)


async def get_datum(storage: BothTracks, id: str) -> Datum | None:
    """Return a datum as the caller sees it, who may have written it in a transaction that is still open."""
    if storage.database.current() is None:
        return await storage.memory.get(id)
    async with storage.transaction() as tx:
        return await tx.memory.get(id)


async def get_datums(storage: BothTracks, ids: Sequence[str]) -> dict[str, Datum]:
    """Return the live ones of these datums, as the caller sees them, by id."""
    if not ids or storage.database.current() is None:
        return await storage.memory.get_many(ids) if ids else {}
    async with storage.transaction() as tx:
        return await tx.memory.get_many(ids)


async def locked(tx: UnitOfWork, model: type[M], id: str) -> M:
    """Return a row that no other writer changes until this transaction ends.

    Raises:
        NotFound: there is no such row.
    """
    row = await tx.session.get(model, id, with_for_update=True)  # SQLite has no such clause: the file is locked
    if row is None:
        raise missing(model, id)
    return row


async def hold(tx: UnitOfWork) -> None:
    """Let nobody else write agent memory until the commit, so that what is read from now on stays as it is.

    Call it when the rows are written or locked, and before the read that decides. A put of nothing locks what every put
    locks. A memory elsewhere cannot be held: its writes wait for the commit.
    """
    await tx.memory.put_many([])


async def refuse_live(tx: UnitOfWork, ids: Iterable[str]) -> None:
    """Refuse ids of the caller's choice that agent memory uses for something else.

    Raises:
        Conflict: one of them has a live datum.
    """
    chosen = sorted(set(ids))
    if not chosen:
        return
    await hold(tx)
    if live := await tx.memory.get_many(chosen):
        raise Taken(f"the id {min(live)!r} belongs to a datum that something else put there: choose another")


def missing(model: type[Base], id: str) -> NotFound:
    """Return the error for a row that is not there."""
    return NotFound(f"{model.__tablename__} has no row {id!r}: list what is there, or make it first")


def facts(**named: Any) -> dict[str, Any]:
    """Return metadata of those that are not None."""
    return {name: value for name, value in named.items() if value is not None}
