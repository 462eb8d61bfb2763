"""Where writes for a store elsewhere wait: an append-only log in reserved namespaces of any `Backend`.

    .dgent/queue/<target>   the writes, each one datum, and erasures; the order of everything is their seq
    .dgent/places/<target>  how far each id has come: see `watermark`
    .dgent/aside/<target>   the writes that the target must not take, each with its reason, until somebody decides

A key begins with a digest of namespace and id, so what waits for one id is one range of keys. An entry is never
changed: it is appended once and taken off once. It is a queue and never a second truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from dgent.datum import Datum
from dgent.delivery.queue_format_1 import take_over_format_1
from dgent.delivery.queued_erasure import GROUP, QueuedErasure, decoded_erasure, encoded_erasure, is_erasure
from dgent.delivery.queued_write import EVERYTHING, PAGE, RESERVED, QueuedWrite, damaged, decoded, encoded, group_of
from dgent.delivery.watermark import RECEIPT, Watermark, record_of, watermark_in
from dgent.exceptions import Corrupt, StorageError
from dgent.operations import Put
from dgent.query import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from dgent.page import Page
    from dgent.store import Backend

_AT_ONCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Waiting:
    """A page of a queue: entries, the next first; those that are not what was written; erasures; where to read on."""

    entries: list[QueuedWrite]
    damaged: list[QueuedWrite]
    erasures: list[QueuedErasure]
    after_seq: int | None = None

    def __bool__(self) -> bool:
        return bool(self.entries or self.damaged or self.erasures)


class Queue:
    """The writes for one target that wait in one store, and those of them that were set aside.

    Args:
        store: where they wait.
        target: what the target goes by; queues for different targets in one store do not meet.
    """

    def __init__(self, store: Backend, target: str) -> None:
        self.store, self.target = store, target
        self.segment = blake3(target.encode()).hexdigest(8)
        self._prepared = False
        self._log = store.within(f"{RESERVED}/queue/{self.segment}")
        self._watermarks = store.within(f"{RESERVED}/places/{self.segment}")
        self._aside = store.within(f"{RESERVED}/aside/{self.segment}")

    def over(self, store: Backend) -> Queue:
        """Return the same queue through another view of its store, such as one inside of a transaction."""
        return Queue(store, self.target)

    async def prepare(self) -> None:
        """Take over what the first format of this queue left in the store."""
        if not self._prepared:
            await take_over_format_1(self)
            self._prepared = True

    async def append(self, entries: Iterable[QueuedWrite]) -> list[QueuedWrite]:
        """Take writes, all or none, and return them with their keys; they are safe in the store when this answers."""
        taken = [entry if entry.key else entry.keyed() for entry in entries]
        stored = await self._log.put_many([encoded(entry) for entry in taken])
        return [replace(entry, seq=datum.seq) for entry, datum in zip(taken, stored, strict=True)]

    async def page(self) -> Waiting:
        """Return what waits next."""
        return await self._read(None, 0)

    async def of(self, namespace: str, id: str) -> Waiting:
        """Return what waits next for one id."""
        return await self._read(f"{group_of(namespace, id)}-", 0)

    async def pages(self, after_seq: int = 0, *, one: tuple[str, str] | None = None) -> AsyncIterator[Waiting]:
        """Go through all that waits behind a seq, in order, or what waits for one (namespace, id)."""
        at: int | None = after_seq
        prefix = None if one is None else f"{group_of(*one)}-"
        while at is not None:
            page = await self._read(prefix, at)
            if page:
                yield page
            at = page.after_seq

    async def append_erasure(self, erasure: QueuedErasure) -> QueuedErasure:
        """Take an erasure, and return it with its place; it is safe in the store when this answers."""
        stored = await self._log.put(encoded_erasure(erasure))
        return replace(erasure, key=stored.id, seq=stored.seq)

    async def erasures(self) -> list[QueuedErasure]:
        """Return the erasures that wait, in their order."""
        found: list[QueuedErasure] = []
        at: int | None = 0
        while at is not None:
            page = await self._read(f"{GROUP}-", at)
            found, at = found + page.erasures, page.after_seq
        return found

    async def erase_entry(self, entry: QueuedWrite) -> bool:
        """Erase an entry; tell whether it was there."""
        return await self._log.purge(entry.key) > 0

    async def take_off(self, erasure: QueuedErasure) -> None:
        """Erase an erasure that was applied."""
        await self._log.purge(erasure.key)

    async def erase_set_aside(self, erasure: QueuedErasure) -> int:
        """Erase what was set aside that an erasure takes and that was written before it; return how much it was."""
        gone, at = 0, 0
        while page := await self._aside.query(Query(order="seq", after_seq=at, limit=PAGE)):
            for entry in _waiting(page).entries:
                if entry.at <= erasure.at and erasure.takes(entry):
                    gone += await self._aside.purge(entry.key) > 0
            at = page[-1].seq
        return gone

    async def is_later(self, at: float) -> bool:
        """Tell whether anything waits that was written after a moment, Unix seconds."""
        return bool(await self._log.query(Query(after=at, limit=1)))

    async def children(self, parent: str) -> list[QueuedWrite]:
        """Return puts that wait, in any namespace, whose datum has this parent: at most as many as fit on a page."""
        found = await self._log.query(Query(where={"metadata.parent": parent}, order="seq", limit=PAGE))
        return _waiting(found).entries

    async def forget(self, entries: Sequence[QueuedWrite]) -> None:
        """Take entries off, all at once. What is left of them expires here and is erased by `sweep`."""
        await self._log.put_many([Datum(entry.key, b"", entry.at) for entry in entries], ttl=_AT_ONCE)

    async def watermarks(self, groups: Iterable[str]) -> tuple[dict[str, Watermark], dict[str, Corrupt]]:
        """Return how far ids have come, by the groups of their entries, and of which that cannot be told.

        Raises:
            Corrupt: the store is damaged as a whole.
        """
        wanted = list(dict.fromkeys(groups))
        try:
            found = await self._watermarks.get_many(wanted)
            return {group: watermark_in(datum) for group, datum in found.items()}, {}
        except Corrupt:  # one of them may be
            await self._watermarks.count()
        whole: dict[str, Watermark] = {}
        broken: dict[str, Corrupt] = {}
        for group in wanted:
            try:
                datum = await self._watermarks.get(group)
                if datum is not None:
                    whole[group] = watermark_in(datum)
            except Corrupt as error:
                broken[group] = error
        return whole, broken

    async def watermark(self, group: str) -> Watermark:
        """Return how far one id has come.

        Raises:
            Corrupt: its record is damaged.
        """
        whole, broken = await self.watermarks([group])
        if broken:
            raise broken[group]
        return whole.get(group, Watermark())

    async def drop_damaged_watermark(self, group: str) -> None:
        """Erase the record of an id, unless somebody else has done so and begun a new one."""
        if (await self.watermarks([group]))[1]:
            await self._watermarks.purge(group)

    async def move(self, group: str, watermark: Watermark, *, receipt: bool = False) -> Watermark:
        """Write down how far an id has come, by compare-and-swap against the record that `watermark` was made from.

        Raises:
            VersionConflict: somebody else was first.
        """
        ttl = RECEIPT if receipt else None
        stored = await self._watermarks.put(record_of(group, watermark), expect=watermark.row, ttl=ttl)
        return watermark._replace(row=stored.version)

    async def move_each(self, watermarks: Mapping[str, Watermark], *, receipt: bool = False) -> None:
        """Write down how far several ids have come, all or none, by their groups: see `move`.

        Raises:
            VersionConflict: somebody else was first with one of them.
        """
        ttl = RECEIPT if receipt else None
        await self._watermarks.apply([Put(record_of(group, one), one.row, ttl) for group, one in watermarks.items()])

    async def put_aside(self, entries: Sequence[QueuedWrite]) -> None:
        """Keep entries that the target must not take, with their reasons, until somebody decides."""
        await self._aside.put_many([encoded(entry) for entry in entries])

    async def put_aside_all_of(self, one: QueuedWrite, error: Corrupt) -> list[QueuedWrite]:
        """Set aside and return all that waits of an id whose record is damaged, then erase that: no other id pays."""
        reason = f"how far the writes of {one.id!r} have come is not known, and this one may be in: {error}"
        kept: list[QueuedWrite] = []
        while waiting := (await self.of(one.namespace, one.id)).entries:
            aside = [replace(entry, reason=reason) for entry in waiting]
            await self.put_aside(aside)
            await self.forget(waiting)
            kept += aside
        await self.drop_damaged_watermark(one.group)
        return kept

    async def put_damaged_aside(self, entries: Sequence[QueuedWrite]) -> int:
        """Keep the bytes of entries that are not what was written, take these out of the way, and return how many."""
        await self.put_aside(entries)
        return sum([await self._log.purge(entry.key) > 0 for entry in entries])

    async def set_aside(self) -> list[QueuedWrite]:
        """Return what was set aside, oldest first: at most as much as fits on one page."""
        page = await self._aside.list(order="seq", limit=PAGE)
        found = _waiting(page)
        return sorted([*found.entries, *found.damaged], key=lambda entry: entry.seq)

    async def retry(self, key: str) -> bool:
        """Let a write that was set aside wait again, over whatever the target holds; tell whether there was one.

        One that is damaged stays aside: there is nothing that could be written.
        """
        kept = await self._aside.get(key)
        entry = None if kept is None else decoded(kept)
        if entry is None or entry.raw is not None:
            return False
        await self.append([replace(entry, seq=0, known=EVERYTHING, reason="")])
        return await self._aside.purge(key) > 0

    async def discard(self, key: str) -> bool:
        """Erase what was set aside under a key; tell whether there was anything."""
        return await self._aside.purge(key) > 0

    async def sweep(self) -> None:
        """Erase what is left of entries that were taken off, and receipts that are too old."""
        await self._log.compact()
        await self._watermarks.compact()

    async def count(self) -> tuple[int, int]:
        """Return how many entries wait, and how many were set aside."""
        return await self._log.count(), await self._aside.count()

    async def _read(self, prefix: str | None, after_seq: int) -> Waiting:
        """Return the first page behind a seq that holds anything; what was taken off a moment ago may still show."""
        while True:
            query = Query(prefix=prefix, order="seq", after_seq=after_seq, limit=PAGE)
            page = await self._log.query(query)
            found = _waiting(page)
            if found or found.after_seq is None:
                return found
            after_seq = found.after_seq


def _waiting(page: Page) -> Waiting:
    entries: list[QueuedWrite] = []
    erasures: list[QueuedErasure] = []
    broken = [damaged(one.id, 0, one.reason, one.content, 0.0) for one in page.damaged]
    for datum in page:
        if not datum.content:
            continue  # taken off
        try:
            if is_erasure(datum.id):
                erasures.append(decoded_erasure(datum))
            else:
                entries.append(decoded(datum))
        except Corrupt as error:
            broken.append(damaged(datum.id, datum.seq, str(error), datum.content, datum.created_at))
    more = page.cursor is not None and len(page) > 0
    return Waiting(entries, broken, erasures, page[-1].seq if more else None)


class QueueUnreadable(Exception):
    """The store in which writes wait failed, not the one that they are for."""

    def __init__(self, queue: Queue, error: StorageError) -> None:
        self.queue, self.error = queue, error
        super().__init__(str(error))
