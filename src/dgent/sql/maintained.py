"""What every store with data of its own can be asked for, so that who looks after all of them names no table.

Status, a check, a copy and an erasure go through a list of these: a store that is new only has to be on it.

The last record of an export says how many came before it and what their digest is, so one that was cut off, or from
which something was taken, is noticed. An import is one transaction: all of it is there, or nothing is.
"""

# an import   who holds what                                    what a cancel of its task does
# reading     its transaction, and so the right to write on     all of it is undone
#             SQLite, and what it has written to elsewhere; it
#             waits for the next record, up to
#             `transaction_timeout`
# storing     the same                                          the same, when the unit of work has ended
# committing  see `database`                                    it is held back until the COMMIT has ended
#
# An export holds nothing between two pages. An import that is joined to a transaction is a block within that: only the
# task that has it open may begin one, and what its source does there is of the import, undone with it.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import orjson
from blake3 import blake3

from dgent.error_messages import called
from dgent.exceptions import DgentError, InvalidFile, StorageTimeout
from dgent.sql.empty_tables import EmptyTables
from dgent.sql.sql_store import SqlStore
from dgent.sql.transaction import Transaction
from dgent.validation import check_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from dgent.sql.runner import Runner

T = TypeVar("T")

BATCH: Final = 500
BATCH_BYTES: Final = 8 * 2**20
_WEEK: Final = 7 * 24 * 3600.0
"""Seconds up to which an import may take. What stands still ends sooner: each record has to come in time."""

Record: TypeAlias = dict[str, Any]
"""A JSON object: something that a store holds, in a form that brings it back as it was."""


class Damage(NamedTuple):
    """Something stored that is not what was written. What it says of itself cannot be trusted.

    Attributes:
        table: where it is.
        owner: whose it is, as it is stored: a namespace, or a writer in a stream; empty where there is none.
        id: as it is stored.
        version: as it is stored.
        reason: what is wrong with it.
    """

    table: str
    owner: str
    id: str
    version: int
    reason: str


class Maintained(Protocol):
    """A store that can be looked after."""

    @property
    def name(self) -> str:
        """What it holds, in one word, for people."""

    @property
    def tables(self) -> Sequence[str]:
        """The names of its tables."""

    async def stats(self) -> dict[str, int]:
        """Return how much there is of what; quickly, whatever the size, and nothing is made."""

    def check(self) -> AsyncIterator[Damage]:
        """Read everything, and name what is not what was written. It takes no lock, and reads a page at a time."""


class Portable(Maintained, Protocol):
    """A maintained store whose data has owners, and can be taken out, brought in and erased."""

    def export(self, owner: str | None = None) -> AsyncIterator[Record]:
        """Give everything, or what one owner has, as it was when it was begun; the last record says that it is all.

        It reads a page at a time and holds up nobody.

        Raises:
            Corrupt: something is damaged: `check` names it.
            Conflict: something was erased meanwhile that belongs to it: export again.
        """

    async def import_(self, records: AsyncIterable[Record]) -> int:
        """Store what `export` gave, each part as it was, and return how many records were new.

        It is one transaction, however long it takes: nobody sees a part of it, and a kill leaves nothing. Who writes to
        the same owner waits for its end, on SQLite everybody who writes to the file does. Joined to a transaction it is
        a block within that, and its records may be read there.

        Raises:
            InvalidFile: a record is not what was exported, or one is missing, moved, or comes twice.
            Conflict: something else is there already, or came while the records were given.
            TransactionOpen: another task has the transaction open.
            StorageTimeout: the next record did not come within `transaction_timeout`.
        """

    async def erase(self, owner: str) -> int:
        """Erase all that an owner has for good, and return how much it was."""


