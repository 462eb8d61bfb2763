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
from typing import TYPE_CHECKING, NamedTuple

from dgent.datum import Datum, stamped
from dgent.erasure import Erased
from dgent.memory.change import Change
from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion
from dgent.memory.write_batch import Held, NamespaceHead, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.erasure import Erasure
    from dgent.limits import Limits
    from dgent.name_listing import NamespaceListing
    from dgent.page import KeyPage

Clock = Callable[[], float]
"""Unix seconds in UTC; `time.time` everywhere but in tests."""


class Doomed(NamedTuple):
    """What is to be forgotten for good.

    Attributes:
        versions: by namespace.
        names: the namespaces of which nothing is to be left.
    """

    versions: dict[str, list[StoredVersion]]
    names: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names) or any(self.versions.values())

    @property
    def erased(self) -> Erased:
        """What goes."""
        found = [versions for versions in self.versions.values() if versions]
        ids = sum(len({stored.id for stored in versions}) for versions in found)
        return Erased(sum(map(len, found)), ids, len(found))


class StoreState:
    """The states of all namespaces.

    Attributes:
        mark: the highest seq of the namespaces whose names were erased; those that begin go on behind it.
        lock: hold it around every read and every change, on whatever thread, and over no await.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self.clock = limits, clock
        self.lock = Lock()
        self.namespace_states: dict[str, NamespaceState] = {}
        self.mark = 0

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

        head = NamespaceHead(namespace_state.seq or self.mark, namespace_state.stored_at, now)
        return WriteBatch(
            namespace, self.limits, head, Held(namespace_state.latest, namespace_state.is_parent, above, _stored)
        )

    def take(self, batches: Iterable[WriteBatch[StoredVersion]]) -> list[Change]:
        """Show what some batches append, and return what changed."""
        return [self._show(batch.namespace, stored) for batch in batches for stored in batch.rows]

    def doomed(self, home: str, erasure: Erasure) -> Doomed:
        """Return what an erasure takes that was asked for in a namespace."""
        reached = {name: state for name, state in self.namespace_states.items() if erasure.reaches(home, name)}
        versions = {name: [one for one in state if erasure.takes(one.id)] for name, state in reached.items()}
        return Doomed(versions, frozenset(reached) if erasure.prefix is None else frozenset())

    def forget(self, doomed: Doomed) -> None:
        """Forget versions and names for good."""
        self.mark = self.mark_after(doomed)
        for name in doomed.names:
            del self.namespace_states[name]
        for name, versions in doomed.versions.items():
            if versions and name not in doomed.names:
                self.namespace_states[name].erase(versions)

    def mark_after(self, doomed: Doomed) -> int:
        """Return what `mark` will be when they are forgotten."""
        return max(self.mark, *(self.namespace_states[name].seq for name in doomed.names), 0)

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
