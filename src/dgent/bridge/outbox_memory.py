"""An agent memory that lies elsewhere, as a transaction sees it: its writes wait in the outbox."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from dgent.datum import Datum, stamped
from dgent.erasure_request import checked_erasure
from dgent.exceptions import CapabilityMissing, InvalidInput, LimitExceeded
from dgent.memory.write_batch import check_acyclic_within, check_names, closes_cycle
from dgent.operations import Delete, Outcome, Purge, Put, Touch
from dgent.page import Damaged, Page
from dgent.store import FindsParents
from dgent.store_base import StoreBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dgent.bridge.outbox import Outbox
    from dgent.capabilities import Capabilities
    from dgent.change_page import ChangePage
    from dgent.erasure_request import Erased, Erasure
    from dgent.operations import Operation
    from dgent.query import Query
    from dgent.sql import Runner
    from dgent.store import Datums, Names, Outcomes, Revisions


class OutboxMemory(StoreBase):
    """A `DgentProtocol` over what waits and, below it, over what is in the memory.

    A put is delivered after the commit, so it has no version yet and cannot expect one, and it always says that it
    changed something: whether the memory holds an equal one nobody asks it before the delivery, since it may be away.
    History and seq are those of what was delivered. Unless it is joined to a transaction, each write waits in one of
    its own.

    `list`, `query`, `count` and a `get_many` of more than a few ids read all that waits, and hold the last write of
    each id in memory: that is little, as long as the memory answers and takes what waits.

    Attributes:
        database: where the writes wait.
    """

    def __init__(self, box: Outbox) -> None:
        self._box, self._memory, self.database = box, box.memory, box.database
        self._runner: Runner = box.database
        self.limits = box.memory.limits if isinstance(box.memory, StoreBase) else box.database.settings.limits

    async def prepare(self) -> None:
        """Make the tables if they are not there."""
        await self._box.prepare()

    def joined(self, transaction: Runner) -> Self:
        """Return the same memory as part of an open transaction."""
        other = copy.copy(self)
        other._runner = transaction  # a copy of this class
        return other

    @property
    @override
    def name(self) -> str:
        return self._memory.name

    @property
    @override
    def capabilities(self) -> Capabilities:
        return replace(self._memory.capabilities, versioned=False)

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        self._admit(operations)
        await self._refuse_cycles(operations)
        live = await self._live_among(operations)
        writes: list[Operation] = []
        outcomes: Outcomes = []
        for one in operations:
            was_live = one.id in live
            if one.datum is not None:
                outcomes.append(Outcome(stamped(one.datum, 0, 0), changed=True))
                live.add(one.id)
            else:
                outcomes.append(Outcome(None, was_live))
                if isinstance(one, Delete):
                    live.discard(one.id)
                if not was_live:
                    continue
            # Those that are live now and gone on delivery take the new one along.
            keeps = isinstance(one, Put) and one.ttl == "keep" and not (was_live and self.capabilities.ttl)
            writes.append(Put(one.datum) if keeps and isinstance(one, Put) else one)
        await self._add(writes)
        return outcomes

    async def _live_among(self, operations: Iterable[Operation]) -> set[str]:
        """Return which ids are live, as far as it matters: a put that keeps no moment of expiry asks nobody."""
        ids = [one.id for one in operations if one.datum is None or one.ttl == "keep"]
        return set(await self._get_many(list(dict.fromkeys(ids)))) if ids else set()

    def _admit(self, operations: Iterable[Operation]) -> None:
        """Refuse what cannot be delivered later. What is erased cannot be rolled back."""
        for one in operations:
            if isinstance(one, Purge):
                raise CapabilityMissing(f"{self.name} lies outside of this transaction: purge {one.id!r} after it")
            if one.expect is not None:
                raise CapabilityMissing(
                    "the agent memory lies outside of this transaction, which cannot compare its versions: leave out "
                    "expect=, or keep the memory in the same database"
                )
            if one.datum is not None:
                self.limits.admit(one.datum)
                check_names(self._memory.namespace, one.datum)
            if isinstance(one, Touch) or isinstance(one.ttl, float):
                self.capabilities.require("ttl", self.name)

    @override
    async def _get(self, id: str, version: int | None) -> Datum | None:
        if version is not None:
            return await self._memory.get(id, version=version)
        return (await self._get_many([id])).get(id)

    @override
    async def _get_many(self, ids: Names) -> dict[str, Datum]:
        waiting, erasures = await self._waiting(ids), await self._box.erasures(self._runner)
        below = await self._memory.get_many([id for id in ids if id not in waiting and not _takes(erasures, id)])
        found = {**below, **waiting}
        return {id: datum for id in ids if (datum := found.get(id)) is not None}

    @override
    async def _count(self, prefix: str | None) -> int:
        waiting = {id: datum for id, datum in (await self._waiting(None)).items() if id.startswith(prefix or "")}
        erasures = await self._box.erasures(self._runner)
        replaced = await self._memory.get_many([id for id in waiting if not _takes(erasures, id)])
        added = sum(datum is not None for datum in waiting.values())
        return await self._count_below(prefix or "", erasures) - len(replaced) + added

    async def _count_below(self, prefix: str, erasures: Iterable[Erasure]) -> int:
        """Count what the memory has, without what is to be erased there."""
        gone = sorted({one.prefix or "" for one in erasures})
        if any(prefix.startswith(each) for each in gone):
            return 0
        apart = [each for at, each in enumerate(gone) if not each.startswith(tuple(gone[:at]))]
        taken = [await self._memory.count(prefix=each) for each in apart if each.startswith(prefix)]
        return await self._memory.count(prefix=prefix or None) - sum(taken)

    @override
    async def _query(self, query: Query) -> Page:
        waiting, erasures = await self._waiting(None), await self._box.erasures(self._runner)
        if not (waiting or erasures) or query.ordered_by == "seq" or {"after_seq", "before_seq", "as_of"} & query.asked:
            return await self._memory.query(query)
        if not query.limit:
            return Page()

        def stays(id: str) -> bool:
            return id not in waiting and not _takes(erasures, id)

        below = await self._read_on(query, lambda read: sum(stays(one.id) for one in read) > query.limit)
        found = [datum for datum in below if stays(datum.id)]
        found += [datum for datum in waiting.values() if datum is not None and query.matches(datum)]
        joined = query.page(_in_order(query, found))
        damaged = tuple(one for one in below.damaged if stays(one.id))
        joined.damaged = await self._on_page(damaged, query, joined.cursor, below)
        return joined

    async def _read_on(self, query: Query, enough: Callable[[Page], bool]) -> Page:
        """Return pages of the memory as one: up to where that is enough, or to the end."""
        read = Page(cursor=query.cursor)
        while True:
            page = await self._memory.query(replace(query, cursor=read.cursor))
            read += page
            read.damaged += page.damaged
            read.cursor = page.cursor
            if page.cursor is None or enough(read):
                return read

    async def _on_page(self, damaged: _Damaged, query: Query, end: str | None, read: Page) -> _Damaged:
        """Return what of the damaged stands before the end of a page: not what the memory names behind that.

        Where a damaged version stands only the memory knows; `read` is what was read of it, further than the page goes.
        """
        if not damaged or end is None:
            return damaged

        def is_read(behind: Page) -> bool:
            at = query.position
            return read.cursor is not None and bool(behind) and not query.is_behind(at(read[-1]), at(behind[-1]))

        later = (await self._read_on(replace(query, cursor=end), is_read)).damaged
        return tuple(one for one in damaged if one not in later)

    @override
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        if version is not None or as_of is not None or await self._box.is_empty(self._runner):
            return await self._memory.causal_chain(id, version=version, as_of=as_of, limit=limit)
        chain: dict[str, Datum] = {}
        at: str | None = id
        while at is not None and at not in chain and len(chain) != limit:
            datum = await self._get(at, None)
            if datum is None:
                break
            if len(chain) == self.limits.max_chain:
                raise LimitExceeded(f"the causal chain of {id!r} is longer than {self.limits.max_chain:,}")
            chain[at] = datum
            at = datum.causal_parent
        return [*chain.values()][::-1]

    @override
    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        return await self._memory.history(id, limit=limit, before=before)

    @override
    async def _head(self) -> int:
        return await self._memory.head()

    @override
    async def _seq_at(self, time: float) -> int:
        return await self._memory.seq_at(time)

    @override
    async def _changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        return await self._memory.changes(after_seq, until=until, limit=limit)

    async def erase(
        self, *, prefix: str | None = None, everything: bool = False, below: bool = False, vacuum: bool = False
    ) -> Erased:
        """Erase what waits, with this transaction, and let the memory erase after it, before anything is delivered.

        Raises:
            InvalidInput: as `Backend.erase`, or it is to vacuum.
            CapabilityMissing: what is below waits elsewhere, too.
        """
        asked = checked_erasure(prefix, everything, below)
        if vacuum:
            raise InvalidInput("nothing is vacuumed within a transaction: erase without it, and in the memory after it")
        if below:
            raise CapabilityMissing(
                "what waits for the namespaces below has outboxes of its own: erase each of them by its name"
            )
        return await self._box.erase(self._runner, asked)

    async def _refuse_cycles(self, operations: Sequence[Operation]) -> None:
        """Refuse a parent below its child here, where it can still be rolled back; it may be absent until now."""
        check_acyclic_within(operations)
        given: dict[str, str | None] = {}
        named: set[str] = set()
        for one in operations:
            if isinstance(one, Touch):
                continue
            datum = one.datum
            parent = given[one.id] = None if datum is None else datum.causal_parent
            if datum is None or parent is None:
                continue
            named.add(parent)
            if datum.id in named or await self._may_be_parent(datum.id):
                await self._walk(datum, given)

    async def _may_be_parent(self, id: str) -> bool:
        """Tell whether anything that waits or is live may name this id as its parent."""
        if await self._box.is_waiting_parent(self._runner, id):
            return True
        return not isinstance(self._memory, FindsParents) or await self._memory.is_parent(id)

    async def _walk(self, datum: Datum, given: dict[str, str | None]) -> None:
        at, passed = datum.causal_parent, set[str]()
        while at is not None and at not in passed:
            if at == datum.id:
                raise closes_cycle(datum.id, datum.causal_parent)
            passed.add(at)
            if at in given:
                at = given[at]
                continue
            above = await self.get(at)
            at = None if above is None else above.causal_parent

    async def _add(self, writes: Sequence[Operation]) -> None:
        if writes:
            await self._box.add(self._runner, writes)

    async def _waiting(self, ids: _Ids) -> dict[str, Datum | None]:
        return await self._box.latest(self._runner, ids)


_Damaged = tuple[Damaged, ...]
_Ids = list[str] | None


def _takes(erasures: Iterable[Erasure], id: str) -> bool:
    return any(one.takes(id) for one in erasures)


def _in_order(query: Query, datums: Datums) -> Datums:
    """Return what a query found in its order, from where its page begins."""
    found = sorted(datums, key=query.position, reverse=query.descending)
    start = query.start()
    return found if start is None else [datum for datum in found if query.is_behind(query.position(datum), start)]
