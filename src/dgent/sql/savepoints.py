"""Units of work that share a transaction, each in a savepoint: what one of them is refused undoes that one alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import text

from dgent.exceptions import Corrupt, StorageError
from dgent.sql.errors import RETRYABLE, sqlstate, translate
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

T = TypeVar("T")

_SAVEPOINT, _ROLLBACK, _RELEASE = (
    Statement(text(command)) for command in ("SAVEPOINT unit_apart", "ROLLBACK TO unit_apart", "RELEASE unit_apart")
)


def apart(connection: Connection, units: Sequence[Callable[[Connection], T]]) -> list[T | Exception]:
    """Run units of work and answer each with its result or its own error. One alone has the transaction for itself."""
    if len(units) == 1:
        return [units[0](connection)]
    return [in_savepoint(connection, unit) for unit in units]


def in_savepoint(connection: Connection, unit: Callable[[Connection], T]) -> T | Exception:
    """Run a unit of work and return its result, or the error that undid it alone.

    What ends the whole transaction is raised: a lost connection, a full disk, a deadlock.
    """
    _SAVEPOINT.run(connection)
    try:
        result: T | Exception = unit(connection)
    except Exception as error:
        ours = translate(error, "the database") or error
        ends_all = isinstance(ours, StorageError) and not isinstance(ours, Corrupt)
        if ends_all or sqlstate(error) in RETRYABLE:
            raise
        _ROLLBACK.run(connection)
        result = ours
    _RELEASE.run(connection)
    return result
