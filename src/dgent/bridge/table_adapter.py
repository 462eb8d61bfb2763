"""A typed table as a store of datums: the bridge from application state to agent memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm.util import identity_key
from typing_extensions import override

from dgent.bridge import table_keys, table_query, table_sql, table_update, table_write
from dgent.bridge.from_datum import given_by
from dgent.bridge.mapping import TableMapping, check_mapped, mapping_of
from dgent.bridge.table_write import RowDelete, RowPut
from dgent.capabilities import Capabilities
from dgent.error_messages import called
from dgent.exceptions import CapabilityMissing, InvalidInput, VersionConflict
from dgent.limits import Limits
from dgent.memory.change import Change, OnChange, announce
from dgent.operations import Delete, Purge, Touch
from dgent.sql import Database, Runner, Transaction
from dgent.sql.runner import SHORT, SessionRunner
from dgent.sql.savepoints import apart
from dgent.store_base import StoreBase
from dgent.validation import as_list, check_key, check_kind

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from dgent.datum import Datum
    from dgent.name_listing import SegmentListing
    from dgent.operations import Operation
    from dgent.page import KeyPage, Page
    from dgent.query import Query
    from dgent.sql.runner import Each, Work
    from dgent.store import Datums, Outcomes

T = TypeVar("T")
P = ParamSpec("P")
_Work: TypeAlias = Callable[Concatenate[Connection, TableMapping, P], T]
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class TableAdapter(StoreBase):
    """Lift a mapped class into `DgentProtocol`: each row is a datum, as `dgent.bridge.mapping` says.

    A put replaces the row, as `dgent.bridge.from_datum` says; it is one upsert, and `expect=` compares the version
    column in the same statement. A table keeps one version of a row, so there is no history, no seq and no ttl:
    `ttl="keep"` finds nothing to keep, and a purge deletes the row. `expect=0`, that there is no row, is known without
    a version column, too. A put also raises InvalidRow, which names the table, the field and the reason, and
    IntegrityViolation where a key, a check or a reference refuses the row. Every verb raises InvalidRow for another
    spelling of an id: see `dgent.bridge.row_id`.

    Args:
        model: the mapped class; one table, whose columns have the types of `dgent.bridge.column_codec`.
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
        self.mapping = mapping_of(model, id_field, frozenset(as_list(hidden, "hidden columns")))  # type: ignore[arg-type]  # classes are hashable
        self.table = self.mapping.name
        self.namespace = f"table/{self.table}"
        self.on_change = on_change
        self.database = _database_of(runner)
        self.limits = limits or (runner.settings.limits if isinstance(runner, Database) else Limits())
        lasts = not isinstance(runner, Database) or runner.durable
        self._capabilities = Capabilities(
            durable=lasts,
            shared=lasts,
            history=False,
            ttl=False,
            schema_free=False,
            causal=self.mapping.parent is not None,
            versioned=self.mapping.version is not None,
            indexed=self.mapping.tag_table is not None,
        )
        self._given: Runner = SessionRunner(runner) if callable(runner) else runner
        if not hasattr(self._given, "write_each"):
            raise InvalidInput(
                f"{called(runner)} runs no SQL: pass a Database, an async_sessionmaker, or use storage.table(Model)"
            )

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def joined(self, runner: Runner) -> Self:
        """Return the same table as part of an open transaction."""
        other = copy.copy(self)
        other._given = runner  # a copy of this class
        return other

    @property
    def _runner(self) -> Runner:
        """What runs its SQL: of a database the transaction that this task has open, if there is one."""
        return self._given.runner() if isinstance(self._given, Database) else self._given

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        rows = [self._admitted(one) for one in operations]
        outcomes = await self._write(table_write.apply_all, rows)
        self._announce(
            [
                Change("delete" if outcome.datum is None else "put", self.namespace, row.id, outcome.version)
                for row, outcome in zip(rows, outcomes, strict=True)
                if outcome.changed
            ]
        )
        for row in rows:
            if isinstance(row, RowDelete) and row.key is not None:
                self._forget(row.key)
        await self._refresh([row.key for row in rows if isinstance(row, RowPut)])
        return [
            outcome._replace(erased=int(outcome.changed)) if isinstance(one, Purge) else outcome
            for one, outcome in zip(operations, outcomes, strict=True)
        ]

    async def update(self, id: str, changes: Mapping[str, Any], given: Mapping[str, Any] = _NOTHING) -> Datum:
        """Write some columns of a row if those `given` are still as they were read, and return the row as stored.

        Both are JSON forms by the names of columns, as the content shows them. Other columns stay as they are, whoever
        writes them meanwhile; what stamps a change is stamped, and the version raised. Where nothing changes, nothing
        is written. A host's own session on SQLite compares safely only where the table has a version column.

        Raises:
            DatumNotFound: there is no such row.
            VersionConflict: a given column is not as it was read.
            InvalidRow: as for `put`.
            CausalCycle: as for `put`.
            IntegrityViolation: as for `put`.
        """
        check_kind(changes, Mapping, "pass a dict of columns and their new values")
        asked = table_update.admitted(self.mapping, id, self.mapping.key_of(check_key(id)), changes, given)
        try:
            stored, changed = await self._write(table_update.write, asked, self.limits)
        except VersionConflict as error:
            raise table_update.conflict(self.mapping, asked, error.actual) from None
        if changed:
            self._announce([Change("put", self.namespace, stored.id, stored.version)])
        await self._refresh([asked.key])
        return stored

    @override
    async def _get(self, id: str, version: int | None) -> Datum | None:
        key = self.mapping.key_of(id)
        return None if key is None else await self._read(True, table_sql.get, key)

    @override
    async def _get_many(self, ids: list[str]) -> dict[str, Datum]:
        return await self._read(len(ids) <= SHORT, table_sql.get_many, ids)

    @override
    async def exists(self, id: str) -> bool:
        key = self.mapping.key_of(check_key(id))
        return key is not None and await self._read(True, table_sql.exists, key)

    @override
    async def _count(self, prefix: str | None) -> int:
        return await self._read(False, table_sql.count, prefix)

    @override
    async def _query(self, query: Query) -> Page:
        """Return a page of the rows that match; "newest" goes by the key where the table has no `created_at`."""
        if query.ordered_by == "seq" or {"after_seq", "before_seq"} & query.asked:
            raise CapabilityMissing(f"{self.mapping.name} keeps no seq: order by newest, oldest or id")
        short = query.limit <= SHORT and not (query.conditions or query.tags)
        return await self._read(short, table_query.query, query)

    @override
    async def _segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        """Return a page of segments; those of a key that is not one text are found by reading all keys."""
        return await self._read(False, table_keys.segments, listing, limit, cursor)

    @override
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        key = self.mapping.key_of(id)
        return [] if key is None else await self._read(True, table_sql.causal_chain, key, self.limits.max_chain, limit)

    @property
    @override
    def _called(self) -> str:
        return self.mapping.name

    def _admitted(self, operation: Operation) -> RowPut | RowDelete:
        datum, expect = operation.datum, operation.expect
        if expect is not None and (expect or datum is None):
            self.capabilities.require("versioned", self._called)
        if isinstance(operation, Touch):
            self.capabilities.require("ttl", self._called)
        if isinstance(operation, Delete) and operation.note != "{}":
            self.capabilities.require("history", self._called)
        if datum is None:
            return RowDelete(operation.id, self.mapping.key_of(operation.id), expect)
        if operation.ttl is not None and operation.ttl != "keep":
            self.capabilities.require("ttl", self._called)
        self.limits.admit(datum)
        given = given_by(self.mapping, datum)
        return RowPut(datum.id, [given[field.name] for field in self.mapping.keys], given, expect)

    async def _refresh(self, keys: list[list[Any]]) -> None:
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
        if not isinstance(self._runner, Transaction) or not self.mapping.is_primary:
            return None
        return self._runner.session.sync_session.identity_map.get(identity_key(self.model, tuple(key)))

    async def _read(self, short: bool, work: _Work[P, T], *args: P.args, **named: P.kwargs) -> T:
        return await self._runner.read(lambda connection: work(connection, self.mapping, *args, **named), short=short)

    async def _write(self, work: _Work[P, T], *args: P.args, **named: P.kwargs) -> T:
        each: Each[Work[T], T] = apart
        batch_key = ("table", self.table)
        return await self._runner.write_each(
            each, lambda connection: work(connection, self.mapping, *args, **named), batch_key
        )

    def _announce(self, changes: Sequence[Change]) -> None:
        if self.on_change is not None and changes:
            self._runner.after_commit(lambda: announce(self.on_change, changes))


def _database_of(runner: object) -> Database | None:
    if isinstance(runner, Transaction):
        return runner.database
    return runner if isinstance(runner, Database) else None
