"""The primitives of the backends that hold all that they serve in memory; each says where its state is kept safe."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from dgent.store_base import BackendBase
from dgent.validation import check_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.datum import Datum
    from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion
    from dgent.memory.inmemory.store_state import StoreState
    from dgent.page import Page
    from dgent.query import Query
    from dgent.store import Datums, Names, Revisions, StoreStats

T = TypeVar("T")


class ResidentBackend(BackendBase):
    """A `Backend` over a `StoreState`."""

    @abstractmethod
    async def _current(self) -> StoreState:
        """Return the state, in which every write that was acknowledged anywhere is."""

    @abstractmethod
    async def _erase(self, choose: Callable[[NamespaceState], list[StoredVersion]]) -> int:
        """Forget for good, here and where the state is kept, what `choose` returns; return how many versions went."""

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
    async def _causal_chain(self, id: str) -> Datums:
        return await self._read(lambda namespace_state: namespace_state.causal_chain(id))

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        check_key(id)
        return await self._read(lambda namespace_state: namespace_state.is_parent(id))

    @override
    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        return await self._read(lambda namespace_state: namespace_state.history(id, limit, before))

    @override
    async def _as_of(self, time: float, prefix: str | None, limit: int, cursor: str | None) -> Page:
        return await self._read(lambda namespace_state: namespace_state.as_of(time, prefix, limit, cursor))

    @override
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        return await self._erase(lambda namespace_state: namespace_state.outdated(keep_versions, older_than))

    @override
    async def _namespaces(self, prefix: str | None, limit: int) -> Names:
        state = await self._current()
        with state.lock:
            return state.namespaces(prefix, limit)

    async def head(self) -> int:
        """Return the highest seq of the namespace; 0 where nothing was ever put."""
        return await self._read(lambda namespace_state: namespace_state.seq)

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
