"""The oracle: what a store of datums answers, said in as few lines as possible and without any care for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dgent.change_page import ChangeRecord
from dgent.datum import Datum, stamped
from dgent.exceptions import CausalCycle, DgentError, VersionConflict
from dgent.operations import Operation, Outcome, Put
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

    def live_at(self, time: float) -> bool:
        """Tell whether it counts as present at a time."""
        return self.datum is not None and (self.expires_at is None or time < self.expires_at)


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
        seq, datum = self.seq, None
        if isinstance(operation, Put):
            datum = self.put(operation.datum, expect=operation.expect, ttl=operation.ttl)
        else:
            self.delete(operation.id, expect=operation.expect)
        if self.seq == seq:
            return Outcome(datum, changed=False)
        return Outcome(datum, True, self.log[-1].version, self.seq)

    def delete(self, id: str, *, expect: int | None = None) -> bool:
        """Append a tombstone where something is live."""
        self._expect(id, expect)
        return id in self.live and bool(self._append(id, None, None))

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
        return [ChangeRecord(entry.id, entry.version, entry.seq, entry.stored_at, entry.datum) for entry in wanted]

    def stats(self) -> StoreStats:
        """Return how much there is."""
        return StoreStats(len(self.live), len(self.log), self.seq)

    def query(self, query: Query) -> list[Datum]:
        """Return everything that matches, in order: all pages joined."""
        live = self.live if query.as_of is None else self.at(float(query.as_of))  # type: ignore[arg-type]
        found = sorted(filter(query.matches, live.values()), key=query.position)
        return found[::-1] if query.descending else found

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
        return [Revision(entry.version, entry.seq, entry.stored_at, entry.datum) for entry in chosen]

    def purge(self, id: str) -> int:
        """Forget an id."""
        return self._keep(lambda entry: entry.id != id)

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

    def _append(self, id: str, datum: Datum | None, expires_at: float | None) -> ModelVersion:
        self.seq, self.stored_at = self.seq + 1, max(self.clock(), self.stored_at)
        version = max((entry.version for entry in self.versions(id)), default=0) + 1
        kept = None if datum is None else stamped(datum, version, self.seq)
        self.log.append(ModelVersion(id, version, self.seq, self.stored_at, expires_at, kept))
        return self.log[-1]

    def _expect(self, id: str, expect: int | None) -> None:
        actual = self.live[id].version if id in self.live else 0
        if expect is not None and expect != actual:
            raise VersionConflict(id, expect, actual)

    def _keep(self, stays: Callable[[ModelVersion], bool]) -> int:
        before = len(self.log)
        self.log = [entry for entry in self.log if stays(entry)]
        return before - len(self.log)
