"""The verbs of every store, written once: their checks and their sugar, over a few primitives.

A store of datums inherits `StoreBase`, one that can be put into a chain `BackendBase`, and implements the abstract
methods, which get only what was checked. What the verbs mean is said in `DgentProtocol`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from typing_extensions import override

from dgent.erasure_request import checked_erasure
from dgent.exceptions import InvalidQuery, StorageError
from dgent.name_listing import NamespaceListing, SegmentListing
from dgent.operations import TTL, Delete, Operation, Outcome, Purge, Put, Touch, checked_operations
from dgent.page import KeyPage, Page
from dgent.query import DEFAULT_LIMIT, Order, Query, checked_query
from dgent.store import Backend, Datums, DgentProtocol, Names, Outcomes, Revisions, StoreStats
from dgent.validation import (
    as_list,
    check_expect,
    check_key,
    check_kind,
    check_limit,
    check_namespace,
    check_query_text,
    check_seq,
    check_time,
    check_ttl,
    check_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dgent.change_page import ChangePage
    from dgent.datum import Datum
    from dgent.erasure_request import Erased, Erasure
    from dgent.limits import Limits


_SKIPPED: Final = 500
"""Datums that are left out at a time: they need not fit into memory together."""


class StoreBase(DgentProtocol, ABC):
    """The verbs of a `DgentProtocol`.

    Attributes:
        limits: what one call may cost.
    """

    limits: Limits

    @abstractmethod
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        """Write in one transaction, in order, all or none; one outcome each. See `WriteBatch`."""

    @abstractmethod
    async def _get(self, id: str, version: int | None) -> Datum | None:
        """Return the live datum, or a version."""

    @abstractmethod
    async def _get_many(self, ids: Names) -> dict[str, Datum]:
        """Return the live ones, by id, in the order asked."""

    @abstractmethod
    async def _count(self, prefix: str | None) -> int:
        """Return how many datums are live."""

    @abstractmethod
    async def _query(self, query: Query) -> Page:
        """Return a page; what `offset` says has been left out already."""

    async def _keys(self, query: Query) -> KeyPage:
        """Return a page of ids, of a query for nothing but a prefix; without contents, where a store can do better."""
        page = await self._query(query)
        return KeyPage([datum.id for datum in page], page.cursor)

    async def _segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of segments: a key of each, behind the last that the one before can have."""
        found: Names = []
        last, first = listing.after(cursor), Query(prefix=listing.prefix, order="id", limit=1)
        while len(found) <= limit:
            behind = None if last is None else first.cursor_at((0, listing.last_of(last)))
            key = await self._keys(replace(first, cursor=behind))
            if not key:
                break
            found.append(last := listing.segment_of(key[0]))
        return listing.page(found, limit)

    @abstractmethod
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        """Return the nearest `limit` of the chain, oldest first; LimitExceeded if more than `max_chain` are asked for.

        A store without a history is asked for neither a version nor a time, and nobody for both.
        """

    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        """Return the last versions, oldest first; a store without a history leaves this refusal."""
        raise self.capabilities.refusal("history", self._called)

    async def _head(self) -> int:
        """Return the seq of the last write; a store without a history leaves this refusal."""
        raise self.capabilities.refusal("history", self._called)

    async def _seq_at(self, time: float) -> int:
        """Return the seq of the last version at or before a time; a store without a history leaves this refusal."""
        raise self.capabilities.refusal("history", self._called)

    async def _changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        """Return a page of changes; a store without a history leaves this refusal."""
        raise self.capabilities.refusal("history", self._called)

    @property
    def _called(self) -> str:
        """What messages call it."""
        return self.name

    @override
    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        (outcome,) = await self._apply([Put(datum, expect, ttl)])
        return _stored(outcome)

    @override
    async def put_many(self, datums: Iterable[Datum], *, expect: int | None = None, ttl: TTL = None) -> Datums:
        version, seconds = check_expect(expect), check_ttl(ttl)
        outcomes = await self._apply([Put(datum, version, seconds) for datum in as_list(datums, "datums")])
        return [_stored(outcome) for outcome in outcomes]

    @override
    async def apply(self, operations: Iterable[Operation]) -> Outcomes:
        return await self._apply(checked_operations(operations))

    @override
    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        check_key(id)
        if version is not None:
            self.capabilities.require("history", self._called)
            version = check_version(version)
        return await self._get(id, version)

    @override
    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        return await self._get_many(_checked_ids(ids))

    @override
    async def delete(
        self, id: str, *, expect: int | None = None, author: str | None = None, reason: str | None = None
    ) -> bool:
        (outcome,) = await self._apply([Delete(id, expect, author, reason)])
        return outcome.changed

    @override
    async def delete_many(self, ids: Iterable[str]) -> int:
        outcomes = await self._apply([Delete(id) for id in _checked_ids(ids)])
        return sum(outcome.changed for outcome in outcomes)

    @override
    async def exists(self, id: str) -> bool:
        return await self.get(id) is not None

    @override
    async def count(self, *, prefix: str | None = None) -> int:
        return await self._count(Query(prefix=prefix).prefix)

    @override
    async def query(self, query: Query) -> Page:
        self.limits.page(checked_query(query).limit)
        if query.causal_parent is not None:
            self.capabilities.require("causal", self._called)
        if query.as_of is not None:
            self.capabilities.require("history", self._called)
        if query.offset and query.cursor is None:
            return await self._query_behind_offset(query)
        return await self._query(query)

    async def _query_behind_offset(self, query: Query) -> Page:
        """Return the page behind what `offset` leaves out, which is read to know where it ends."""
        left, at = query.offset, None
        while left:
            most = min(left, self.limits.max_page, _SKIPPED)
            page = await self._query(replace(query, offset=0, cursor=at, limit=most))
            left, at = left - len(page), page.cursor
            if at is None:
                return Page()
        return await self._query(replace(query, offset=0, cursor=at))

    @override
    async def keys(
        self,
        prefix: str | None = None,
        *,
        order: Order = "id",
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> KeyPage:
        query = Query(prefix=prefix, order=order, limit=limit, cursor=cursor)
        self.limits.page(limit)
        return await self._keys(query)

    @override
    async def segments(
        self,
        prefix: str | None = None,
        *,
        delimiter: str = "/",
        depth: int = 1,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> KeyPage:
        listing = SegmentListing("" if prefix is None else prefix, delimiter, depth)
        check_query_text("cursor", cursor)
        return await self._segments(listing, self.limits.page(limit), cursor)

    @override
    async def causal_chain(
        self,
        id: str,
        *,
        version: int | None = None,
        as_of: float | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Datums:
        check_key(id)
        self.capabilities.require("causal", self._called)
        check_kind(newest_first, bool, "newest_first is True or False")
        if version is not None or as_of is not None:
            self.capabilities.require("history", self._called)
        if version is not None and as_of is not None:
            raise InvalidQuery("a chain is that of a version or that of a time: pass version= or as_of=, not both")
        number, moment = check_version(version), None if as_of is None else check_time(as_of, "as_of")
        if limit is not None and check_limit(limit) == 0:
            return []
        chain = await self._causal_chain(id, number, moment, limit)
        return chain[::-1] if newest_first else chain

    @override
    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        check_key(id)
        self.capabilities.require("history", self._called)
        return await self._history(id, self.limits.page(limit), check_version(before, "before"))

    @override
    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        moment = check_time(time, "time")
        return await self.query(Query(as_of=moment, prefix=prefix, order="id", limit=limit, cursor=cursor))

    @override
    async def head(self) -> int:
        self.capabilities.require("history", self._called)
        return await self._head()

    @override
    async def seq_at(self, time: float) -> int:
        self.capabilities.require("history", self._called)
        return await self._seq_at(check_time(time, "time"))

    @override
    async def changes(self, after_seq: int, *, until: int | None = None, limit: int = DEFAULT_LIMIT) -> ChangePage:
        self.capabilities.require("history", self._called)
        start, end = check_seq(after_seq, "after_seq"), None if until is None else check_seq(until, "until")
        return await self._changes(start, end, self.limits.page(limit))

    @override
    async def touch(self, ids: Iterable[str], ttl: float | None) -> int:
        outcomes = await self._apply([Touch(id, ttl) for id in _checked_ids(ids)])
        return sum(outcome.changed for outcome in outcomes)

    @override
    async def purge(self, id: str) -> int:
        (outcome,) = await self._apply([Purge(id)])
        return outcome.erased

    @override
    async def purge_many(self, ids: Iterable[str]) -> int:
        outcomes = await self._apply([Purge(id) for id in _checked_ids(ids)])
        return sum(outcome.erased for outcome in outcomes)

    # The last one in the class: below it, `list` no longer means the type.
    @override
    async def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
        after_seq: int | None = None,
        before_seq: int | None = None,
    ) -> Page:
        found = Query(
            prefix=prefix,
            after=after,
            limit=limit,
            cursor=cursor,
            order=order,
            after_seq=after_seq,
            before_seq=before_seq,
        )
        return await self.query(found)


class BackendBase(StoreBase, Backend):
    """The verbs of a `Backend`."""

    namespace = "default"

    @property
    @override
    def where(self) -> str:
        return ""

    @abstractmethod
    async def _namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of the namespaces that hold something, sorted."""

    @abstractmethod
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        """Erase what expired, and old versions, and return how many versions went."""

    @abstractmethod
    async def _erase(self, erasure: Erasure, *, vacuum: bool) -> Erased:
        """Erase for good, in one transaction, and return what went."""

    @override
    def within(self, namespace: str) -> Self:
        other = copy.copy(self)
        other._enter(namespace)  # a copy of this class
        return other

    def _enter(self, namespace: str) -> None:
        """Take a namespace for that of this view."""
        self.namespace = check_namespace(namespace)

    @override
    async def namespaces(
        self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> KeyPage:
        check_query_text("cursor", cursor)
        return await self._namespaces(NamespaceListing(prefix), self.limits.page(limit), cursor)

    @override
    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        keep = None if keep_versions is None else check_limit(keep_versions, "keep_versions")
        return await self._compact(keep, None if older_than is None else check_time(older_than, "older_than"))

    @override
    async def erase(
        self, *, prefix: str | None = None, everything: bool = False, below: bool = False, vacuum: bool = False
    ) -> Erased:
        check_kind(vacuum, bool, "vacuum is True or False")
        return await self._erase(checked_erasure(prefix, everything, below), vacuum=vacuum)

    @override
    async def status(self) -> Mapping[str, object]:
        return {"name": self.name, "namespace": self.namespace, "capabilities": str(self.capabilities)}

    @override
    @abstractmethod
    async def is_available(self) -> bool: ...

    @override
    @abstractmethod
    async def stats(self) -> StoreStats: ...

    @override
    @abstractmethod
    async def close(self) -> None: ...


def _checked_ids(ids: Iterable[str]) -> Names:
    """Return ids as a list, each once, in the order given."""
    return list(dict.fromkeys(map(check_key, as_list(ids, "ids"))))


def _stored(outcome: Outcome) -> Datum:
    if outcome.datum is None:
        raise StorageError("a put was answered without its datum")
    return outcome.datum
