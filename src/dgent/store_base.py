"""The verbs of every store, written once: their checks and their sugar, over a few primitives.

A store of datums inherits `StoreBase`, one that can be put into a chain `BackendBase`, and implements the abstract
methods, which get only what was checked. What the verbs mean is said in `DgentProtocol`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from dgent.exceptions import StorageError
from dgent.operations import TTL, Delete, Operation, Outcome, Purge, Put, Touch, checked_operations
from dgent.query import DEFAULT_LIMIT, Order, Query, checked_query
from dgent.store import Backend, Datums, DgentProtocol, Names, Outcomes, Revisions, StoreStats
from dgent.validation import (
    as_list,
    check_expect,
    check_key,
    check_kind,
    check_limit,
    check_namespace,
    check_time,
    check_ttl,
    check_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dgent.datum import Datum
    from dgent.limits import Limits
    from dgent.page import Page


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
        """Return a page."""

    @abstractmethod
    async def _causal_chain(self, id: str) -> Datums:
        """Return the chain, oldest first; LimitExceeded if it is longer than the limit."""

    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        """Return the last versions, oldest first; a store without a history leaves this refusal."""
        raise self.capabilities.refusal("history", self._called)

    async def _as_of(self, time: float, prefix: str | None, limit: int, cursor: str | None) -> Page:
        """Return a page of what was live; a store without a history leaves this refusal."""
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
        return await self._query(query)

    @override
    async def causal_chain(self, id: str, *, newest_first: bool = False) -> Datums:
        check_key(id)
        self.capabilities.require("causal", self._called)
        check_kind(newest_first, bool, "newest_first is True or False")
        chain = await self._causal_chain(id)
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
        self.capabilities.require("history", self._called)
        moment, checked = check_time(time, "time"), Query(prefix=prefix).prefix
        return await self._as_of(moment, checked, self.limits.page(limit), cursor)

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
    ) -> Page:
        return await self.query(Query(prefix=prefix, after=after, limit=limit, cursor=cursor, order=order))


class BackendBase(StoreBase, Backend):
    """The verbs of a `Backend`."""

    namespace = "default"

    @property
    @override
    def where(self) -> str:
        return ""

    @abstractmethod
    async def _namespaces(self, prefix: str | None, limit: int) -> Names:
        """Return the namespaces that hold something, sorted."""

    @abstractmethod
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        """Erase what expired, and old versions, and return how many versions went."""

    @override
    def within(self, namespace: str) -> Self:
        other = copy.copy(self)
        other._enter(namespace)  # a copy of this class
        return other

    def _enter(self, namespace: str) -> None:
        """Take a namespace for that of this view."""
        self.namespace = check_namespace(namespace)

    @override
    async def namespaces(self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT) -> Names:
        wanted = None if prefix is None else check_namespace(prefix)
        return await self._namespaces(wanted, self.limits.page(limit))

    @override
    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        keep = None if keep_versions is None else check_limit(keep_versions, "keep_versions")
        return await self._compact(keep, None if older_than is None else check_time(older_than, "older_than"))

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
