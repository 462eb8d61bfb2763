"""The backend that a service takes: the first of a chain that answers, and no silence when it is not the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from typing_extensions import override

from dgent.datum import as_datetime
from dgent.delivery import RESERVED, entry_key
from dgent.exceptions import CapabilityMissing, InvalidNamespace
from dgent.memory.failover.builder import ChainBuilder, Policy
from dgent.memory.failover.manifest import ManifestFile
from dgent.memory.failover.observed_versions import ObservedVersions
from dgent.memory.failover.routing import NamespaceRouting
from dgent.memory.failover.state import FailoverState
from dgent.memory.sql.backend import SqlBackend
from dgent.settings import Settings
from dgent.sql import database_of
from dgent.store_base import BackendBase
from dgent.validation import check_key, check_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dgent.capabilities import Capabilities
    from dgent.change_page import ChangePage
    from dgent.datum import Datum
    from dgent.delivery import DeliveryReport, QueuedWrite
    from dgent.erasure_request import Erased, Erasure
    from dgent.memory.event_bus import DataBus, Event
    from dgent.name_listing import NamespaceListing, SegmentListing
    from dgent.operations import Operation
    from dgent.page import KeyPage, Page
    from dgent.query import Query
    from dgent.sql import Database, Runner
    from dgent.store import Backend, Datums, Names, Outcomes, Revisions, StoreStats


class DgentRouter(BackendBase):
    """A `Backend` over a chain of them.

    It opens the first store of the chain at the first verb, or at `open`. While that is out of reach, writes wait in a
    later store (always, if it was so at the start; in mid-run, if `spill` is on) and are delivered when it is back. A
    put that waits answers with version and seq 0, a delete with True, `delete_many` and `touch` with how many ids they
    were given: what they will be is not known yet. A batch waits whole or not at all, and is delivered write by write;
    an erasure that waits is applied before all of them, and says so in `Erased.pending`. What depends on the live
    datum, `expect=` and `ttl="keep"`, is refused meanwhile with BackendUnavailable, and so is `purge`.

    While they are delivered, a verb about some ids brings what waits for these in first. All others, and `expect=`,
    wait for the rest, up to `delivery_timeout`: then they raise DeliveryPending.

    In the task of an open transaction of `database` the verbs take part in it, where the first store lies in that, and
    are refused with TransactionOpen where it does not.

    Args:
        settings: where things lie, and the defaults of the other arguments.
        database: the open database that the settings name, so that both tracks share it.
        backends: the chain, in the order of preference, instead of the one in the settings. They do not tell the bus
            of changes unless they were made with `on_change=bus.publish`.
        force_backend: the name of the one that must serve; it alone is the chain.
        strict: the first of the chain must serve, else opening is an error.
        spill: take writes when the first goes out of reach in mid-run.
        bus: is told of puts, deletes, purges, degradation and recovery.

    Raises:
        UnknownBackend: a name that no backend has.
        BackendUnavailable: nothing is configured for the forced name.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        database: Database | None = None,
        backends: Sequence[Backend] | None = None,
        namespace: str | None = None,
        force_backend: str | None = None,
        strict: bool | None = None,
        spill: bool | None = None,
        bus: DataBus | None = None,
    ) -> None:
        loaded = Settings.load() if settings is None else settings
        check_kind(loaded, Settings, "pass Settings.load(...), or nothing")
        policy = Policy(
            order=loaded.chain if backends is None and force_backend is None else (),
            strict=loaded.strict if strict is None else strict,
            spill=loaded.spill if spill is None else spill,
            patience=loaded.delivery_timeout,
            limits=loaded.limits,
        )
        self._database = database
        observed, tell = ObservedVersions(), None if bus is None else bus.publish
        builder = ChainBuilder(loaded, database, observed.noting(tell) if policy.spill else tell)
        chain, manifest = builder.chain(backends, force_backend), ManifestFile(loaded.manifest_path)
        self.limits = loaded.limits
        self._failover = FailoverState(chain, manifest, policy, tell or _ignore, observed)
        default = backends[0].namespace if backends else loaded.namespace
        self._enter(default if namespace is None else namespace)

    @override
    def _enter(self, namespace: str) -> None:
        super()._enter(namespace)
        if namespace.partition("/")[0] == RESERVED:
            raise InvalidNamespace(f"namespace {namespace!r} is reserved for what the router keeps: choose another")
        self._routing = NamespaceRouting(self._failover, namespace, self.limits, self._database)

    @property
    @override
    def name(self) -> str:
        """The kind of the store that serves."""
        return self._failover.serving.name

    @property
    @override
    def where(self) -> str:
        """Where the first store of the chain lies, whichever serves."""
        return self._failover.first.where

    @property
    @override
    def priority(self) -> int:
        """The place of the store that serves."""
        return self._failover.serving.priority

    @property
    @override
    def capabilities(self) -> Capabilities:
        """What the router can do now: that of the first store, or the little that is left while it is out of reach."""
        return self._failover.capabilities

    @property
    def serving(self) -> Backend:
        """The first store, under this namespace, for what goes beyond the verbs.

        Raises:
            BackendUnavailable: it is out of reach, or the router was not opened.
            DeliveryPending: writes are on their way to it: see `settled`.
        """
        if not self._failover.normal:
            raise self._failover.refusal("transactions and reconcile() need it")
        return self._routing.first

    @property
    def is_settled(self) -> bool:
        """Whether the first store serves and nothing waits for it."""
        return self._failover.normal

    async def settled(self) -> Backend:
        """Return the first store, under this namespace, when nothing waits for it any more.

        Raises:
            BackendUnavailable: it is out of reach.
            DeliveryPending: it takes longer than `delivery_timeout`.
        """
        if not self._failover.opened:
            await self._failover.open()
        await self._failover.settled()
        return self.serving

    def joined(self, transaction: Runner) -> SqlBackend:
        """Return the same store as part of an open transaction of its database.

        Raises:
            CapabilityMissing: the store that serves takes no part in transactions.
        """
        serving = self.serving
        if not isinstance(serving, SqlBackend):
            raise CapabilityMissing(f"{self.name} takes no part in a transaction: use a store in a database")
        return serving.joined(transaction)

    async def open(self) -> Self:
        """Open the first store that answers, and begin to deliver what waits for it.

        Raises:
            BackendUnavailable: none answers, or, with `strict`, not the first.
            Corrupt: the store is damaged, or not the one that was here.
            SchemaTooNew: a newer version of dgent wrote it.
        """
        await self._failover.open()
        return self

    async def recover(self) -> DeliveryReport:
        """Probe the first store now, deliver to it what waits, and report."""
        return await self._failover.recover()

    async def set_aside(self) -> Sequence[QueuedWrite]:
        """Return the writes that were set aside, oldest first, each with its reason."""
        return await self._failover.replay.set_aside()

    async def retry(self, entry: QueuedWrite) -> bool:
        """Deliver a write that was set aside over whatever the first store holds; tell whether it was there.

        One that is damaged cannot be delivered: False.
        """
        found = await self._failover.replay.retry(entry_key(entry))
        if found and not self._failover.away:
            await self._failover.recover()
        return found

    async def discard(self, entry: QueuedWrite) -> bool:
        """Erase a write that was set aside, once it was dealt with; tell whether it was there."""
        return await self._failover.replay.discard(entry_key(entry))

    @override
    async def _apply(self, operations: Sequence[Operation]) -> Outcomes:
        return await self._routing.write(operations)

    @override
    async def _get(self, id: str, version: int | None) -> Datum | None:
        datum = await self._routing.read([id], lambda store: store.get(id, version=version))
        if datum is not None:
            self._routing.saw([datum])
        return datum

    @override
    async def _get_many(self, ids: Names) -> dict[str, Datum]:
        return await self._routing.read(ids, lambda store: store.get_many(ids))

    @override
    async def exists(self, id: str) -> bool:
        checked = check_key(id)
        return await self._routing.read([checked], lambda store: store.exists(checked))

    @override
    async def _count(self, prefix: str | None) -> int:
        return await self._routing.read(None, lambda store: store.count(prefix=prefix))

    @override
    async def _query(self, query: Query) -> Page:
        page = await self._routing.read(None, lambda store: store.query(query))
        self._routing.saw(page)
        return page

    @override
    async def _keys(self, query: Query) -> KeyPage:
        prefix, order, limit, cursor = query.prefix, query.order, query.limit, query.cursor
        return await self._routing.read(None, lambda store: store.keys(prefix, order=order, limit=limit, cursor=cursor))

    @override
    async def _segments(self, listing: SegmentListing, limit: int, cursor: str | None) -> KeyPage:
        prefix, delimiter, depth = listing.prefix, listing.delimiter, listing.depth
        return await self._routing.read(
            None, lambda store: store.segments(prefix, delimiter=delimiter, depth=depth, limit=limit, cursor=cursor)
        )

    @override
    async def _causal_chain(self, id: str, version: int | None, as_of: float | None, limit: int | None) -> Datums:
        return await self._routing.read(
            None, lambda store: store.causal_chain(id, version=version, as_of=as_of, limit=limit)
        )

    @override
    async def _history(self, id: str, limit: int, before: int | None) -> Revisions:
        return await self._routing.read([id], lambda store: store.history(id, limit=limit, before=before))

    @override
    async def _head(self) -> int:
        await self._routing.refuse_while_away("head")
        return await self._routing.read(None, lambda store: store.head())

    @override
    async def _seq_at(self, time: float) -> int:
        await self._routing.refuse_while_away("seq_at")
        return await self._routing.read(None, lambda store: store.seq_at(time))

    @override
    async def _changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        await self._routing.refuse_while_away("changes")
        page = await self._routing.read(None, lambda store: store.changes(after_seq, until=until, limit=limit))
        self._routing.saw([change.datum for change in page if change.datum is not None])
        return page

    @override
    async def _namespaces(self, listing: NamespaceListing, limit: int, cursor: str | None) -> KeyPage:
        return await self._routing.read(
            None, lambda store: store.namespaces(listing.prefix, limit=limit, cursor=cursor)
        )

    @override
    async def stats(self) -> StoreStats:
        return await self._routing.read(None, lambda store: store.stats())

    @override
    async def _compact(self, keep_versions: int | None, older_than: float | None) -> int:
        await self._routing.refuse_while_away("compact")
        return await self._routing.read(
            None, lambda store: store.compact(keep_versions=keep_versions, older_than=older_than)
        )

    @override
    async def _erase(self, erasure: Erasure, *, vacuum: bool) -> Erased:
        return await self._routing.erase(erasure, vacuum=vacuum)

    @override
    async def is_available(self) -> bool:
        return await self._failover.is_available()

    @override
    async def status(self) -> Mapping[str, object]:
        """Return which store serves, what is out of reach and why, what waits and what was set aside."""
        database = database_of(self._routing.first)
        return {
            "name": self.name,
            "namespace": self.namespace,
            "available": await self.is_available(),
            "read_only": "" if database is None else database.read_only,
            "capabilities": str(self.capabilities),
            **await self._described(),
        }

    async def _described(self) -> dict[str, object]:
        chain = self._failover
        described: dict[str, object] = {
            "serving": chain.serving.name,
            "first": chain.first.name,
            "chain": [backend.name for backend in chain.backends],
            "state": chain.state,
            "degraded": bool(chain.down),
            "delivered": chain.delivered,
            **await chain.replay.describe(),
        }
        if chain.down:
            answered = as_datetime(chain.heard).isoformat(" ", "seconds")
            late = chain.state == "started late"
            described |= {"reason": chain.down, "tried": dict(chain.replay.tried), "last_answered": answered}
            described["reads"] = "only what was written since" if late else "refused"
            described["writes"] = "kept until the first is back" if late or chain.policy.spill else "refused"
        return described

    @override
    async def close(self) -> None:
        await self._failover.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _ignore(event: Event) -> None:
    """Publish nothing."""
