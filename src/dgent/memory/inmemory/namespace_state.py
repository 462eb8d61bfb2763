"""The versions of the datums of one namespace, held in memory: append-only, indexed, every read a plain method."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

import orjson
from blake3 import blake3

from dgent.cursor import Position, open_cursor, seal_cursor
from dgent.datum import stamped
from dgent.exceptions import LimitExceeded
from dgent.page import Page
from dgent.query import Query, prefix_end
from dgent.store import Revision, StoreStats, revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dgent.datum import Datum
    from dgent.limits import Limits

Key = TypeVar("Key", str, tuple[float, str], tuple[int, str])
_FEW: Final = 32
_NARROW: Final = 8


class StoredVersion(NamedTuple):
    """One version of an id: a datum that carries its numbers and times, or None where it was deleted.

    `note` is the metadata of a tombstone: who deleted it and why, in canonical JSON.
    """

    id: str
    version: int
    seq: int
    stored_at: float
    expires_at: float | None
    datum: Datum | None
    note: str = "{}"

    @property
    def live(self) -> bool:
        """Whether it is a datum; it may have expired."""
        return self.datum is not None

    @property
    def parent(self) -> str | None:
        """The causal parent of the datum."""
        return None if self.datum is None else self.datum.causal_parent

    def holds(self, datum: Datum) -> bool:
        """Tell whether it is this datum."""
        return self.datum == datum

    def check(self) -> None:
        """Do nothing: in memory it is as it was written."""

    def until(self, expires_at: float | None) -> StoredVersion:
        """Return it with another moment of expiry."""
        return stored_version(*self[:4], expires_at, self.datum, self.note)

    def live_at(self, time: float) -> bool:
        """Tell whether it is neither a tombstone nor expired at a time."""
        return self.datum is not None and (self.expires_at is None or self.expires_at > time)


def stored_version(
    id: str, version: int, seq: int, stored_at: float, expires_at: float | None, datum: Datum | None, note: str
) -> StoredVersion:
    """Return a version whose datum carries its numbers and times."""
    kept = None if datum is None else stamped(datum, version, seq, stored_at, expires_at)
    return StoredVersion(id, version, seq, stored_at, expires_at, kept, note)


class SortedKeys(Generic[Key]):
    """A sorted list that takes changes at once and sorts when it is read."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._changes: dict[Key, bool] = {}

    def add(self, key: Key) -> None:
        """Add a key that is not in."""
        if self._changes.get(key) is False:
            del self._changes[key]
        elif not self._keys or key > self._keys[-1]:  # the ordinary case: time only grows
            self._keys.append(key)
        else:
            self._changes[key] = True

    def remove(self, key: Key) -> None:
        """Remove a key that is in."""
        if self._changes.get(key):
            del self._changes[key]
        else:
            self._changes[key] = False

    @property
    def keys(self) -> list[Key]:
        """The keys in order; do not change the list."""
        if len(self._changes) > _FEW:
            gone = {key for key, added in self._changes.items() if not added}
            self._keys = [key for key in self._keys if key not in gone] if gone else self._keys
            self._keys += [key for key, added in self._changes.items() if added]
            self._keys.sort()
        else:
            for key, added in self._changes.items():
                at = bisect_left(self._keys, key)
                self._keys[at : at if added else at + 1] = [key] if added else []
        self._changes.clear()
        return self._keys


