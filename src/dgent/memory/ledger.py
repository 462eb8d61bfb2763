"""A store of datums in memory, and the drafts in which its writes are decided before readers see them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from dgent.datum import Datum, Limits, stamped
from dgent.exceptions import CausalCycle, VersionConflict
from dgent.memory.change import Change
from dgent.memory.shelf import Shelf, Stored

if TYPE_CHECKING:
    from dgent.protocol import TTL

T = TypeVar("T")
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
        shelf = self.shelves.get(namespace)
        if shelf is None:
            return Shelf(self.limits)
        shelf.sweep(self.clock())
        return shelf

    def append(self, namespace: str, stored: Stored) -> None:
        """Take the next version of an id."""
        if namespace not in self.shelves:
            self.shelves[namespace] = Shelf(self.limits)
        self.shelves[namespace].append(stored)

    def namespaces(self, prefix: str | None, limit: int) -> list[str]:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""
        held = (name for name, shelf in self.shelves.items() if shelf)
        below = (name for name in held if prefix is None or name == prefix or name.startswith(f"{prefix}/"))
        return sorted(below)[:limit]


class Draft:
    """Decides what writes append, each seeing those before it, while the ledger stays as it is until `apply`.

    Make and use it under the lock of the ledger. One thread writes: two drafts of one ledger must not overlap.

    Attributes:
        pending: what is to be appended, with its namespace, in order.
        weight: the bytes of its contents.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.pending: list[tuple[str, Stored]] = []
        self._ledger = ledger
        self._index()

    def unit(self, decide: Callable[[Draft], T]) -> T:
        """Run some writes of which all are kept, or none when one raises."""
        mark = len(self.pending)
        try:
            return decide(self)
        except BaseException:
            if len(self.pending) > mark:
                del self.pending[mark:]
                self._index()
            raise

    def apply(self) -> list[Change]:
        """Put what was decided on the shelves and return what changed."""
        for namespace, stored in self.pending:
            self._ledger.append(namespace, stored)
        return [
            Change("delete" if stored.datum is None else "put", namespace, stored.id, stored.version, stored.seq)
            for namespace, stored in self.pending
        ]

    def put(self, namespace: str, datum: Datum, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Decide a put: see `DgentProtocol.put`."""
        self._ledger.limits.admit(datum)
        now = self._ledger.clock()
        live = self._live(namespace, datum.id, now)
        _expected(datum.id, expect, live)
        if ttl == "keep":
            expires_at = None if live is None else live.expires_at
        else:
            expires_at = None if ttl is None else now + ttl
        if live is not None and live.datum == datum and ttl in {None, "keep"} and live.expires_at == expires_at:
            return live.datum
        if live is None or live.datum is None or live.datum.causal_parent != datum.causal_parent:
            self._refuse_cycle(namespace, datum, now)
        version, seq = self._next(namespace, datum.id)
        kept = stamped(datum, version, seq)
        self._take(namespace, Stored(datum.id, version, seq, self._stored_at(namespace, now), expires_at, kept))
        return kept

    def delete(self, namespace: str, id: str, expect: int | None = None) -> bool:
        """Decide a delete: see `DgentProtocol.delete`."""
        now = self._ledger.clock()
        live = self._live(namespace, id, now)
        _expected(id, expect, live)
        if live is not None:
            self._take(namespace, Stored(id, *self._next(namespace, id), self._stored_at(namespace, now), None, None))
        return live is not None

    def _next(self, namespace: str, id: str) -> tuple[int, int]:
        latest, head = self._latest(namespace, id), self._heads.get(namespace)
        last = head[0] if head else self._ledger.shelf(namespace).seq
        return (latest.version if latest else 0) + 1, last + 1

    def _take(self, namespace: str, stored: Stored) -> None:
        self.pending.append((namespace, stored))
        self.weight += len(stored.datum.content) if stored.datum is not None else 0
        self._newest[namespace, stored.id] = stored
        self._heads[namespace] = stored.seq, stored.stored_at
        if stored.datum is not None and stored.datum.causal_parent is not None:
            self._parents.add((namespace, stored.datum.causal_parent))

    def _index(self) -> None:
        self._newest: dict[tuple[str, str], Stored] = {}
        self._heads: dict[str, tuple[int, float]] = {}
        self._parents: set[tuple[str, str]] = set()
        self.weight = 0
        kept, self.pending = self.pending, []
        for namespace, stored in kept:
            self._take(namespace, stored)

    def _latest(self, namespace: str, id: str) -> Stored | None:
        return self._newest.get((namespace, id)) or self._ledger.shelf(namespace).latest(id)

    def _live(self, namespace: str, id: str, now: float) -> Stored | None:
        latest = self._latest(namespace, id)
        return latest if latest is not None and latest.live_at(now) else None

    def _stored_at(self, namespace: str, now: float) -> float:
        """Return what history says of a write at this time: it never goes back, whatever the clock does."""
        head = self._heads.get(namespace)
        return max(now, head[1] if head else self._ledger.shelf(namespace).stored_at)

    def _refuse_cycle(self, namespace: str, datum: Datum, now: float) -> None:
        at = datum.causal_parent
        if at is None:
            return
        # Whoever closes a cycle is a parent already: a datum that nobody descends from needs no walk.
        known = (namespace, datum.id) in self._parents or self._ledger.shelf(namespace).is_parent(datum.id)
        passed: set[str] = set()  # nobody walks twice in a cycle that a clock brought to life by going back
        while at is not None and at not in passed:
            if at == datum.id:
                raise CausalCycle(
                    f"{datum.causal_parent!r} descends from {datum.id!r}, so it cannot be its parent: choose another"
                )
            passed.add(at)
            found = self._live(namespace, at, now) if known else None
            at = found.datum.causal_parent if found is not None and found.datum is not None else None


def _expected(id: str, expect: int | None, live: Stored | None) -> None:
    actual = live.version if live is not None else 0
    if expect is not None and expect != actual:
        raise VersionConflict(id, expect, actual)
