"""How spilled writes get into the first store: in order, once, and never over what somebody else wrote meanwhile."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dgent.exceptions import DgentError, StorageError, VersionConflict
from dgent.memory.spill import Entry, Spill, mark_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.protocol import Backend, Revision

_CONFLICT = "the first store was given another version meanwhile"


@dataclass
class _Track:
    """One id in the first store.

    Attributes:
        version, state: the last version that the spilled writes may build on, and the mark of its value.
        news: (version, mark) of what was stored after that: replayed before a crash, or written by somebody else.
        refused: somebody else wrote it, so that nothing spilled may follow.
    """

    version: int
    state: str
    news: deque[tuple[int, str]]
    refused: bool = False

    def step(self) -> None:
        self.version, self.state = self.news.popleft()

    def seek(self, mark: str) -> bool:
        """Go behind the last version with this value; tell whether there was one."""
        if all(found != mark for _, found in self.news):
            return False
        while any(found == mark for _, found in self.news):
            self.step()
        return True


@dataclass
class Replay:
    """One passage of spilled writes into the first store. It may break off at any point and be begun again.

    A write is in already if the first store holds it at its place. It conflicts if the first store holds something
    else that was stored after the router had last heard of it; by the clocks of the two, which have to agree.

    Attributes:
        replayed: how many writes are in. conflicts: those that were set aside.
    """

    first: Backend
    replayed: int = 0
    conflicts: list[Entry] = field(default_factory=list)
    _tracks: dict[tuple[str, str], _Track] = field(default_factory=dict)

    async def run(self, spill: Spill, *, until: int | None = None) -> None:
        """Replay what waits in a spill, up to the seq `until`; then, and only then, forget it.

        Raises:
            StorageError: one of the two stores failed; everything waits on.
        """
        last = 0
        async for page in spill.entries(until=until):
            placed = [(entry, await self._place(entry)) for entry in page]
            refused = [replace(entry, reason=reason) for entry, reason in placed if reason]
            if refused:
                await spill.set_aside(refused)
            self.replayed += len(page) - len(refused)
            self.conflicts += refused
            last = page[-1].seq
        async for page in spill.entries(until=last):  # not what another process has spilled meanwhile
            await spill.forget(page)

    async def _place(self, entry: Entry) -> str:
        """Bring one write into the first store, and return why not."""
        store, at = self.first.within(entry.namespace), (entry.namespace, entry.id)
        track = self._tracks.get(at)
        if track is None:
            track = self._tracks[at] = await _track(store, entry)
        try:
            while not track.refused and not await _place(store, entry, track):
                pass
        except StorageError:
            raise
        except DgentError as error:  # such as a parent that would close a cycle
            return f"{type(error).__name__}: {error}"
        return _CONFLICT if track.refused else ""


async def _place(store: Backend, entry: Entry, track: _Track) -> bool:
    """Bring a write closer to the store; tell whether it is in."""
    mark = mark_of(entry.datum)
    if track.news and track.news[0][1] == mark:
        track.step()
        return True
    if track.news and entry.ttl is None and mark == track.state:
        return True  # it had changed nothing
    if track.news:
        behind = entry.after is not None and track.seek(entry.after)
        if not behind and track.seek(mark):
            return True  # another process is further with the same replay
        track.refused = not behind
        return False
    live = await store.get(entry.id)
    if live is not None and live.version != track.version:
        track.news += await _since(store, entry.id, lambda one: one.version <= track.version)
        track.refused = not track.news  # it was purged and begun anew
        return False
    try:
        track.version = await _write(store, entry, live.version if live else 0) or track.version
    except VersionConflict:  # somebody was first: look again
        track.news += await _since(store, entry.id, lambda one: one.version <= track.version)
        return False
    track.state = mark
    return True


async def _write(store: Backend, entry: Entry, live: int) -> int:
    """Return the version that was appended, or 0 where nothing had to be."""
    if entry.datum is not None:
        return (await store.put(entry.datum, expect=live, ttl=entry.rest_of_ttl(time.time()))).version
    return live + 1 if live and await store.delete(entry.id, expect=live) else 0


async def _track(store: Backend, entry: Entry) -> _Track:
    """Look at an id: what was live when the first store was last heard of, and what came after."""
    before = 0, ""
    news = await _since(store, entry.id, lambda one: one.stored_at <= entry.since)
    older = await store.history(entry.id, limit=1, before=news[0][0] if news else None)
    if older:
        before = older[0].version, mark_of(older[0].datum)
    return _Track(*before, deque(news))


async def _since(store: Backend, id: str, known: Callable[[Revision], bool]) -> list[tuple[int, str]]:
    """Return (version, mark) of the revisions after the last known one, oldest first."""
    found: list[tuple[int, str]] = []
    before = None
    while page := await store.history(id, limit=32, before=before):
        new = [one for one in page if not known(one)]
        found[:0] = [(one.version, mark_of(one.datum)) for one in new]
        if len(new) < len(page):
            break
        before = page[0].version
    return found
