"""Agent memory in a SQL database: the verbs of a `Backend` over whatever runs SQL."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeAlias, TypedDict, TypeVar

from typing_extensions import override

from dgent.capabilities import Capabilities
from dgent.exceptions import Corrupt, DgentError, InvalidInput
from dgent.memory import datum_index
from dgent.memory.change import Change, OnChange, announce, changes_of
from dgent.memory.datum_index import TABLES
from dgent.memory.metadata_index import covers
from dgent.memory.sql import causal_reads, changes, erasure, key_listing, queries, reads
from dgent.memory.sql.postgres_fast_insert import NamespaceWriter
from dgent.memory.sql.writes import is_parent
from dgent.query import DEFAULT_LIMIT
from dgent.sql.runner import SHORT
from dgent.sql.sql_store import SqlStore
from dgent.store_base import BackendBase
from dgent.validation import check_key, check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from dgent.change_page import ChangePage
    from dgent.datum import Datum
    from dgent.erasure_request import Erased, Erasure
    from dgent.limits import Limits
    from dgent.name_listing import NamespaceListing, SegmentListing
    from dgent.operations import Operation
    from dgent.page import KeyPage, Page
    from dgent.query import Query
    from dgent.sql import Database
    from dgent.sql.runner import Each
    from dgent.store import Datums, Names, Outcomes, Revisions, StoreStats

T = TypeVar("T")
P = ParamSpec("P")
_Work: TypeAlias = "Callable[Concatenate[Connection, str, P], T]"

_ALL: Final = Capabilities()
_READ_ONLY: Final = replace(_ALL, writable=False)
_VOLATILE: Final = replace(_ALL, durable=False, shared=False)


class _Able:
    """The capabilities of a store: of its class all, of one that can only be read all but that one."""

    def __get__(self, store: SqlBackend | None, owner: object = None) -> Capabilities:
        try:
            if store is None or (store.database.durable and not store.database.read_only):
                return _ALL
        except DgentError:  # nobody can look at the file: who opens it hears why
            return _ALL
        return _READ_ONLY if store.database.durable else _VOLATILE


class SqlOptions(TypedDict, total=False):
    """What every store in SQL takes beside its database: see `SqlBackend`."""

    limits: Limits | None
    clock: Callable[[], float] | None
    on_change: OnChange | None


class SqlBackend(SqlStore, BackendBase):
    """A `Backend` in the tables of `dgent.memory.sql.datum_tables`, which it makes on first use.

    Args:
        clock: what time it is, in Unix seconds, for tests. It decides what has expired where the database is a file;
            a server goes by its own clock, and what this one says is only how much time has passed.
    """

    name = "sql"
    priority = 50
    capabilities = _Able()

    def __init__(
        self,
        database: Database,
        namespace: str = "default",
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        super().__init__(database, TABLES)
        self.namespace = check_namespace(namespace)
        self.limits = limits or database.settings.limits
        self.clock = clock or time.time
        self.on_change = on_change
        writer = partial(NamespaceWriter, limits=self.limits, clock=self.clock, ticks=clock or time.monotonic)
        self._writer = lru_cache(maxsize=4096)(writer)  # of a namespace; every view shares it
        self._reader = lru_cache(maxsize=4096)(partial(_reader, clock=self.clock))

    @property
    @override
    def where(self) -> str:
        """What tells its database from every other one; of a file the real path."""
        where = self.database.where
        return os.path.realpath(where) if where.startswith("/") else where

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        outcomes = await self._write_each(self._writer(self.namespace), operations, ("put", self.namespace))
        if self.on_change is not None:
            self._announce(changes_of(self.namespace, operations, outcomes))
        return outcomes

    @override
    async def _get(self, id: str, version: int | None) -> Datum | None:
        return await self._read_each(self._reader(self.namespace), (id, version), ("get", self.namespace))

    @override
    async def _get_many(self, ids: Names) -> dict[str, Datum]:
        return await self._read(self._here(reads.get_many, ids, self.clock()), short=len(ids) <= SHORT)

    @override
    async def _count(self, prefix: str | None) -> int:
        return await self._read(self._here(reads.count, prefix, self.clock()))

    @override
    async def _query(self, query: Query) -> Page:
        short = query.limit <= SHORT and covers(query) and query.as_of is None
        return await self._read(self._here(queries.query, query, self.clock()), short=short)

    @override
    async def _keys(self, query: Query) -> KeyPage:
        return await self._read(self._here(key_listing.keys, query, self.clock()), short=query.limit <= SHORT)

    @override
    async def _segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        work = self._here(key_listing.segments, listing, limit, cursor, self.clock())
        try:
            return await self._read(work, short=limit <= SHORT)
        except Corrupt:  # an id is damaged, past which `keys` comes
            return await super()._segments(listing, limit, cursor)

    async def search(self, index: str, question: Any, *, limit: int = DEFAULT_LIMIT) -> list[Datum]:
        """Return the first live datums that answer a question to an index, the best first.

        Raises:
            InvalidInput: there is no such index, or it does not take such a question.
            SchemaOutdated: the index is not there, and this store cannot make it.
        """
        found, most = datum_index.named(index), self.limits.page(limit)
        work = self._here(queries.search, found, question, most, self.clock())
        return await self._run(lambda runner: runner.read(work))

    @override
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        now, most = self.clock(), self.limits.max_chain
        work = self._here(causal_reads.causal_chain, id, now, most, version=version, as_of=as_of, limit=limit)
        return await self._read(work, short=limit is not None and limit <= SHORT)

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        check_key(id)
        return await self._read(self._here(is_parent, id), short=True)

    @override
    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        return await self._read(self._here(reads.history, id, limit, before))

    @override
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        return await self._write(self._here(erasure.compact, self.clock, keep_versions, older_than))

    @override
    async def _erase(self, asked: Erasure, *, vacuum: bool) -> Erased:
        if vacuum and self.is_joined:
            raise InvalidInput("nothing is vacuumed within a transaction: erase without it, and once more after it")
        erased, namespaces = await self._write(self._here(erasure.erase, asked))
        self._announce([Change("erase", namespace, asked.prefix or "") for namespace in namespaces])
        if vacuum:
            await self.database.vacuum(self.table_set.names)
        return erased

    @override
    async def _namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        return await self._read(lambda connection: key_listing.namespaces(connection, listing, limit, cursor))

    @override
    async def is_available(self) -> bool:
        return await self.database.is_available()

    @override
    async def _head(self) -> int:
        return await self._read(self._here(reads.head), short=True)

    @override
    async def _seq_at(self, time: float) -> int:
        return await self._read(self._here(changes.seq_at, time), short=True)

    @override
    async def _changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        return await self._read(self._here(changes.changes, after_seq, until, limit), short=limit <= SHORT)

    @override
    async def stats(self) -> StoreStats:
        return await self._read(self._here(reads.stats, self.clock()))

    @override
    async def status(self) -> Mapping[str, object]:
        return {
            **await super().status(),
            "where": self.database.what,
            "available": await self.is_available(),
            "read_only": self.database.read_only,
        }

    @override
    async def close(self) -> None:
        await self.database.close()

    def _here(self, work: _Work[P, T], *values: P.args, **named: P.kwargs) -> Callable[[Connection], T]:
        """Return work as it is done in this namespace."""
        return lambda connection: work(connection, self.namespace, *values, **named)

    async def _look(self) -> None:
        """Learn whether they may be written."""
        await self.database.look(self.table_set.names)

    def _announce(self, changes: list[Change]) -> None:
        if self.on_change is not None and changes:
            self._after_commit(lambda: announce(self.on_change, changes))


def _reader(namespace: str, clock: Callable[[], float]) -> Each[tuple[str, int | None], Datum | None]:
    """Return the work that reads what is asked for in a namespace at the same time."""

    def read(connection: Connection, asked: list[tuple[str, int | None]]) -> list[Datum | Exception | None]:
        if len(asked) == 1:
            id, version = asked[0]
            return [reads.get(connection, namespace, id, version, clock())]
        return reads.get_each(connection, namespace, asked, clock())

    return read
