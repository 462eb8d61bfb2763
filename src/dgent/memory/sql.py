"""Agent memory in a SQL database: the verbs of a `Backend` over whatever runs SQL."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Self, TypeAlias, TypeVar

from dgent.checks import (
    as_list,
    check_id,
    check_limit,
    check_namespace,
    check_time,
    check_ttl,
    check_version,
    checked_ids,
)
from dgent.database.sql_store import SqlStore
from dgent.datum import Datum, Limits
from dgent.exceptions import DgentError, StorageError
from dgent.memory import sql_erase, sql_read
from dgent.memory.change import Change, OnChange, announce
from dgent.memory.sql_fresh import Writer
from dgent.memory.sql_write import Delete, Operation, Outcome, Put, is_parent
from dgent.memory.tables import TABLES
from dgent.memory.terms import covers
from dgent.protocol import TTL, Capabilities, Datums, Names, Revisions, StoreStats
from dgent.query import DEFAULT_LIMIT, Order, Page, Query, checked_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Connection

    from dgent.database import Database

T = TypeVar("T")
P = ParamSpec("P")
_Work: TypeAlias = "Callable[Concatenate[Connection, str, P], T]"

_ALL: Final = Capabilities()
_READ_ONLY: Final = replace(_ALL, writable=False)
SHORT: Final = 200
"""Reads of no more rows than this count as short: they may run on the caller's own thread."""


# Inside of the class, `list` is the verb; these are the type.
_Operations: TypeAlias = list[Operation]
_Outcomes: TypeAlias = list[Outcome]
_Changes: TypeAlias = list[Change]
_Asked: TypeAlias = list[tuple[str, int | None]]
_Answers: TypeAlias = list[Datum | Exception | None]


class _Able:
    """The capabilities of a store: of its class all, of one that can only be read all but that one."""

    def __get__(self, store: SqlBackend | None, owner: object = None) -> Capabilities:
        try:
            return _ALL if store is None or not store.database.read_only else _READ_ONLY
        except DgentError:  # nobody can look at the file: who opens it hears why
            return _ALL


