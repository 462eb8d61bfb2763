"""A store of datums in memory: what is held of every namespace, and how batches of writes are put into it."""

# `lock`, a thread lock, is held around every read and every change, on whatever thread: to sweep what expired, to plan
# a batch and to show it. It is held between two awaits, so no cancel comes in and no loop waits for another for long.
#
# planned        by `batch`, from what is shown; in memory under the same hold of the lock as `take`, so nobody is in
#                between
# not safe yet   of a JSONL file alone, whose one thread plans and shows: the lock is free, and reads see what was
#                before
# shown          by `take`, as a whole

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from threading import Lock
from typing import TYPE_CHECKING

from dgent.datum import Datum, stamped
from dgent.memory.change import Change
from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion
from dgent.memory.write_batch import Held, NamespaceHead, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.limits import Limits
    from dgent.name_listing import NamespaceListing
    from dgent.page import KeyPage

Clock = Callable[[], float]
"""Unix seconds in UTC; `time.time` everywhere but in tests."""


class StoreState:
    """The states of all namespaces.

    Attributes:
        lock: hold it around every read and every change, on whatever thread, and over no await.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self.clock = limits, clock
        self.lock = Lock()
        self.namespace_states: dict[str, NamespaceState] = {}

    def namespace_state(self, namespace: str) -> NamespaceState:
        """Return the state of a namespace, without what has expired by now; an empty one where nothing was ever put."""
        return self._swept(namespace, self.clock())

    def batch(self, namespace: str) -> WriteBatch[StoredVersion]:
        """Return a batch of writes to a namespace, which `take` puts into it; under the lock, one at a time."""
        now = self.clock()
        namespace_state = self._swept(namespace, now)

        def above(id: str) -> dict[str, str | None]:
            datum = namespace_state.get(id)
            return {} if datum is None else {id: datum.causal_parent}

        head = NamespaceHead(namespace_state.seq, namespace_state.stored_at, now)
        return WriteBatch(
            namespace, self.limits, head, Held(namespace_state.latest, namespace_state.is_parent, above, _stored)
        )

    def take(self, batches: Iterable[WriteBatch[StoredVersion]]) -> list[Change]:
        """Show what some batches append, and return what changed."""
        return [self._show(batch.namespace, stored) for batch in batches for stored in batch.rows]

    def append(self, namespace: str, stored: StoredVersion) -> None:
        """Take the next version of an id."""
        if namespace not in self.namespace_states:
            self.namespace_states[namespace] = NamespaceState(self.limits)
        self.namespace_states[namespace].append(stored)

    def _swept(self, namespace: str, now: float) -> NamespaceState:
        namespace_state = self.namespace_states.get(namespace)
        if namespace_state is None:
            return NamespaceState(self.limits)
        namespace_state.sweep(now)
        return namespace_state

    def _show(self, namespace: str, stored: StoredVersion) -> Change:
        self.append(namespace, stored)
        return Change("put" if stored.live else "delete", namespace, stored.id, stored.version, stored.seq)

    def namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of the namespaces that hold something, sorted."""
        after = listing.after(cursor) or ""
        held = (name for name, namespace_state in self.namespace_states.items() if namespace_state)
        found = (name for name in held if name > after and listing.has(name))
        return listing.page(nsmallest(limit + 1, found), limit)


def _stored(
    id: str, version: int, seq: int, stored_at: float, expires_at: float | None, datum: Datum | None
) -> StoredVersion:
    return StoredVersion(
        id, version, seq, stored_at, expires_at, None if datum is None else stamped(datum, version, seq)
    )
