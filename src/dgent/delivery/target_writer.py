"""How one entry is written behind a version of its id in the target, and what tells that it is in."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import orjson

from dgent.datum import as_datetime
from dgent.delivery.queued_write import QueuedWrite, Version, digest_of
from dgent.exceptions import Corrupt, DgentError, OutcomeUnknown, StorageError, StorageTimeout, VersionConflict
from dgent.operations import Delete, Touch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.delivery.watermark import Watermark
    from dgent.operations import TTL, Operation
    from dgent.store import Backend, Revision

ATTEMPTS: Final = 16


class BaseVersion(NamedTuple):
    """The version that an entry goes behind, and the last revision of its id at that moment."""

    version: int
    last: Revision | None


Reached: TypeAlias = Version | str | None
"""The version that an entry reached, why the target must not take it, or None where somebody else dealt with it."""


class TargetWriter:
    """Writes entries to a target.

    Args:
        target: where they go.
        clock: for what is left of a time to live.
        is_dealt_with: tells whether somebody else has dealt with an entry.
    """

    def __init__(
        self, target: Backend, clock: Callable[[], float], is_dealt_with: Callable[[QueuedWrite], Awaitable[bool]]
    ) -> None:
        self._target, self._clock, self._is_dealt_with = target, clock, is_dealt_with

    def _store(self, entry: QueuedWrite) -> Backend:
        """Return the target under the namespace of an entry."""
        if self._target.namespace == entry.namespace:
            return self._target
        return self._target.within(entry.namespace)

    async def last(self, entry: QueuedWrite) -> Revision | None:
        """Return the last revision of the id of an entry, a tombstone included; None where there are no versions."""
        store = self._store(entry)
        if not _has_versions(store):
            return None
        found = await store.history(entry.id, limit=1)
        return found[-1] if found else None

    async def is_there(self, last: Revision | None, entry: QueuedWrite) -> bool:
        """Tell whether the target holds already what the entry would make of it."""
        if entry.touches or entry.ttl is not None or last is None:
            return False
        live = await self._store(entry).get(entry.id)
        return live == entry.datum and (live is None or live.version == last.version)

    async def write(self, entry: QueuedWrite, base: BaseVersion) -> Reached:
        """Write an entry behind a version.

        The answer is the version that was reached, None where somebody else dealt with it, or why the target must not
        take it.
        """
        store = self._store(entry)
        try:
            return await self._write_behind(store, entry, *base)
        except Corrupt as error:
            return await self.explained(entry, error)
        except StorageError:
            raise
        except DgentError as error:  # such as a parent that would close a cycle
            return f"{type(error).__name__}: {error}"

    async def _write_behind(self, store: Backend, entry: QueuedWrite, base: int, last: Revision | None) -> Reached:
        if not _has_versions(store):
            return await self._write_blindly(store, entry)
        expired = False
        for _ in range(ATTEMPTS):
            if (last.version if last else 0) != base:
                return await self._look(store, entry, base)
            live = 0 if last is None or last.datum is None or expired else base
            try:
                return await self._append(store, entry, base, live)
            except VersionConflict as error:  # if that version is still the last, it is no longer live
                expired = live > 0 and error.actual == 0
            except OutcomeUnknown:
                pass
            last = await self.last(entry)
        raise busy(entry)

    async def _append(self, store: Backend, entry: QueuedWrite, base: int, live: int) -> Reached:
        """Write behind the version `base`, which is live, or else `live` is 0."""
        ttl = entry.rest_of_ttl(self._clock(), live=live > 0)
        if entry.datum is None:
            if not live:
                return Version(base, 0)
            (outcome,) = await store.apply([_of_id(entry, ttl, live)])
            return Version(outcome.version or base, 0)
        stored = await store.put(entry.datum, expect=live, ttl=ttl)
        if base <= stored.version <= base + 1:
            return Version(stored.version, stored.seq)
        return await self._take_back(store, entry, base, stored.version)

    async def _take_back(self, store: Backend, entry: QueuedWrite, base: int, version: int) -> Reached:
        """Undo a put that landed behind another version than planned, where nothing was live."""
        with suppress(VersionConflict):  # it is superseded already
            await store.delete(entry.id, expect=version)
        return await self._look(store, entry, base)

    async def _look(self, store: Backend, entry: QueuedWrite, base: int) -> Reached:
        """Tell what became of a planned entry behind whose base there is another version."""
        if entry.touches:
            return Version(base, 0)  # whether it was in: what was put since says by itself when it expires
        found = await store.history(entry.id, limit=1, before=base + 2)
        next_one = found[-1] if found and found[-1].version == base + 1 else None
        if next_one is not None and next_one.datum == entry.datum:
            return Version(next_one.version, next_one.seq)
        if await self._is_dealt_with(entry):
            return None
        return conflict(self._target.name, next_one or await self.last(entry), entry)

    async def _write_blindly(self, store: Backend, entry: QueuedWrite) -> Version:
        """Write where there are no versions: in order and at least once, over whatever is there."""
        live = await store.get(entry.id)
        ttl = entry.rest_of_ttl(self._clock(), live=live is not None)
        if entry.datum is not None:
            await store.put(entry.datum, ttl=ttl)
        elif live is not None:
            await store.apply([_of_id(entry, ttl, None)])
        return Version(0, 0)

    async def explained(self, entry: QueuedWrite, error: Corrupt) -> str:
        """Return why an id cannot be written whose row is damaged; raise the error if the whole target is."""
        await self._store(entry).count()
        return f"Corrupt: {error}"


def _of_id(entry: QueuedWrite, ttl: TTL, expect: int | None) -> Operation:
    """Return the touch or the delete that an entry without a datum is."""
    if entry.touches:
        return Touch(entry.id, None if ttl == "keep" else ttl, expect)
    told = orjson.loads(entry.note)
    return Delete(entry.id, expect, told.get("author"), told.get("reason"))


def busy(entry: QueuedWrite) -> StorageTimeout:
    """Return the error for an entry that others were always quicker with."""
    return StorageTimeout(
        f"the {entry.kind} of {entry.id!r} got no clear answer in {ATTEMPTS} attempts: try again later"
    )


def _has_versions(store: Backend) -> bool:
    return store.capabilities.versioned and store.capabilities.history


def is_known(last: Revision | None, watermark: Watermark, entry: QueuedWrite) -> bool:
    """Tell whether the writer of an entry knew of the last version of its id: nothing is written over a later one."""
    if last is None:
        return True  # nothing is there, whatever was
    if _is_version(last, Version(watermark.version, watermark.seq)):
        return True
    known = entry.known
    if known.unknown and digest_of(last.datum) in known.unknown:
        return True
    if known.base is not None:
        return _is_version(last, known.base)
    # A clock may be set back: the time decides only where there is nothing better.
    return last.seq <= known.seen if known.seen else last.stored_at <= known.heard


def _is_version(last: Revision, version: Version) -> bool:
    """Compare by seq, too: an id that was purged and begun anew has the same versions once more."""
    return last.version == version.version and version.seq in {0, last.seq}


def conflict(target: str, last: Revision | None, entry: QueuedWrite) -> str:
    """Return why an entry is set aside: it names the version that is there and the write that did not know of it."""
    when = as_datetime(entry.at).isoformat(" ", "seconds")
    this = f"this {entry.kind} of {entry.id!r} ({when})"
    if last is None:
        return f"{this} was to follow a version that is no longer in {target}: it was purged"
    stored = as_datetime(last.stored_at).isoformat(" ", "seconds")
    return f"{target} holds version {last.version}, stored {stored}, which {this} did not know of"
