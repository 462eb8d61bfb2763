"""The verbs of the backends that hold everything they serve in memory; each says where the ledger is kept safe."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from dgent.checks import as_list, check_expect, check_id, check_namespace, check_ttl, check_version, checked_ids
from dgent.datum import Datum
from dgent.exceptions import InvalidDatum
from dgent.query import DEFAULT_LIMIT, Order, Page, Query, checked_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dgent.memory.ledger import Draft, Ledger
    from dgent.memory.shelf import Shelf, Stored
    from dgent.protocol import TTL, Capabilities, Revision, StoreStats

T = TypeVar("T")


class ResidentBackend(ABC):
    """A `Backend` over a ledger. What each verb does is said in `DgentProtocol`."""

    name: ClassVar[str]
    priority: ClassVar[int]
    capabilities: ClassVar[Capabilities]
    namespace: str

    def __init__(self, namespace: str) -> None:
        self.namespace = check_namespace(namespace)

    def within(self, namespace: str) -> Self:
        """Return the same store under another namespace; closing either closes both."""
        other = copy.copy(self)
        other.namespace = check_namespace(namespace)
        return other

    @abstractmethod
    async def _current(self) -> Ledger:
        """Return the ledger, in which every write that was acknowledged anywhere is."""

    @abstractmethod
    async def _commit(self, decide: Callable[[Draft], T]) -> T:
        """Decide some writes, keep all of them safe and put them into the ledger, or none."""

    @abstractmethod
    async def _erase(self, choose: Callable[[Shelf], list[Stored]], purged: str | None) -> int:
        """Forget for good, here and where the ledger is kept, what `choose` returns; return how many versions went."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the store holds. May be called twice."""

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Store a datum and return it with the version and seq that it got."""
        _check_datum(datum)
        check_expect(expect)
        seconds = check_ttl(ttl)
        return await self._commit(lambda draft: draft.put(self.namespace, datum, expect, seconds))

    async def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> list[Datum]:
        """Store many datums in order, all or none."""
        listed, seconds = as_list(datums, "datums"), check_ttl(ttl)
        for datum in listed:
            _check_datum(datum)
        return await self._commit(lambda draft: [draft.put(self.namespace, datum, None, seconds) for datum in listed])

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the live datum, or the one that was put as `version`."""
        check_id(id)
        wanted = check_version(version)
        return await self._read(lambda shelf: shelf.get(id, wanted))

    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return the live ones of these ids, by id, in the order asked."""
        asked = checked_ids(ids)
        found = await self._read(lambda shelf: [(id, shelf.get(id)) for id in asked])
        return {id: datum for id, datum in found if datum is not None}

    async def delete(self, id: str, *, expect: int | None = None) -> bool:
        """Append a tombstone; tell whether there was a live datum."""
        check_id(id)
        check_expect(expect)
        return await self._commit(lambda draft: draft.delete(self.namespace, id, expect))

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Delete many, all or none, and return how many were live."""
        asked = checked_ids(ids)
        return await self._commit(lambda draft: sum(draft.delete(self.namespace, id) for id in asked))

    async def exists(self, id: str) -> bool:
        """Tell whether a live datum has this id."""
        return await self.get(id) is not None

    async def count(self, *, prefix: str | None = None) -> int:
        """Return how many datums are live, or how many whose id starts with `prefix`."""
        checked = Query(prefix=prefix).prefix
        return await self._read(lambda shelf: shelf.count(checked))

    async def query(self, query: Query) -> Page:
        """Return a page of the live datums that match."""
        return await self._read(lambda shelf: shelf.query(checked_query(query)))

    async def causal_chain(self, id: str) -> list[Datum]:
        """Return the live datum and its live ancestors, oldest first."""
        check_id(id)
        return await self._read(lambda shelf: shelf.causal_chain(id))

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        check_id(id)
        return await self._read(lambda shelf: shelf.is_parent(id))

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> list[Revision]:
        """Return the stored versions of an id, oldest first: the last `limit` of those below version `before`."""
        check_id(id)
        end = check_version(before, "before")
        return await self._read(lambda shelf: shelf.history(id, limit, end))

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Return a page of what was live at a moment, in the order of the ids."""
        return await self._read(lambda shelf: shelf.as_of(time, prefix, limit, cursor))

    async def purge(self, id: str) -> int:
        """Erase every version of an id for good and return how many there were."""
        check_id(id)
        return await self._erase(lambda shelf: shelf.versions_of(id), id)

    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        """Erase expired datums and old versions, and return how many versions went."""
        return await self._erase(lambda shelf: shelf.outdated(keep_versions, older_than), None)

    async def namespaces(self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT) -> list[str]:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""
        if prefix is not None:
            check_namespace(prefix)
        ledger = await self._current()
        ledger.limits.page(limit)
        with ledger.lock:
            return ledger.namespaces(prefix, limit)

    async def head(self) -> int:
        """Return the highest seq of the namespace; 0 where nothing was ever put."""
        return await self._read(lambda shelf: shelf.seq)

    async def stats(self) -> StoreStats:
        """Return what the namespace holds."""
        return await self._read(lambda shelf: shelf.stats())

    async def is_available(self) -> bool:
        """Tell whether the store answers now. Never raises."""
        try:
            await self._current()
        except Exception:
            return False
        return True

    async def status(self) -> Mapping[str, object]:
        """Return what a person wants to know."""
        return {"name": self.name, "namespace": self.namespace, "capabilities": str(self.capabilities)}

    async def _read(self, read: Callable[[Shelf], T]) -> T:
        ledger = await self._current()
        with ledger.lock:
            return read(ledger.shelf(self.namespace))

    # The last one in the class: below it, `list` no longer means the type.
    async def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """Return a page of live datums, the newest first."""
        return await self.query(Query(prefix=prefix, after=after, limit=limit, cursor=cursor, order=order))


def _check_datum(datum: Any) -> None:
    if not isinstance(datum, Datum):
        raise InvalidDatum(f"a store keeps Datum objects, not {type(datum).__name__}: use Datum.create(...)")
