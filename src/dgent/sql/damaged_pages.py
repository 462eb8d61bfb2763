"""Pages of which some rows are damaged: the others are given, the damaged ones named, and none of either comes twice.

Pages are read quickly as long as every row is whole. What is here runs once one is not, for that page alone.

A page goes on behind a row that is whole, never behind a damaged one, because where that stands is part of what is
damaged: a time that became huge or tiny would lead past rows that nobody has seen, or back to those that were. So what
is damaged behind the last whole row of a page is left to the next page, which begins with it.
"""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from dgent.exceptions import Corrupt
from dgent.page import Damaged
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection

T = TypeVar("T")
P = TypeVar("P")

MOST: Final = 1000
"""How many damaged rows may stand next to each other. Where there are more, the table is lost, not a row."""
_BATCH: Final = 500


class Source(NamedTuple, Generic[T, P]):
    """Rows in their order.

    Attributes:
        read: returns the rows behind a position, as many as are asked for; None is the start.
        sort: returns what each row is, whole or damaged.
        place: returns the position of a whole one.
    """

    read: Callable[[P | None, int], list[Any]]
    sort: Callable[[list[Any]], Iterable[T | Damaged]]
    place: Callable[[T], P]


class Part(NamedTuple, Generic[T]):
    """A page: what is whole and wanted, what is damaged, and the last whole one that was seen, if there is more."""

    found: list[T]
    damaged: tuple[Damaged, ...]
    last: T | None


def page_of(
    connection: Connection, source: Source[T, P], start: P | None, limit: int, wanted: Callable[[T], bool], what: str
) -> Part[T]:
    """Return a page as `part_of` does, and warn of what is damaged on it."""
    part = part_of(connection, source, start, limit, wanted, what)
    tell(part.damaged, what)
    return part


def part_of(
    connection: Connection, source: Source[T, P], start: P | None, limit: int, wanted: Callable[[T], bool], what: str
) -> Part[T]:
    """Return a page behind a position. Damaged rows count as those that are wanted.

    There is at least one whole row before a page ends, or it is the last.

    Raises:
        Corrupt: more than `MOST` rows next to each other are damaged; `what` names what they are of.
    """
    found: list[T] = []
    damaged: list[Damaged] = []
    behind: list[Damaged] = []  # the last whole one: of this page if another one comes, else of the next
    last: T | None = None
    with lenient_text(connection):
        for each in _stream(source, start, limit + 1, what):
            kept = isinstance(each, Damaged) or wanted(each)
            if last is not None and len(found) + len(damaged) >= limit:
                if kept:
                    return Part(found, tuple(damaged), last)
            elif isinstance(each, Damaged):
                behind.append(each)
            else:
                damaged += behind
                behind, last = [], each
                found += [each] if kept else []
    return Part(found, (*damaged, *behind), None)


def _stream(source: Source[T, P], at: P | None, batch: int, what: str) -> Iterator[T | Damaged]:
    while True:
        each = [*source.sort(source.read(at, batch))]
        whole = [place for place, one in enumerate(each) if not isinstance(one, Damaged)]
        if len(each) < batch:
            yield from each
            return
        if not whole and batch > MOST:
            raise Corrupt(f"more than {MOST:,} rows next to each other in {what} are damaged: restore a backup")
        if whole:
            yield from each[: whole[-1] + 1]
            at = source.place(each[whole[-1]])  # type: ignore[arg-type]  # it is a whole one
            batch = max(batch, _BATCH)
        else:
            batch = max(2 * batch, _BATCH)


def tell(damaged: tuple[Damaged, ...], what: str) -> None:
    """Warn, if anything is damaged."""
    if damaged:
        first = damaged[0]
        warnings.warn(
            f"a page of {what} leaves out {len(damaged):,} that are not what was written, the first version "
            f"{first.version} of {first.id!r:.200}: page.damaged names them; restore or purge them",
            DamagedWarning,
            stacklevel=2,
        )


def is_undecodable(error: Exception) -> bool:
    """Tell whether SQLite's driver refused an answer because one of its texts is no UTF-8."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def as_text(value: object) -> str:
    """Return what stands for an id, whatever it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def as_bytes(value: object) -> bytes:
    """Return what stands for a content, whatever it is."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode("utf-8", "surrogatepass")


@contextmanager
def lenient_text(connection: Connection) -> Iterator[None]:
    """Let SQLite's driver give text that is no UTF-8 as bytes, for a block that nobody shares the connection with."""
    driver: Any = connection.connection.dbapi_connection
    driver = getattr(driver, "driver_connection", driver)  # of SQLAlchemy's adapter over aiosqlite
    if not hasattr(driver, "text_factory"):
        yield
        return
    before, driver.text_factory = driver.text_factory, _text_or_bytes
    try:
        yield
    finally:
        driver.text_factory = before


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