class Seal:
    """How many records an export has so far, and their digest: BLAKE3 over each as JSON with sorted keys, by lines."""

    def __init__(self, store: str) -> None:
        self.records = 0
        self._store = store
        self._digest = blake3()

    def add(self, record: Record) -> int:
        """Count a record, and return its size."""
        line = orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
        self._digest.update(line)
        self.records += 1
        return len(line)

    @property
    def end(self) -> Record:
        """What the last record of the export says."""
        return {"store": self._store, "kind": "end", "records": self.records, "digest": self._digest.hexdigest()}

    def is_end(self, record: Record) -> bool:
        """Tell whether a record is the last one of an export.

        Raises:
            InvalidFile: it is, but of another.
        """
        if record.get("kind") != "end":
            return False
        if record.get("records") != self.records:
            raise InvalidFile(f"it ends an export of {record.get('records')!r:.40} records, and {self.records:,} came")
        if record != self.end:
            raise InvalidFile("it ends an export whose digest is another: a record was changed, exchanged or moved")
        return True


def check_fields(record: Record, *names: str) -> None:
    """Refuse a record that says anything else, with InvalidFile."""
    if record.keys() != {"store", "kind", *names}:
        raise InvalidFile(f"it has other fields than these: store, kind, {', '.join(names)}")


async def sealed(store: str, records: AsyncIterable[Record]) -> AsyncIterator[Record]:
    """Give the records of an export, and the one that ends it."""
    seal = Seal(store)
    async for record in records:
        seal.add(record)
        yield record
    yield seal.end


async def batches(
    store: str, records: AsyncIterable[Record], parse: Callable[[Record], T], patience: float
) -> AsyncIterator[list[T]]:
    """Give what the records of an export say, as many at a time as fit well into one statement.

    Raises:
        InvalidFile: a record is none, or the end is missing or is that of another export.
        StorageTimeout: the next record did not come for so many seconds.
    """
    seal, ended = Seal(store), False
    batch: list[T] = []
    size = 0
    async for record in _in_time(records, patience):
        with _reading(seal.records + 1):
            _check_open(record, ended=ended)
            ended = seal.is_end(record)
            if not ended:
                size += seal.add(record)
                batch.append(parse(record))
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if not ended:
        raise InvalidFile(f"the export was cut off: {seal.records:,} records came, and none says that they are all")
    if batch:
        yield batch


def _check_open(record: object, *, ended: bool) -> None:
    if not isinstance(record, dict):
        raise InvalidFile(f"it is {called(record)}, and no JSON object")
    if ended:
        raise InvalidFile("it comes behind the end")


@contextmanager
def _reading(number: int) -> Iterator[None]:
    """Say of which record it is that something in it is not what it should be."""
    try:
        yield
    except DgentError as error:
        if not isinstance(error, ValueError):  # InvalidInput is one
            raise
        raise InvalidFile(f"record {number:,} is not what was exported: {error}") from None
    except KeyError as error:
        raise InvalidFile(f"record {number:,} is not what was exported: it lacks {error}") from None
    except (ArithmeticError, TypeError, ValueError) as error:
        raise InvalidFile(f"record {number:,} is not what was exported: {type(error).__name__}, {error}") from None


async def _in_time(records: AsyncIterable[Record], patience: float) -> AsyncIterator[Record]:
    check_kind(records, AsyncIterable, "pass what `export` gives, or an asynchronous generator of its records")
    source = aiter(records)
    while True:
        try:
            async with asyncio.timeout(patience) as bound:
                record = await anext(source)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not bound.expired():
                raise
            raise StorageTimeout(f"the next record did not come for {patience:g} s: nothing was imported") from None
        yield record


class Keeper(SqlStore):
    """Looks after the tables of a store. It makes them only to bring something in; else, absent ones are empty."""

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return self.table_set.names

    async def runner(self) -> Runner:
        """Return what runs SQL: on empty tables, as long as there are none."""
        return EmptyTables(self.table_set, "there is nothing yet") if await self._is_empty() else await super().runner()

    async def _is_empty(self) -> bool:
        return self._ready.store_id is None and (not self.database.is_made or await self._is_absent())

    @asynccontextmanager
    async def _in_one_transaction(self) -> AsyncIterator[Self]:
        """Do it all in one transaction of its own, however long, or in a block of the one that this is joined to."""
        if isinstance(self._runner, Transaction):
            async with self._runner.nested() as transaction:
                yield self.joined(transaction)
        else:
            await self.prepare()
            async with self.database.transaction(seconds=_WEEK) as transaction:
                yield self.joined(transaction)
