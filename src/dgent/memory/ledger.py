"""A store of datums in memory: what is held of every namespace, and how batches of writes are put into it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from dgent.datum import Datum, Limits, stamped
from dgent.memory.change import Change
from dgent.memory.shelf import Shelf, Stored
from dgent.memory.write_batch import Held, NamespaceHead, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

Clock = Callable[[], float]
"""Unix seconds in UTC; `time.time` everywhere but in tests."""


class Ledger:
    """The shelves of all namespaces.

    Attributes:
        lock: hold it around every read and every change.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self.clock = limits, clock
        self.lock = Lock()
        self.shelves: dict[str, Shelf] = {}

    def shelf(self, namespace: str) -> Shelf:
        """Return the shelf of a namespace, without what has expired by now; an empty one where nothing was ever put."""
        return self._swept(namespace, self.clock())

    def batch(self, namespace: str) -> WriteBatch[Stored]:
        """Return a batch of writes to a namespace, which `take` puts into it; under the lock, one at a time."""
        now = self.clock()
        shelf = self._swept(namespace, now)

        def above(id: str) -> dict[str, str | None]:
            datum = shelf.get(id)
            return {} if datum is None else {id: datum.causal_parent}

        head = NamespaceHead(shelf.seq, shelf.stored_at, now)
        return WriteBatch(namespace, self.limits, head, Held(shelf.latest, shelf.is_parent, above, _stored))

    def take(self, batches: Iterable[WriteBatch[Stored]]) -> list[Change]:
        """Show what some batches append, and return what changed."""
        return [self._show(batch.namespace, stored) for batch in batches for stored in batch.rows]

    def append(self, namespace: str, stored: Stored) -> None:
        """Take the next version of an id."""
        if namespace not in self.shelves:
            self.shelves[namespace] = Shelf(self.limits)
        self.shelves[namespace].append(stored)

    def _swept(self, namespace: str, now: float) -> Shelf:
        shelf = self.shelves.get(namespace)
        if shelf is None:
            return Shelf(self.limits)
        shelf.sweep(now)
        return shelf

    def _show(self, namespace: str, stored: Stored) -> Change:
        self.append(namespace, stored)
        return Change("put" if stored.live else "delete", namespace, stored.id, stored.version, stored.seq)

    def namespaces(self, prefix: str | None, limit: int) -> list[str]:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""
        held = (name for name, shelf in self.shelves.items() if shelf)
        below = (name for name in held if prefix is None or name == prefix or name.startswith(f"{prefix}/"))
        return sorted(below)[:limit]


def _stored(id: str, version: int, seq: int, stored_at: float, expires_at: float | None, datum: Datum | None) -> Stored:
    return Stored(id, version, seq, stored_at, expires_at, None if datum is None else stamped(datum, version, seq))
