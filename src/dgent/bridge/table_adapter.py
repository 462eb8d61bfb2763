"""A typed table as a store of datums: the bridge from application state to agent memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm.util import identity_key

from dgent.bridge import table_query, table_sql, table_update, table_write
from dgent.bridge.draft import given_by
from dgent.bridge.layout import Layout, check_mapped, layout_of
from dgent.bridge.session_runner import SessionRunner
from dgent.bridge.table_write import Put
from dgent.checks import as_list, called, check_expect, check_id, check_kind, checked_ids
from dgent.database import Database, Runner, Transaction
from dgent.datum import Datum, Limits
from dgent.exceptions import CapabilityMissing, InvalidDatum, InvalidInput, VersionConflict
from dgent.memory.change import Change, OnChange, announce
from dgent.protocol import TTL, Capabilities, Datums, Revisions
from dgent.query import DEFAULT_LIMIT, Order, Page, Query, checked_query

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.database.base import Each, Work

T = TypeVar("T")
P = ParamSpec("P")
_Work: TypeAlias = Callable[Concatenate[Connection, Layout, P], T]
_Puts: TypeAlias = list[Put]  # inside of the class, `list` is the verb
_Key: TypeAlias = list[Any]
_Ids: TypeAlias = list[str]
_Keys: TypeAlias = list[_Key]
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

SHORT: Final = 200
"""Reads of no more rows than this count as short: they may run on the caller's own thread."""


