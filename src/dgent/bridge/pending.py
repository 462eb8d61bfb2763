"""An agent memory that lies elsewhere, as a transaction sees it: its writes wait in the outbox."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from dgent.checks import as_list, check_id, check_ttl, checked_ids
from dgent.datum import Datum, Limits
from dgent.exceptions import CapabilityMissing, CausalCycle, InvalidDatum, LimitExceeded
from dgent.query import DEFAULT_LIMIT, Damaged, Order, Page, Query, checked_query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.bridge.outbox import Outbox
    from dgent.database import Runner
    from dgent.protocol import TTL, Capabilities, Datums, Revisions


class PendingMemory:
    """A `DgentProtocol` over what waits and, below it, over what is in the memory.

    A put is delivered after the commit, so it has no version yet and cannot expect one. History and seq are those of
    what was delivered. Unless it is joined to a transaction, each write waits in one of its own.

    Attributes:
        database: where the writes wait.
    """

    def __init__(self, box: Outbox) -> None:
        self._box, self._memory, self.database = box, box.memory, box.database
        self._runner: Runner = box.database
        self._limits: Limits = getattr(box.memory, "limits", box.database.settings.limits)
        self.name = box.memory.name
        self.capabilities: Capabilities = replace(box.memory.capabilities, versioned=False)

    async def prepare(self) -> None:
        """Make the tables if they are not there."""
        await self._box.prepare()

    def joined(self, transaction: Runner) -> Self:
        """Return the same memory as part of an open transaction."""
        other = copy.copy(self)
        other._runner = transaction  # a copy of this class
        return other

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Store a datum when the transaction commits; it comes back without a version, which it gets on delivery."""
        _refuse_expect(expect)
        (stored,) = await self.put_many([datum], ttl=ttl)
        return stored

    async def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> Datums:
        """Store many datums, in order, when the transaction commits."""
        life, listed = check_ttl(ttl), as_list(datums, "datums")
        for datum in listed:
            if not isinstance(datum, Datum):
                raise InvalidDatum(f"{type(datum).__name__} is not a Datum: make one with Datum.create(...)")
            self._limits.admit(datum)
        if isinstance(life, float):
            self.capabilities.require("ttl", self.name)
        await self._refuse_cycles(listed)
        stays = await self._nothing_to_keep(listed) if life == "keep" else set()
        await self._add([(datum.id, datum, None if datum.id in stays else life) for datum in listed])
        return listed

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return what waits under this id, else the live datum."""
        check_id(id)
        if version is not None:
            return await self._memory.get(id, version=version)
        return (await self.get_many([id])).get(id)

    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return what waits or is live of these ids, by id, in the order asked."""
        asked = checked_ids(ids)
        waiting = await self._waiting(asked)
        below = await self._memory.get_many([id for id in asked if id not in waiting])
        found = {**below, **waiting}
        return {id: datum for id in asked if (datum := found.get(id)) is not None}

    async def delete(self, id: str, *, expect: int | None = None) -> bool:
        """Delete when the transaction commits; tell whether there was a live datum."""
        _refuse_expect(expect)
        return await self.delete_many([id]) > 0

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Delete many when the transaction commits, and return how many were live."""
        live = await self.get_many(ids)
        await self._add([(id, None, None) for id in live])
        return len(live)

    async def exists(self, id: str) -> bool:
        """Tell whether something waits or is live under this id."""
        return await self.get(id) is not None

    async def count(self, *, prefix: str | None = None) -> int:
        """Return how many datums there will be, or how many whose id starts with `prefix`."""
        wanted = Query(prefix=prefix).prefix or ""
        waiting = {id: datum for id, datum in (await self._waiting(None)).items() if id.startswith(wanted)}
        replaced = await self._memory.get_many(waiting)
        added = sum(datum is not None for datum in waiting.values())
        return await self._memory.count(prefix=prefix) - len(replaced) + added

    async def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """Return a page of what waits or is live, the newest first."""
        return await self.query(Query(prefix=prefix, after=after, limit=limit, cursor=cursor, order=order))

    async def query(self, query: Query) -> Page:
        """Return a page of what waits or is live and matches."""
        self._limits.page(checked_query(query).limit)
        waiting = await self._waiting(None)
        if not waiting or query.order == "seq" or query.after_seq is not None:
            return await self._memory.query(query)
        found: Datums = []
        damaged: _Damaged = []
        cursor = query.cursor
        while query.limit and len(found) <= query.limit:
            page = await self._memory.query(replace(query, cursor=cursor))
            found += [datum for datum in page if datum.id not in waiting]
            damaged += [each for each in page.damaged if each.id not in waiting]
            cursor = page.cursor
            if cursor is None:
                break
        found += [datum for datum in waiting.values() if datum is not None and query.matches(datum)]
        joined = query.page(_in_order(query, found))
        joined.damaged = tuple(damaged)
        return joined

    async def causal_chain(self, id: str) -> Datums:
        """Return the datum and its ancestors, oldest first, waiting ones included."""
        check_id(id)
        self.capabilities.require("causal", self.name)
        waiting = await self._waiting(None)
        if not waiting:
            return await self._memory.causal_chain(id)
        chain: dict[str, Datum] = {}
        at: str | None = id
        while at is not None and at not in chain:
            datum = waiting[at] if at in waiting else await self._memory.get(at)
            if datum is None:
                break
            if len(chain) == self._limits.max_chain:
                raise LimitExceeded(f"the causal chain of {id!r} is longer than {self._limits.max_chain:,}")
            chain[at] = datum
            at = datum.causal_parent
        return [*chain.values()][::-1]

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        """Return the versions that were delivered, oldest first."""
        return await self._memory.history(id, limit=limit, before=before)

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Return a page of what was live at a moment."""
        return await self._memory.as_of(time, prefix=prefix, limit=limit, cursor=cursor)

    async def purge(self, id: str) -> int:
        """Refuse: what is erased cannot be rolled back.

        Raises:
            CapabilityMissing: always.
        """
        raise CapabilityMissing(f"{self.name} lies outside of this transaction: purge {id!r} after it")

    async def _nothing_to_keep(self, datums: Datums) -> set[str]:
        """Return the ids that are not live now. Those that are live now and gone on delivery take the new one along."""
        ids = [datum.id for datum in datums]
        return {*ids} - (await self.get_many(ids)).keys() if self.capabilities.ttl else {*ids}

    async def _refuse_cycles(self, datums: Datums) -> None:
        """Refuse a parent below its child here, where it can still be rolled back; it may be absent until now."""
        given: dict[str, str | None] = {}
        for datum in datums:
            given[datum.id] = datum.causal_parent
            if datum.causal_parent is None:
                continue
            if datum.causal_parent == datum.id:
                raise CausalCycle(f"{datum.id!r} cannot be its own parent")
            if datum.id in given.values() or await self._may_be_parent(datum.id):
                await self._walk(datum, given)

    async def _may_be_parent(self, id: str) -> bool:
        """Tell whether anything that waits or is live may name this id as its parent."""
        if await self._box.is_waiting_parent(self._runner, id):
            return True
        asked: Any = getattr(self._memory, "is_parent", None)
        return asked is None or await asked(id)

    async def _walk(self, datum: Datum, given: dict[str, str | None]) -> None:
        at, passed = datum.causal_parent, set[str]()
        while at is not None and at not in passed:
            if at == datum.id:
                raise CausalCycle(f"{datum.causal_parent!r} descends from {datum.id!r}, so it cannot be its parent")
            passed.add(at)
            if at in given:
                at = given[at]
                continue
            above = await self.get(at)
            at = None if above is None else above.causal_parent

    async def _add(self, writes: _Writes) -> None:
        if writes:
            await self._box.add(self._runner, writes)

    async def _waiting(self, ids: _Ids) -> dict[str, Datum | None]:
        return await self._box.latest(self._runner, ids)


_Damaged = list[Damaged]
_Writes = list[tuple[str, Datum | None, "TTL"]]
_Ids = list[str] | None


def _refuse_expect(expect: int | None) -> None:
    if expect is not None:
        raise CapabilityMissing(
            "the agent memory lies outside of this transaction, which cannot compare its versions: leave out expect=, "
            "or keep the memory in the same database"
        )


def _in_order(query: Query, datums: Datums) -> Datums:
    """Return what a query found in its order, from where its page begins."""
    newest = query.order == "newest"
    found = sorted(datums, key=query.position, reverse=newest)
    start: Any = query.start()
    if start is None:
        return found
    return [datum for datum in found if (query.position(datum) < start if newest else query.position(datum) > start)]