class NamespaceState:
    """One namespace. Not safe between threads: even reads take out what has expired, or put it back.

    Attributes:
        seq: the last one that was given out; it stays when its version is purged.
        stored_at: the time of the last write, Unix seconds; never moves back.
    """

    def __init__(self, limits: Limits, seq: int = 0, stored_at: float = 0.0) -> None:
        self.seq, self.stored_at = seq, stored_at
        self._limits = limits
        self._versions: dict[str, list[StoredVersion]] = {}
        self._live: dict[str, StoredVersion] = {}
        self._ids: SortedKeys[str] = SortedKeys()
        self._by_time: SortedKeys[tuple[float, str]] = SortedKeys()
        self._by_seq: SortedKeys[tuple[int, str]] = SortedKeys()
        self._children: Counter[str] = Counter()
        self._expiring: list[tuple[float, str, int]] = []
        self._expired: dict[str, StoredVersion] = {}
        self._swept_at = float("-inf")

    def append(self, stored: StoredVersion) -> None:
        """Take the next version of an id, which supersedes the one before."""
        versions = self._versions.get(stored.id)
        if versions is None:
            self._versions[stored.id] = [stored]
            self._ids.add(stored.id)
        else:
            versions.append(stored)
            self._retire(stored.id)
        self._show(stored)
        self.move(stored.seq, stored.stored_at)

    def move(self, seq: int, stored_at: float) -> None:
        """Stand at a seq and a time from now on, unless it stands further on."""
        self.seq = max(self.seq, seq)
        self.stored_at = max(self.stored_at, stored_at)

    def touch(self, id: str, version: int, expires_at: float | None) -> None:
        """Give a version another moment of expiry."""
        versions = self._versions[id]
        at = bisect_left(versions, version, key=lambda stored: stored.version)
        versions[at] = stored = versions[at].until(expires_at)
        if at == len(versions) - 1:
            self._retire(id)
            self._show(stored)

    def erase(self, doomed: Iterable[StoredVersion]) -> None:
        """Forget these versions for good."""
        ids: dict[str, set[int]] = {}
        for stored in doomed:
            ids.setdefault(stored.id, set()).add(stored.version)
        for id, gone in ids.items():
            kept = [stored for stored in self._versions[id] if stored.version not in gone]
            if self._versions[id][-1].version in gone:
                self._retire(id)
            if kept:
                self._versions[id] = kept
            else:
                del self._versions[id]
                self._ids.remove(id)

    def sweep(self, now: float) -> None:
        """Take off what has expired, and put back what has not by a clock that went back."""
        if now < self._swept_at:
            for stored in [each for each in self._expired.values() if each.live_at(now)]:
                del self._expired[stored.id]
                self._show(stored)
        self._swept_at = now
        while self._expiring and self._expiring[0][0] <= now:
            _, id, seq = heapq.heappop(self._expiring)
            held = self._live.get(id)  # its seq is compared, not its version: a purged id begins at 1 again
            if held is not None and held.seq == seq and not held.live_at(now):  # else it was touched meanwhile
                self._retire(id)
                self._expired[id] = held

    def latest(self, id: str) -> StoredVersion | None:
        """Return the last version of an id, live or not."""
        versions = self._versions.get(id)
        return versions[-1] if versions else None

    def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        return id in self._children

    def get(self, id: str, version: int | None = None) -> Datum | None:
        """Return the live datum, or the one that was put as `version`."""
        if version is None:
            found = self._live.get(id)
            return found and found.datum
        versions = self._versions.get(id, [])
        at = bisect_left(versions, version, key=lambda stored: stored.version)
        return versions[at].datum if at < len(versions) and versions[at].version == version else None

    def count(self, prefix: str | None = None) -> int:
        """Return how many datums are live."""
        if not prefix:
            return len(self._live)
        first, end = self._range(prefix)
        return sum(id in self._live for id in self._ids.keys[first:end])

    def query(self, query: Query) -> Page:
        """Return a page of the live datums that match."""
        start = query.start()
        if query.limit == 0:
            return Page()
        matching = (datum for datum in self._walk(query, start) if query.matches(datum))
        return query.page(list(islice(matching, query.limit + 1)))

    def causal_chain(self, id: str) -> list[Datum]:
        """Return the live datum and its live ancestors, oldest first."""
        chain: dict[str, Datum] = {}  # each once: a clock that went back may have brought a cycle to life
        at: str | None = id
        while at is not None and at not in chain and (datum := self.get(at)) is not None:
            chain[at] = datum
            if len(chain) > self._limits.max_chain:
                raise LimitExceeded(
                    f"the causal chain of {id!r} is longer than {self._limits.max_chain:,}: raise the setting max_chain"
                )
            at = datum.causal_parent
        return list(chain.values())[::-1]

    def history(self, id: str, limit: int, before: int | None) -> list[Revision]:
        """Return the last `limit` versions below `before`, oldest first."""
        versions = self._versions.get(id, [])
        end = len(versions) if before is None else bisect_left(versions, before, key=lambda stored: stored.version)
        chosen = versions[max(0, end - limit) : end]
        return [revision(one.version, one.seq, one.stored_at, one.datum, one.note) for one in chosen]

    def as_of(self, time: float, prefix: str | None, limit: int, cursor: str | None) -> Page:
        """Return a page of what was live at a time, in the order of the ids."""
        fingerprint = blake3(orjson.dumps(["as_of", time, prefix])).digest(16)
        last = "" if cursor is None else open_cursor(cursor, fingerprint)[1]
        if limit == 0:
            return Page()
        first, end = self._range(prefix)
        ids = self._ids.keys
        then = (self._at(ids[at], time) for at in range(max(first, bisect_right(ids, last)), end))
        found = list(islice((datum for datum in then if datum is not None), limit + 1))
        more = len(found) > limit
        return Page(found[:limit], seal_cursor((0, found[limit - 1].id), fingerprint) if more else None)

    def versions_of(self, id: str) -> list[StoredVersion]:
        """Return every version of an id, oldest first."""
        return list(self._versions.get(id, ()))

    def outdated(self, keep_versions: int | None, older_than: float | None) -> list[StoredVersion]:
        """Return what `compact` erases: ids whose last version has expired, whole, and old superseded versions."""
        horizon = float("-inf") if older_than is None else older_than
        doomed: list[StoredVersion] = []
        for versions in self._versions.values():
            last = versions[-1]
            if last.datum is not None and last.id not in self._live:
                doomed += versions
                continue
            beyond = 0 if keep_versions is None else len(versions) - keep_versions
            doomed += (old for at, old in enumerate(versions[:-1]) if at < beyond or old.stored_at < horizon)
        return doomed

    def stats(self) -> StoreStats:
        """Return how much is held."""
        return StoreStats(len(self._live), sum(map(len, self._versions.values())), self.seq)

    def __iter__(self) -> Iterator[StoredVersion]:
        """Go through every version, in the order of seq."""
        held = [stored for versions in self._versions.values() for stored in versions]
        return iter(sorted(held, key=lambda stored: stored.seq))

    def __bool__(self) -> bool:
        return bool(self._versions)

    def _show(self, stored: StoredVersion) -> None:
        datum = stored.datum
        if datum is None:
            return
        self._live[stored.id] = stored
        self._by_time.add((datum.created_at, stored.id))
        self._by_seq.add((stored.seq, stored.id))
        if datum.causal_parent is not None:
            self._children[datum.causal_parent] += 1
        if stored.expires_at is not None:
            heapq.heappush(self._expiring, (stored.expires_at, stored.id, stored.seq))

    def _retire(self, id: str) -> None:
        self._expired.pop(id, None)
        stored = self._live.pop(id, None)
        if stored is None or stored.datum is None:
            return
        self._by_time.remove((stored.datum.created_at, id))
        self._by_seq.remove((stored.seq, id))
        parent = stored.datum.causal_parent
        if parent is not None:
            self._children[parent] -= 1
            if not self._children[parent]:
                del self._children[parent]

    def _at(self, id: str, time: float) -> Datum | None:
        versions = self._versions[id]
        at = bisect_right(versions, time, key=lambda stored: stored.stored_at)
        return versions[at - 1].datum if at and versions[at - 1].live_at(time) else None

    def _range(self, prefix: str | None) -> tuple[int, int]:
        keys = self._ids.keys
        end = prefix_end(prefix or "")
        return bisect_left(keys, prefix or ""), len(keys) if end is None else bisect_left(keys, end)

    def _walk(self, query: Query, start: Position | None) -> Iterator[Datum]:
        """Go through what may match, in the query's order, from behind `start`."""
        if query.expired and self._expired:
            return self._sorted([*self._live, *self._expired], query, start)
        if query.prefix:
            first, end = self._range(query.prefix)
            if (end - first) * _NARROW < len(self._live):
                return self._sorted(self._ids.keys[first:end], query, start)
        if query.order == "seq":
            since = max(query.after_seq or 0, int(start[0]) if start else 0)
            recent = self._by_seq.keys
            return self._datums(recent[at][1] for at in range(bisect_left(recent, (since + 1, "")), len(recent)))
        return self._through_time(query, start)

    def _through_time(self, query: Query, start: Position | None) -> Iterator[Datum]:
        keys = self._by_time.keys
        bounds = [time for time in (query.since, query.after) if isinstance(time, float)]
        low = bisect_left(keys, (max(bounds), "")) if bounds else 0
        high = bisect_left(keys, (query.until, "")) if isinstance(query.until, float) else len(keys)
        if query.order == "newest":
            high = high if start is None else min(high, bisect_left(keys, start))
            return self._datums(keys[at][1] for at in range(high - 1, low - 1, -1))
        low = low if start is None else max(low, bisect_right(keys, start))
        return self._datums(keys[at][1] for at in range(low, high))

    def _sorted(self, ids: Iterable[str], query: Query, start: Position | None) -> Iterator[Datum]:
        newest = query.order == "newest"
        live = ((query.position(datum), datum) for datum in self._datums(ids, query.expired))
        behind = live if start is None else (pair for pair in live if (pair[0] < start) == newest and pair[0] != start)
        return iter([datum for _, datum in sorted(behind, key=itemgetter(0), reverse=newest)])

    def _datums(self, ids: Iterable[str], expired: bool = False) -> Iterator[Datum]:
        for id in ids:
            stored = self._live.get(id) or (self._expired.get(id) if expired else None)
            if stored is not None and stored.datum is not None:
                yield stored.datum