class TableAdapter:
    """Lift a mapped class into `DgentProtocol`: each row is a datum, as `dgent.bridge.layout` says.

    A put replaces the row, as `dgent.bridge.draft` says; it is one upsert, and `expect=` compares the version column in
    the same statement. A table keeps one version of a row, so there is no history, no seq and no
    ttl: `ttl="keep"` finds nothing to keep.

    Args:
        model: the mapped class; one table, whose columns have the types of `dgent.bridge.codec`.
        runner: a `Database`, a `Transaction` of it, or whatever makes an AsyncSession, such as an async_sessionmaker.
        id_field: the attribute that is the id, unique and never null; the primary key unless it is given.
        hidden: attributes that are neither shown nor written.
        limits: what one call may cost; those of the database's settings unless they are given.
        on_change: is told of each row that a commit of this adapter wrote or deleted, under `namespace`.

    Attributes:
        namespace: what the table goes by in changes, `table/<its name>`.
        database: where it lies; None for sessions that a host application makes.

    Raises:
        InvalidInput: the model is no mapped class, or the runner runs no SQL.
        CapabilityMissing: a column has a type that has no form in JSON, or the class more than one table.
        InvalidRow: `id_field` or `hidden` name no column that can be that.
    """

    name = "table"

    def __init__(
        self,
        model: type[Any],
        runner: Runner | Callable[[], AsyncSession],
        *,
        id_field: str | None = None,
        hidden: Iterable[str] = (),
        limits: Limits | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        check_mapped(model)
        self.model = model
        self.layout = layout_of(model, id_field, frozenset(as_list(hidden, "hidden columns")))  # type: ignore[arg-type]  # classes are hashable
        self.table = self.layout.name
        self.namespace = f"table/{self.table}"
        self.on_change = on_change
        self.database = _database_of(runner)
        self.limits = limits or (runner.settings.limits if isinstance(runner, Database) else Limits())
        lasts = not isinstance(runner, Database) or runner.durable
        self.capabilities = Capabilities(
            durable=lasts,
            shared=lasts,
            history=False,
            ttl=False,
            schema_free=False,
            causal=self.layout.parent is not None,
            versioned=self.layout.version is not None,
            indexed=self.layout.tag_table is not None,
        )
        self._runner: Runner = SessionRunner(runner) if callable(runner) else runner
        if not hasattr(self._runner, "write_each"):
            raise InvalidInput(
                f"{called(runner)} runs no SQL: pass a Database, an async_sessionmaker, or use storage.table(Model)"
            )

    def joined(self, runner: Runner) -> Self:
        """Return the same table as part of an open transaction."""
        other = copy.copy(self)
        other._runner = runner  # a copy of this class
        return other

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Write the row that a datum describes and return it as it is stored.

        `expect=0`, that there is no row, is known without a version column, too.

        Raises:
            InvalidRow: names the table, the field and the reason.
            VersionConflict: another version than `expect` is live.
            CausalCycle: the parent descends from this row.
            IntegrityViolation: a key, a check or a reference refused it.
        """
        self._refuse(ttl=None if ttl == "keep" else ttl, expect=check_expect(expect) or None)
        (stored,) = await self._put([self._admitted(datum, expect)])
        return stored

    async def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> Datums:
        """Write many rows in order, all or none."""
        self._refuse(ttl=None if ttl == "keep" else ttl)
        puts = [self._admitted(datum) for datum in as_list(datums, "datums")]
        return await self._put(puts) if puts else []

    async def update(self, id: str, changes: Mapping[str, Any], given: Mapping[str, Any] = _NOTHING) -> Datum:
        """Write some columns of a row if those `given` are still as they were read, and return the row as stored.

        Both are JSON forms by the names of columns, as the content shows them. Other columns stay as they are, whoever
        writes them meanwhile; what stamps a change is stamped, and the version raised. Where nothing changes, nothing
        is written. A host's own session on SQLite compares safely only where the table has a version column.

        Raises:
            DatumNotFound: there is no such row.
            VersionConflict: a given column is not as it was read.
            InvalidRow, CausalCycle, IntegrityViolation: as for `put`.
        """
        check_kind(changes, Mapping, "pass a dict of columns and their new values")
        asked = table_update.admitted(self.layout, id, self._key_of(id), changes, given)
        try:
            stored, changed = await self._write(table_update.write, asked, self.limits)
        except VersionConflict as error:
            raise table_update.conflict(self.layout, asked, error.actual) from None
        if changed:
            self._announce([Change("put", self.namespace, stored.id, stored.version)])
        await self._refresh([asked.key])
        return stored

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the row."""
        key = self._key_of(id)
        self._refuse(version=version)
        if key is None:
            return None
        return await self._read(True, table_sql.get, key)

    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return the rows with these ids, by id, in the order asked."""
        asked = self._checked(ids)
        return await self._read(len(asked) <= SHORT, table_sql.get_many, asked)

    async def delete(self, id: str, *, expect: int | None = None) -> bool:
        """Delete the row; tell whether it was there."""
        key = self._key_of(id)
        self._refuse(expect=check_expect(expect))
        if key is None:
            return False
        went = await self._write(table_write.remove, id, key, expect)
        self._forget(key)
        if went:
            self._announce([Change("delete", self.namespace, id)])
        return went

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Delete many rows in one transaction and return how many were there."""
        keys = {id: key for id in self._checked(ids) if (key := self.layout.key_of(id)) is not None}
        went = await self._write(table_write.remove_all, keys)
        for key in keys.values():
            self._forget(key)
        self._announce([Change("delete", self.namespace, id) for id in went])
        return len(went)

    async def exists(self, id: str) -> bool:
        """Tell whether a row has this id."""
        key = self._key_of(id)
        return key is not None and await self._read(True, table_sql.exists, key)

    async def count(self, *, prefix: str | None = None) -> int:
        """Return how many rows there are, or how many whose id starts with `prefix`."""
        return await self._read(False, table_sql.count, Query(prefix=prefix).prefix)

    async def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """Return a page of rows, the newest first; by the key where the table has no `created_at`."""
        return await self.query(Query(prefix=prefix, after=after, limit=limit, cursor=cursor, order=order))

    async def query(self, query: Query) -> Page:
        """Return a page of the rows that match."""
        self.limits.page(checked_query(query).limit)
        if query.order == "seq" or query.after_seq is not None:
            raise CapabilityMissing(f"{self.layout.name} keeps no seq: order by newest or oldest")
        short = query.limit <= SHORT and not (query.conditions or query.tags)
        return await self._read(short, table_query.query, query)

    async def causal_chain(self, id: str) -> Datums:
        """Return the row and its ancestors, oldest first."""
        key = self._key_of(id)
        self.capabilities.require("causal", self.layout.name)
        if key is None:
            return []
        return await self._read(True, table_sql.causal_chain, key, self.limits.max_chain)

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        """Refuse: a row has no versions that stay.

        Raises:
            CapabilityMissing: always.
        """
        raise self._no_history()

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Refuse: a row has no versions that stay.

        Raises:
            CapabilityMissing: always.
        """
        raise self._no_history()

    async def purge(self, id: str) -> int:
        """Delete the row, which has no other versions, and return how many there were."""
        return int(await self.delete(id))

    def _key_of(self, id: str) -> _Key | None:
        """Return the key that an id names, or None if it is none of this table's.

        An id of several columns may be longer than others are, since each of its parts may be as long as they.
        """
        key = self.layout.key_of(id) if len(self.layout.keys) > 1 and isinstance(id, str) else None
        if key is None:
            check_id(id)
            key = self.layout.key_of(id)
        return key

    def _checked(self, ids: Iterable[str]) -> _Ids:
        if len(self.layout.keys) == 1:
            return checked_ids(ids)
        asked = as_list(ids, "ids")
        for id in asked:
            self._key_of(id)
        return [*dict.fromkeys(asked)]

    def _admitted(self, datum: Datum, expect: int | None = None) -> Put:
        if not isinstance(datum, Datum):
            raise InvalidDatum(f"{type(datum).__name__} is not a Datum: make one with Datum.create(...)")
        self.limits.admit(datum)
        given = given_by(self.layout, datum)
        return Put(datum.id, [given[field.name] for field in self.layout.keys], given, expect)

    async def _put(self, puts: _Puts) -> Datums:
        stored, changed = await self._write(table_write.put_all, puts)
        self._announce([Change("put", self.namespace, stored[at].id, stored[at].version) for at in changed])
        await self._refresh([put.key for put in puts])
        return stored

    async def _refresh(self, keys: _Keys) -> None:
        """Let the session of this transaction see what was written past it."""
        if isinstance(self._runner, Transaction):
            for key in keys:
                if (held := self._held(key)) is not None:
                    await self._runner.session.refresh(held)

    def _forget(self, key: Sequence[Any]) -> None:
        if isinstance(self._runner, Transaction) and (held := self._held(key)) is not None:
            self._runner.session.expunge(held)

    def _held(self, key: Sequence[Any]) -> object | None:
        """Return the instance that the session of this transaction holds of a row: it must not keep the old values."""
        if not isinstance(self._runner, Transaction) or not self.layout.is_primary:
            return None
        return self._runner.session.sync_session.identity_map.get(identity_key(self.model, tuple(key)))

    async def _read(self, short: bool, work: _Work[P, T], *args: P.args, **named: P.kwargs) -> T:
        return await self._runner.read(lambda connection: work(connection, self.layout, *args, **named), short=short)

    async def _write(self, work: _Work[P, T], *args: P.args, **named: P.kwargs) -> T:
        each: Each[Work[T], T] = table_write.apart
        lane = ("table", self.table)
        return await self._runner.write_each(
            each, lambda connection: work(connection, self.layout, *args, **named), lane
        )

    def _announce(self, changes: Sequence[Change]) -> None:
        if self.on_change is not None and changes:
            self._runner.after_commit(lambda: announce(self.on_change, changes))

    def _refuse(self, **asked: object) -> None:
        wanted = {"ttl": "ttl", "version": "history", "expect": "versioned"}
        for name, capability in wanted.items():
            if asked.get(name) is not None:
                self.capabilities.require(capability, self.layout.name)

    def _no_history(self) -> CapabilityMissing:
        return CapabilityMissing(
            f"{self.layout.name} keeps one version of each row: put into agent memory what needs a history"
        )


def _database_of(runner: object) -> Database | None:
    if isinstance(runner, Transaction):
        return runner.database
    return runner if isinstance(runner, Database) else None
