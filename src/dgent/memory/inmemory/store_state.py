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

from dgent.erasure_request import Erased
from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion, stored_version
from dgent.memory.write_batch import Held, NamespaceHead, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.erasure_request import Erasure
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

        here = namespace_state
        head = NamespaceHead(here.seq or self.mark, here.stored_at, now)
        held = Held(here.latest, lambda each: len(here.versions_of(each)), here.is_parent, above, stored_version)
        return WriteBatch(namespace, self.limits, head, held)

    def take(self, batches: Iterable[WriteBatch[StoredVersion]]) -> None:
        """Show what some batches erase, touch and append."""
        for batch in batches:
            if batch:
                self._show(batch)

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
        self._made(namespace).append(stored)

    def touch(self, namespace: str, id: str, version: int, expires_at: float | None) -> None:
        """Give a version another moment of expiry."""
        self._made(namespace).touch(id, version, expires_at)

    def _made(self, namespace: str) -> NamespaceState:
        if namespace not in self.namespace_states:
            self.namespace_states[namespace] = NamespaceState(self.limits)
        return self.namespace_states[namespace]

    def _swept(self, namespace: str, now: float) -> NamespaceState:
        namespace_state = self.namespace_states.get(namespace)
        if namespace_state is None:
            return NamespaceState(self.limits)
        namespace_state.sweep(now)
        return namespace_state

    def _show(self, batch: WriteBatch[StoredVersion]) -> None:
        here = self._made(batch.namespace)
        for id in batch.purged:
            here.erase(here.versions_of(id))
        for touched in batch.touched.values():
            here.touch(touched.id, touched.version, touched.expires_at)
        for stored in batch.rows:
            here.append(stored)
        if batch.moves:
            here.move(batch.seq, batch.stored_at)

    def namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of the namespaces that hold something, sorted."""
        after = listing.after(cursor) or ""
        held = (name for name, namespace_state in self.namespace_states.items() if namespace_state)
        found = (name for name in held if name > after and listing.has(name))
        return listing.page(nsmallest(limit + 1, found), limit)
