"""The versions of the datums of one namespace, held in memory: append-only, indexed, every read a plain method."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Generic, NamedTuple

from dgent.datum import stamped
from dgent.memory.inmemory import key_walk
from dgent.memory.inmemory.commit_log import CommitLog
from dgent.memory.inmemory.key_walk import Key, walked
from dgent.page import Page
from dgent.query import Query, prefix_end
from dgent.store import Revision, StoreStats, revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dgent.cursor import Position
    from dgent.datum import Datum
    from dgent.limits import Limits
    from dgent.name_listing import SegmentListing
    from dgent.page import KeyPage

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
        log: all versions in the order of the commits.
    """

    def __init__(self, limits: Limits, seq: int = 0, stored_at: float = 0.0) -> None:
        self.seq, self.stored_at = seq, stored_at
        self._versions: dict[str, list[StoredVersion]] = {}
        self._live: dict[str, StoredVersion] = {}
        self._ids: SortedKeys[str] = SortedKeys()
        self._by_time: SortedKeys[tuple[float, str]] = SortedKeys()
        self._by_seq: SortedKeys[tuple[int, str]] = SortedKeys()
        self.log = CommitLog()
        self._children: dict[str, set[str]] = {}
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
        self.log.append(stored)
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
        self.log.replace(stored)
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
            self.log.erase(stored.seq for stored in self._versions[id] if stored.version in gone)
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
        found = self.stored(id, version)
        return found and found.datum

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

    def stored(self, id: str, version: int | None = None) -> StoredVersion | None:
        """Return the live version, or the one with this number, which may be a tombstone."""
        if version is None:
            return self._live.get(id)
        versions = self._versions.get(id, [])
        at = bisect_left(versions, version, key=lambda stored: stored.version)
        return versions[at] if at < len(versions) and versions[at].version == version else None

    def stored_at_time(self, id: str, time: float, *, expired: bool = False) -> StoredVersion | None:
        """Return the version that was live at a time, or with `expired` also one that had expired by then."""
        end = bisect_right(self._versions.get(id, []), time, key=lambda each: each.stored_at)
        return self._last_of(id, end, float("-inf") if expired else time)

    def stored_before(self, id: str, seq: int, time: float) -> StoredVersion | None:
        """Return the version that was live when that of a seq was stored, which was at this time."""
        return self._last_of(id, bisect_left(self._versions.get(id, []), seq, key=lambda each: each.seq), time)

    def segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of the segments of live ids."""
        return key_walk.segments(self._first_live, listing, limit, cursor)

    def history(self, id: str, limit: int, before: int | None) -> list[Revision]:
        """Return the last `limit` versions below `before`, oldest first."""
        versions = self._versions.get(id, [])
        end = len(versions) if before is None else bisect_left(versions, before, key=lambda stored: stored.version)
        chosen = versions[max(0, end - limit) : end]
        return [revision(one.version, one.seq, one.stored_at, one.datum, one.note) for one in chosen]

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
        return iter(self.log.versions)

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
            self._children.setdefault(datum.causal_parent, set()).add(stored.id)
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
            self._children[parent].discard(id)
            if not self._children[parent]:
                del self._children[parent]

    def _last_of(self, id: str, end: int, time: float) -> StoredVersion | None:
        """Return the last of the first versions of an id, if it was live at a time."""
        return self._versions[id][end - 1] if end and self._versions[id][end - 1].live_at(time) else None

    def _range(self, prefix: str | None) -> tuple[int, int]:
        keys = self._ids.keys
        end = prefix_end(prefix or "")
        return bisect_left(keys, prefix or ""), len(keys) if end is None else bisect_left(keys, end)

    def _walk(self, query: Query, start: Position | None) -> Iterator[Datum]:
        """Go through what may match, in the query's order, from behind `start`."""
        if query.as_of is not None:
            return self._past(query, start)
        if query.expired and self._expired:
            return _sorted(self._datums([*self._live, *self._expired], expired=True), query, start)
        if query.causal_parent is not None:
            return _sorted(self._datums(self._children.get(query.causal_parent, ())), query, start)
        if query.ordered_by == "id":
            return self._through_ids(query, start)
        if query.prefix:
            first, end = self._range(query.prefix)
            if (end - first) * _NARROW < len(self._live):
                return _sorted(self._datums(self._ids.keys[first:end]), query, start)
        if query.ordered_by == "seq":
            return self._through_seqs(query, start)
        return self._through_time(query, start)

    def _through_ids(self, query: Query, start: Position | None) -> Iterator[Datum]:
        prefix = query.prefix or ""
        here = None if start is None else start[1]
        return self._datums(walked(self._ids.keys, prefix, prefix_end(prefix), here, descending=query.descending))

    def _through_seqs(self, query: Query, start: Position | None) -> Iterator[Datum]:
        first = None if query.after_seq is None else (query.after_seq + 1, "")
        end = None if query.before_seq is None else (query.before_seq, "")
        here = None if start is None else (int(start[0]) + (not query.descending), "")
        keys = walked(self._by_seq.keys, first, end, here, descending=query.descending)
        return self._datums(id for _, id in keys)

    def _through_time(self, query: Query, start: Position | None) -> Iterator[Datum]:
        bounds = [time for time in (query.since, query.after) if isinstance(time, float)]
        first = (max(bounds), "") if bounds else None
        end = (query.until, "") if isinstance(query.until, float) else None
        keys = walked(self._by_time.keys, first, end, start, descending=query.descending)
        return self._datums(id for _, id in keys)

    def _past(self, query: Query, start: Position | None) -> Iterator[Datum]:
        """Go through what was live at the time of a query; no index knows it, but that of the ids."""
        time = float(query.as_of)  # type: ignore[arg-type]  # it was made one on entry
        if not self.log.seq_at(time):
            return iter(())
        prefix, by_id = query.prefix or "", query.ordered_by == "id"
        here = start[1] if by_id and start is not None else None
        ids = walked(self._ids.keys, prefix, prefix_end(prefix), here, descending=by_id and query.descending)
        then = (self.stored_at_time(id, time, expired=query.expired) for id in ids)
        found = (stored.datum for stored in then if stored is not None and stored.datum is not None)
        return found if by_id else _sorted(found, query, start)

    def _first_live(self, text: str) -> str | None:
        """Return the first live id from a text on."""
        return next((id for id in walked(self._ids.keys, text, None, None, descending=False) if id in self._live), None)

    def _datums(self, ids: Iterable[str], expired: bool = False) -> Iterator[Datum]:
        for id in ids:
            stored = self._live.get(id) or (self._expired.get(id) if expired else None)
            if stored is not None and stored.datum is not None:
                yield stored.datum


def _sorted(datums: Iterable[Datum], query: Query, start: Position | None) -> Iterator[Datum]:
    """Return datums in the order of a query, from behind a position."""
    placed = ((query.position(datum), datum) for datum in datums)
    behind = placed if start is None else (pair for pair in placed if query.is_behind(pair[0], start))
    return iter([datum for _, datum in sorted(behind, key=itemgetter(0), reverse=query.descending)])