class SqlBackend(SqlStore):
    """A `Backend` in the tables of `dgent.memory.tables`, which it makes on first use.

    What each verb does is said in `DgentProtocol`.

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
        if not database.durable:
            self.capabilities = replace(self.capabilities, durable=False, shared=False)
        self.limits = limits or database.settings.limits
        self.clock = clock or time.time
        self.on_change = on_change
        writer = partial(Writer, limits=self.limits, clock=self.clock, ticks=clock or time.monotonic)
        self._writer = lru_cache(maxsize=4096)(writer)  # of a namespace; every view shares it

    def within(self, namespace: str) -> Self:
        """Return the same store under another namespace; closing either closes both."""
        other = copy.copy(self)
        other.namespace = check_namespace(namespace)
        return other

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Store a datum and return it with the version and seq that it got."""
        (outcome,) = await self._apply([Put(datum, expect, ttl)])
        return _stored(outcome)

    async def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> Datums:
        """Store many datums in order, all or none."""
        seconds = check_ttl(ttl)
        outcomes = await self._apply([Put(datum, None, seconds) for datum in as_list(datums, "datums")])
        return [_stored(outcome) for outcome in outcomes]

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the live datum, or the one that was put as `version`."""
        check_id(id)
        if self._ready.store_id is None:
            await self.prepare()
        asked = (id, version if version is None else check_version(version))
        return await self._runner.read_each(self._get_each, asked, ("get", self.namespace))

    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return the live ones of these ids, by id, in the order asked."""
        asked = checked_ids(ids)
        return await self._read(self._here(sql_read.get_many, asked, self.clock()), short=len(asked) <= SHORT)

    async def delete(self, id: str, *, expect: int | None = None) -> bool:
        """Append a tombstone; tell whether there was a live datum."""
        (outcome,) = await self._apply([Delete(id, expect)])
        return outcome.changed

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Delete many in one transaction and return how many were live."""
        outcomes = await self._apply([Delete(id) for id in checked_ids(ids)])
        return sum(outcome.changed for outcome in outcomes)

    async def exists(self, id: str) -> bool:
        """Tell whether a live datum has this id."""
        return await self.get(id) is not None

    async def count(self, *, prefix: str | None = None) -> int:
        """Return how many live datums there are."""
        return await self._read(self._here(sql_read.count, Query(prefix=prefix).prefix, self.clock()))

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

    async def query(self, query: Query) -> Page:
        """Return a page of the live datums that match."""
        self.limits.page(checked_query(query).limit)
        short = query.limit <= SHORT and covers(query)
        return await self._read(self._here(sql_read.query, query, self.clock()), short=short)

    async def causal_chain(self, id: str) -> Datums:
        """Return the live datum and its live ancestors, oldest first."""
        check_id(id)
        return await self._read(self._here(sql_read.causal_chain, id, self.clock(), self.limits.max_chain))

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
        check_id(id)
        return await self._read(self._here(is_parent, id), short=True)

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        """Return the stored versions of an id, oldest first: the last `limit` of those below version `before`."""
        check_id(id)
        self.limits.page(limit)
        return await self._read(self._here(sql_read.history, id, limit, check_version(before, "before")))

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Return a page of what was live at a moment, in the order of the ids."""
        self.limits.page(limit)
        work = self._here(sql_read.as_of, check_time(time, "time"), Query(prefix=prefix).prefix, limit, cursor)
        return await self._read(work)

    async def purge(self, id: str) -> int:
        """Erase every version of an id for good and return how many there were."""
        check_id(id)
        went = await self._write(self._here(sql_erase.purge, [id]))
        if went:
            self._announce([Change("purge", self.namespace, id)])
        return went

    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        """Erase expired datums and old versions, and return how many versions went."""
        keep = None if keep_versions is None else check_limit(keep_versions, "keep_versions")
        horizon = None if older_than is None else check_time(older_than, "older_than")
        return await self._write(self._here(sql_erase.compact, self.clock, keep, horizon))

    async def namespaces(self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT) -> Names:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""
        self.limits.page(limit)
        wanted = None if prefix is None else check_namespace(prefix)
        return await self._read(lambda connection: sql_read.namespaces(connection, wanted, limit))

    async def is_available(self) -> bool:
        """Tell whether the store answers a real probe now."""
        return await self.database.is_available()

    async def head(self) -> int:
        """Return the highest seq of the namespace; 0 where nothing was ever put."""
        return await self._read(self._here(sql_read.head), short=True)

    async def stats(self) -> StoreStats:
        """Return what the namespace holds."""
        return await self._read(self._here(sql_read.stats, self.clock()))

    async def status(self) -> Mapping[str, object]:
        """Return the name, where it lies, whether it answers, and what it can do."""
        return {
            "name": self.name,
            "where": self.database.what,
            "namespace": self.namespace,
            "available": await self.is_available(),
            "read_only": self.database.read_only,
            "capabilities": str(self.capabilities),
        }

    async def close(self) -> None:
        """Wait for what was acknowledged, then release every connection and thread."""
        await self.database.close()

    def _get_each(self, connection: Connection, asked: _Asked) -> _Answers:
        if len(asked) == 1:
            id, version = asked[0]
            return [sql_read.get(connection, self.namespace, id, version, self.clock())]
        return sql_read.get_each(connection, self.namespace, asked, self.clock())

    async def _apply(self, operations: _Operations) -> _Outcomes:
        if self._ready.store_id is None:
            await self.prepare()
        outcomes = await self._runner.write_each(self._writer(self.namespace), operations, ("put", self.namespace))
        if self.on_change is not None:
            self._announce(_changes(self.namespace, operations, outcomes))
        return outcomes

    def _here(self, work: _Work[P, T], *values: P.args, **named: P.kwargs) -> Callable[[Connection], T]:
        """Return work as it is done in this namespace."""
        return lambda connection: work(connection, self.namespace, *values, **named)

    async def _look(self) -> None:
        """Learn whether they may be written."""
        await self.database.look([table.name for table in self.table_set.metadata.sorted_tables])

    def _announce(self, changes: _Changes) -> None:
        if self.on_change is not None and changes:
            self._after_commit(lambda: announce(self.on_change, changes))


def _stored(outcome: Outcome) -> Datum:
    if outcome.datum is None:
        raise StorageError("a put was answered without its datum")
    return outcome.datum


def _changes(namespace: str, operations: list[Operation], outcomes: list[Outcome]) -> list[Change]:
    return [
        Change("put", namespace, operation.datum.id, outcome.version, outcome.seq)
        if isinstance(operation, Put)
        else Change("delete", namespace, operation.id, outcome.version, outcome.seq)
        for operation, outcome in zip(operations, outcomes, strict=True)
        if outcome.changed
    ]
