"""The oracle: what a store of datums answers, said in as few lines as possible and without any care for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dgent.change_page import ChangeRecord
from dgent.datum import Datum, stamped
from dgent.erasure_request import Erased
from dgent.exceptions import CausalCycle, DgentError, VersionConflict
from dgent.operations import Delete, Operation, Outcome, Purge, Put, Touch
from dgent.store import Revision, StoreStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dgent.operations import TTL
    from dgent.query import Query


class ModelVersion(NamedTuple):
    """One line of the log: a datum, or None where an id was deleted."""

    id: str
    version: int
    seq: int
    stored_at: float
    expires_at: float | None
    datum: Datum | None
    author: str | None = None
    reason: str | None = None

    def live_at(self, time: float) -> bool:
        """Tell whether it counts as present at a time."""
        return self.datum is not None and (self.expires_at is None or time < self.expires_at)


def _entry(
    id: str, version: int, seq: int, stored_at: float, expires_at: float | None, datum: Datum | None, *told: str | None
) -> ModelVersion:
    kept = None if datum is None else stamped(datum, version, seq, stored_at, expires_at)
    return ModelVersion(id, version, seq, stored_at, expires_at, kept, *told)


class ReferenceModel:
    """One namespace of a store: a log, and every answer computed from the whole of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.log: list[ModelVersion] = []
        self.seq, self.stored_at = 0, 0.0
        self.clock = clock

    def at(self, time: float) -> dict[str, Datum]:
        """Return what was live at a time, by id."""
        newest = {entry.id: entry for entry in self.log if entry.stored_at <= time}
        return {id: entry.datum for id, entry in newest.items() if entry.datum is not None and entry.live_at(time)}

    @property
    def live(self) -> dict[str, Datum]:
        """What is live now, by id: the newest of an id decides, whenever history says that it was stored."""
        now, newest = self.clock(), {entry.id: entry for entry in self.log}
        return {id: entry.datum for id, entry in newest.items() if entry.datum is not None and entry.live_at(now)}

    def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Append, unless an equal datum is live and its time to live is to be as it is."""
        live = self.live
        self._expect(datum.id, expect)
        kept = live.get(datum.id)
        rest = self.versions(datum.id)[-1].expires_at if kept is not None else None
        if kept == datum and kept is not None and (ttl == "keep" or (ttl is None and rest is None)):
            return kept
        above = datum.causal_parent
        passed = set[str]()
        moves = kept is None or kept.causal_parent != datum.causal_parent
        while moves and above is not None and above not in passed:
            if above == datum.id:
                raise CausalCycle(datum.id)
            passed.add(above)
            above = live[above].causal_parent if above in live else None
        expires_at = rest if ttl == "keep" else None if ttl is None else self.clock() + ttl
        return self._append(datum.id, datum, expires_at).datum  # type: ignore[return-value]

    def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> list[Datum]:
        """Put all or none."""
        return [outcome.datum for outcome in self.apply(Put(datum, None, ttl) for datum in datums) if outcome.datum]

    def apply(self, operations: Iterable[Operation]) -> list[Outcome]:
        """Put and delete, all or none."""
        before = self.log[:], self.seq, self.stored_at
        try:
            return [self._outcome(operation) for operation in operations]
        except DgentError:
            self.log, self.seq, self.stored_at = before
            raise

    def _outcome(self, operation: Operation) -> Outcome:
        seq = self.seq
        match operation:
            case Put(datum, expect, ttl):
                kept = self.put(datum, expect=expect, ttl=ttl)
                changed = (True, self.log[-1].version, self.seq) if self.seq > seq else (False,)
                return Outcome(kept, *changed)
            case Delete(id, expect, author, reason):
                deleted = self.delete(id, expect=expect, author=author, reason=reason)
                return Outcome(None, deleted, self.log[-1].version, self.seq) if deleted else Outcome(None, False)
            case Purge(id, expect):
                self._expect(id, expect)
                erased = self.purge(id)
                return Outcome(None, erased > 0, erased=erased)
            case Touch(id, ttl, expect):
                self._expect(id, expect)
                return Outcome(None, self.touch([id], ttl) > 0)

    def delete(
        self, id: str, *, expect: int | None = None, author: str | None = None, reason: str | None = None
    ) -> bool:
        """Append a tombstone where something is live."""
        self._expect(id, expect)
        return id in self.live and bool(self._append(id, None, None, author, reason))

    def touch(self, ids: Iterable[str], ttl: float | None) -> int:
        """Change when what is live expires, and count it."""
        found = [id for id in dict.fromkeys(ids) if id in self.live]
        for id in found:
            at = self.log.index(self.versions(id)[-1])
            _, version, seq, stored_at, _, datum, *_ = self.log[at]
            self.log[at] = _entry(id, version, seq, stored_at, None if ttl is None else self.clock() + ttl, datum)
        return len(found)

    def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the live datum, or the one put as `version`."""
        if version is None:
            return self.live.get(id)
        return next((entry.datum for entry in self.versions(id) if entry.version == version), None)

    def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return the live ones."""
        live = self.live
        return {id: live[id] for id in ids if id in live}

    def delete_many(self, ids: Iterable[str]) -> int:
        """Delete and count."""
        return sum(self.delete(id) for id in ids)

    def exists(self, id: str) -> bool:
        """Tell whether it is live."""
        return id in self.live

    def count(self, *, prefix: str = "") -> int:
        """Count the live ids that start with `prefix`."""
        return sum(id.startswith(prefix) for id in self.live)

    def as_of(self, time: float, *, prefix: str = "") -> list[Datum]:
        """Return what was live at a time, in the order of the ids: all pages joined."""
        then = self.at(time)
        return [then[id] for id in sorted(then) if id.startswith(prefix)]

    def head(self) -> int:
        """Return the seq of the last write."""
        return self.seq

    def seq_at(self, time: float) -> int:
        """Return the seq of the last version stored at or before a time."""
        return max((entry.seq for entry in self.log if entry.stored_at <= time), default=0)

    def changes(self, after_seq: int, *, until: int | None = None) -> list[ChangeRecord]:
        """Return the versions of all ids with `after_seq < seq <= until`: all pages joined."""
        wanted = [entry for entry in self.log if after_seq < entry.seq <= (self.seq if until is None else until)]
        return [
            ChangeRecord(one.id, one.version, one.seq, one.stored_at, one.datum, one.author, one.reason)
            for one in wanted
        ]

    def stats(self) -> StoreStats:
        """Return how much there is."""
        return StoreStats(len(self.live), len(self.log), self.seq)

    def query(self, query: Query) -> list[Datum]:
        """Return everything that matches, in order: all pages joined."""
        found = sorted(filter(query.matches, self._asked(query)), key=query.position)
        return found[::-1] if query.descending else found

    def _asked(self, query: Query) -> Iterable[Datum]:
        """Return what is live, or was at a time; on request also what has expired, or had by then."""
        if not query.expired:
            return (self.live if query.as_of is None else self.at(float(query.as_of))).values()  # type: ignore[arg-type]
        until = float("inf") if query.as_of is None else float(query.as_of)  # type: ignore[arg-type]
        last = {entry.id: entry.datum for entry in self.log if entry.stored_at <= until}
        return [datum for datum in last.values() if datum is not None]

    def keys(self, query: Query) -> list[str]:
        """Return the ids of everything that matches, in order."""
        return [datum.id for datum in self.query(query)]

    def segments(self, prefix: str, depth: int) -> list[str]:
        """Return the beginnings of live ids up to a slash behind the prefix."""
        below = [(id, id[len(prefix) :].split("/")) for id in self.live if id.startswith(prefix)]
        return sorted({id if len(parts) <= depth else f"{prefix}{'/'.join(parts[:depth])}/" for id, parts in below})

    def causal_chain(
        self, id: str, *, version: int | None = None, as_of: float | None = None, limit: int | None = None
    ) -> list[Datum]:
        """Return the nearest of the datum and its ancestors, oldest first: live now, at a time, or below a version."""
        live = self.live if as_of is None else self.at(as_of)
        chain, found = list[Datum](), live.get(id) if version is None else self.get(id, version=version)
        while found is not None and found not in chain and len(chain) != limit:
            chain.insert(0, found)
            above = found.causal_parent or ""
            found = live.get(above) if version is None else self._before(above, found.seq)
        return chain

    def _before(self, id: str, seq: int) -> Datum | None:
        """Return what was live when the version with this seq was stored."""
        stored_at = next(entry.stored_at for entry in self.log if entry.seq == seq)
        earlier = [entry for entry in self.versions(id) if entry.seq < seq]
        return earlier[-1].datum if earlier and earlier[-1].live_at(stored_at) else None

    def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> list[Revision]:
        """Return the last versions below `before`, oldest first."""
        found = [entry for entry in self.versions(id) if before is None or entry.version < before]
        chosen = found[-limit:] if limit else []
        return [Revision(one.version, one.seq, one.stored_at, one.datum, one.author, one.reason) for one in chosen]

    def purge(self, id: str) -> int:
        """Forget an id."""
        return self.purge_many([id])

    def purge_many(self, ids: Iterable[str]) -> int:
        """Forget ids."""
        gone = set(ids)
        return self._keep(lambda entry: entry.id not in gone)

    def erase(self, *, prefix: str) -> Erased:
        """Forget the ids that begin so."""
        gone = {entry.id for entry in self.log if entry.id.startswith(prefix)}
        return Erased(self.purge_many(gone), len(gone), int(bool(gone)))

    def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        """Forget ids whose last version expired, whole, and superseded versions that are too many or too old."""
        last = {entry.id: entry for entry in self.log}
        now, newest = self.clock(), {id: entry.version for id, entry in last.items()}

        def stays(entry: ModelVersion) -> bool:
            if last[entry.id].datum is not None and not last[entry.id].live_at(now):
                return False
            below = sum(1 for other in self.versions(entry.id) if other.version > entry.version)
            few = keep_versions is None or below < keep_versions
            young = older_than is None or entry.stored_at >= older_than
            return entry.version == newest[entry.id] or (few and young)

        return self._keep(stays)

    def versions(self, id: str) -> list[ModelVersion]:
        """Return what was ever stored under an id, oldest first."""
        return [entry for entry in self.log if entry.id == id]

    def _append(self, id: str, datum: Datum | None, expires_at: float | None, *told: str | None) -> ModelVersion:
        self.seq, self.stored_at = self.seq + 1, max(self.clock(), self.stored_at)
        version = max((entry.version for entry in self.versions(id)), default=0) + 1
        self.log.append(_entry(id, version, self.seq, self.stored_at, expires_at, datum, *told))
        return self.log[-1]

    def _expect(self, id: str, expect: int | None) -> None:
        actual = self.live[id].version if id in self.live else 0
        if expect is not None and expect != actual:
            raise VersionConflict(id, expect, actual)

    def _keep(self, stays: Callable[[ModelVersion], bool]) -> int:
        before = len(self.log)
        self.log = [entry for entry in self.log if stays(entry)]
        return before - len(self.log)
