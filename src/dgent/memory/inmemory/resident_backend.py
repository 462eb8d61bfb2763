"""The primitives of the backends that hold all that they serve in memory; each says where its state is kept safe."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from dgent.memory.change import Change
from dgent.memory.inmemory.causal_walk import causal_chain
from dgent.memory.inmemory.store_state import Doomed
from dgent.store_base import BackendBase
from dgent.validation import check_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.change_page import ChangePage
    from dgent.datum import Datum
    from dgent.erasure_request import Erased, Erasure
    from dgent.memory.inmemory.namespace_state import NamespaceState
    from dgent.memory.inmemory.store_state import StoreState
    from dgent.name_listing import NamespaceListing, SegmentListing
    from dgent.page import KeyPage, Page
    from dgent.query import Query
    from dgent.store import Datums, Names, Revisions, StoreStats

T = TypeVar("T")


class ResidentBackend(BackendBase):
    """A `Backend` over a `StoreState`."""

    @abstractmethod
    async def _current(self) -> StoreState:
        """Return the state, in which every write that was acknowledged anywhere is."""

    @abstractmethod
    async def _forget(self, choose: Callable[[StoreState], Doomed], told: Callable[[Doomed], list[Change]]) -> Doomed:
        """Forget for good, here and where the state is kept, what `choose` returns, and say so as `told` returns it."""

    async def _read(self, read: Callable[[NamespaceState], T]) -> T:
        state = await self._current()
        with state.lock:
            return read(state.namespace_state(self.namespace))

    @override
    async def _get(self, id: str, version: int | None) -> Datum | None:
        return await self._read(lambda namespace_state: namespace_state.get(id, version))

    @override
    async def _get_many(self, ids: Names) -> dict[str, Datum]:
        return await self._read(
            lambda namespace_state: {id: datum for id in ids if (datum := namespace_state.get(id)) is not None}
        )

    @override
    async def _count(self, prefix: str | None) -> int:
        return await self._read(lambda namespace_state: namespace_state.count(prefix))

    @override
    async def _query(self, query: Query) -> Page:
        return await self._read(lambda namespace_state: namespace_state.query(query))

    @override
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        most = self.limits.max_chain
        return await self._read(lambda namespace_state: causal_chain(namespace_state, id, version, as_of, limit, most))

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        check_key(id)
        return await self._read(lambda namespace_state: namespace_state.is_parent(id))

    @override
    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        return await self._read(lambda namespace_state: namespace_state.history(id, limit, before))

    @override
    @override
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        def chosen(state: StoreState) -> Doomed:
            return Doomed({self.namespace: state.namespace_state(self.namespace).outdated(keep_versions, older_than)})

        return (await self._forget(chosen, lambda _: [])).erased.versions

    @override
    async def _erase(self, erasure: Erasure, *, vacuum: bool) -> Erased:
        def told(doomed: Doomed) -> list[Change]:
            gone = [name for name, versions in doomed.versions.items() if versions]
            return [Change("erase", name, erasure.prefix or "") for name in sorted(gone)]

        return (await self._forget(lambda state: state.doomed(self.namespace, erasure), told)).erased

    @override
    async def _segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        return await self._read(lambda namespace_state: namespace_state.segments(listing, limit, cursor))

    @override
    async def _namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        state = await self._current()
        with state.lock:
            return state.namespaces(listing, limit, cursor)

    @override
    async def _head(self) -> int:
        return await self._read(lambda namespace_state: namespace_state.seq)

    @override
    async def _seq_at(self, time: float) -> int:
        return await self._read(lambda namespace_state: namespace_state.log.seq_at(time))

    @override
    async def _changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        return await self._read(lambda namespace_state: namespace_state.log.changes(after_seq, until, limit))

    @override
    async def stats(self) -> StoreStats:
        return await self._read(lambda namespace_state: namespace_state.stats())

    @override
    async def is_available(self) -> bool:
        try:
            await self._current()
        except Exception:
            return False
        return True
