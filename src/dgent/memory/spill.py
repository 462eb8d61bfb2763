"""Where writes wait while the first store of a chain is out of reach, and how they get into it afterwards.

A spill is a log: each write is one datum in a reserved namespace of a later store of the chain, in the order of the
acknowledgements. It is a queue for the first store and never a second truth: nobody reads from it but the replay, and
the view of a program that had to start without the first store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from blake3 import blake3

from dgent.datum import Datum, Limits, load_datum, uuid7
from dgent.exceptions import Corrupt, DgentError
from dgent.memory.change import Change
from dgent.memory.manifest import key_of
from dgent.memory.volatile import MemoryBackend
from dgent.query import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dgent.protocol import Backend

RESERVED: Final = ".dgent"
"""The first segment of the namespaces that spills live in; a router refuses it to everybody else."""

PAGE: Final = 32
_AT_ONCE: Final = 1e-6
_HEADER_ROOM: Final = 16 * 2**10


def roomy(limits: Limits) -> Limits:
    """Return limits under which every datum that fits the given ones also fits as an entry of a spill."""
    return Limits(
        limits.max_content + 2 * limits.max_metadata + _HEADER_ROOM,
        max(limits.max_metadata, _HEADER_ROOM),
        max(limits.max_page, PAGE),
        limits.max_chain,
    )


class Operation(NamedTuple):
    """A put, or a delete where `datum` is None; `ttl` is in seconds."""

    id: str
    datum: Datum | None
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A write that waits.

    Attributes:
        key, seq: its id and place in the log.
        at: when it was taken, Unix seconds.
        since: when the first store had last been heard of by then, Unix seconds.
        after: the mark of the value that the same program had spilled before under this id.
        reason: why it was set aside; empty while it waits.
    """

    key: str
    seq: int
    namespace: str
    id: str
    datum: Datum | None
    ttl: float | None
    at: float
    since: float
    after: str | None
    reason: str = ""

    @property
    def change(self) -> Change:
        """The write as an event. It has no version yet: the first store will give it one."""
        return Change("delete" if self.datum is None else "put", self.namespace, self.id)

    def rest_of_ttl(self, now: float) -> float | None:
        """Return how much of its time to live is left; never 0, so that it still supersedes what was before."""
        return None if self.ttl is None else max(_AT_ONCE, self.at + self.ttl - now)


class Spill:
    """The writes for one target that wait in one store, oldest first, and those of them that were set aside."""

    def __init__(self, store: Backend, target: str) -> None:
        self.store, self.key, self.target = store, key_of(store), target
        segment = blake3(target.encode()).hexdigest(8)
        self._log = store.within(f"{RESERVED}/spill/{segment}")
        self._aside = store.within(f"{RESERVED}/aside/{segment}")
        self._last: dict[tuple[str, str], str] = {}

    async def append(self, namespace: str, operations: Iterable[Operation], since: float) -> list[Entry]:
        """Take writes, all or none; they are safe in the store when this answers."""
        now = time.time()
        entries = []
        for id, datum, ttl in operations:
            after = self._last.get((namespace, id))
            entries.append(Entry(uuid7(), 0, namespace, id, datum, ttl, now, since, after))
            self._last[namespace, id] = mark_of(datum)
        await self._log.put_many([_encoded(entry) for entry in entries])
        return entries

    async def entries(self, after_seq: int = 0, *, until: int | None = None) -> AsyncIterator[list[Entry]]:
        """Go through what waits behind a seq, in order, by pages; up to the seq `until`."""
        while True:
            page = await self._log.query(Query(order="seq", after_seq=after_seq, limit=PAGE))
            found = [_decoded(datum) for datum in page if datum.content]
            wanted = [entry for entry in found if until is None or entry.seq <= until]
            if wanted:
                yield wanted
            if page.cursor is None or len(wanted) < len(found):
                return
            after_seq = page[-1].seq

    async def forget(self, entries: list[Entry]) -> None:
        """Take entries off the log, all at once. What is left of them expires here and is erased by `sweep`."""
        await self._log.put_many([Datum(entry.key, b"", entry.at) for entry in entries], ttl=_AT_ONCE)

    async def set_aside(self, refused: list[Entry]) -> None:
        """Keep entries that the first store must not take, with the reasons, until somebody decides."""
        await self._aside.put_many([_encoded(entry) for entry in refused])

    async def conflicts(self) -> list[Entry]:
        """Return what was set aside, oldest first: at most as much as fits on one page."""
        return [_decoded(datum) for datum in await self._aside.list(order="seq", limit=PAGE)]

    async def settle(self, key: str) -> bool:
        """Erase what was set aside under a key; tell whether there was anything."""
        return await self._aside.purge(key) > 0

    async def sweep(self) -> None:
        """Erase what is left of forgotten entries."""
        self._last.clear()
        await self._log.compact()

    async def head(self) -> int:
        """Return the seq of the last entry."""
        return (await self._log.stats()).seq

    async def count(self) -> tuple[int, int]:
        """Return how many entries wait, and how many were set aside."""
        return await self._log.count(), await self._aside.count()


class View:
    """What a program sees that started without the first store: only what was written since, from the spills.

    It is held in memory and follows the log, so it also has what other processes spill into the same store.
    """

    def __init__(self, limits: Limits) -> None:
        self.memory = MemoryBackend(limits=limits)
        self._seen: dict[tuple[str, str], int] = {}

    async def of(self, spills: list[Spill], namespace: str) -> MemoryBackend:
        """Return a namespace of it, with everything that was acknowledged before this call."""
        for spill in spills:
            place = spill.key, spill.target
            async for page in spill.entries(self._seen.get(place, 0)):
                for entry in page:
                    if entry.seq > self._seen.get(place, 0):  # else another reader has taken it meanwhile
                        self._seen[place] = entry.seq
                        await self._take(entry)
        return self.memory.within(namespace)

    async def _take(self, entry: Entry) -> None:
        store = self.memory.within(entry.namespace)
        if entry.datum is None:
            await store.delete(entry.id)
            return
        try:
            await store.put(entry.datum, ttl=entry.rest_of_ttl(time.time()))
        except DgentError:  # it closes a cycle; the replay sets it aside
            return


def mark_of(datum: Datum | None) -> str:
    """Return what two equal values share: a digest, or nothing for "deleted"."""
    if datum is None:
        return ""
    head = orjson.dumps([datum.id, datum.created_at, datum.causal_parent, datum.metadata_json])
    return blake3(head + b"\n" + datum.content).hexdigest(16)


def _encoded(entry: Entry) -> Datum:
    """Return an entry as a datum of the log: a line of JSON, then the content as it is."""
    header = {name: getattr(entry, name) for name in ("namespace", "id", "ttl", "at", "since", "after", "reason")}
    datum = entry.datum
    if datum is not None:
        header |= {"created_at": datum.created_at, "parent": datum.causal_parent, "metadata": datum.metadata_json}
    content = b"" if datum is None else datum.content
    return Datum(entry.key, orjson.dumps(header) + b"\n" + content, entry.at)


def _decoded(record: Datum) -> Entry:
    line, _, content = record.content.partition(b"\n")
    try:
        header = orjson.loads(line)
        datum = None
        if "created_at" in header:
            created_at, parent, metadata = header.pop("created_at"), header.pop("parent"), header.pop("metadata")
            datum = load_datum(header["id"], content, created_at, parent, metadata, 0, 0)
        return Entry(key=record.id, seq=record.seq, datum=datum, **header)
    except (ValueError, TypeError, KeyError):
        raise Corrupt(
            f"the spilled write {record.id!r} is not what was written: restore the store from a backup"
        ) from None
