"""The backend that a service takes: the first of a chain that answers, and no silence when it is not the first."""

from __future__ import annotations

import copy
from asyncio import CancelledError
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from dgent.checks import as_list, check_kind, check_namespace, check_ttl, checked_ids
from dgent.datum import Datum, stamped
from dgent.delivery import RESERVED, key_of
from dgent.exceptions import (
    BackendUnavailable,
    CapabilityMissing,
    DeliveryPending,
    InvalidDatum,
    InvalidNamespace,
    OutcomeUnknown,
    StorageError,
    StorageTimeout,
)
from dgent.memory.building import Builder, only
from dgent.memory.chain import Chain
from dgent.memory.manifest import ManifestFile
from dgent.memory.seen import Sightings
from dgent.memory.sql import SqlBackend
from dgent.query import DEFAULT_LIMIT, Order, Page, Query
from dgent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from dgent.database import Database, Runner
    from dgent.delivery import Delivery, Entry
    from dgent.memory.bus import DataBus, Event
    from dgent.memory.change import Change
    from dgent.protocol import TTL, Backend, Capabilities, Datums, Revisions, StoreStats

FEW: Final = 64
"""For more ids than this a verb waits until nothing waits any more, rather than ask for each."""

_OF_ONE: Final = frozenset({"get", "exists", "history", "put", "delete"})
_OF_MANY: Final = frozenset({"get_many", "put_many", "delete_many"})
_Writes: TypeAlias = "list[tuple[str, Datum | None]]"  # inside of the class, `list` is the verb


class DgentRouter:
    """A `Backend` over a chain of them. What each verb does is said in `DgentProtocol`.

    It opens the first store of the chain at the first verb, or at `open`. While that is out of reach, writes wait in a
    later store (always, if it was so at the start; in mid-run, if `spill` is on) and are delivered when it is back. A
    put that waits answers with version and seq 0, a delete with True: what they will be is not known yet. What depends
    on the live datum, `expect=` and `ttl="keep"`, is refused meanwhile with BackendUnavailable.

    While they are delivered, a verb about some ids brings what waits for these in first. All others, and `expect=`,
    wait for the rest, up to `delivery_timeout`: then they raise DeliveryPending.

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
        UnknownBackend: a name that no backend has. BackendUnavailable: nothing is configured for the forced name.
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
        tell, sightings = None if bus is None else bus.publish, Sightings()
        publish, spilling = tell or _ignore, loaded.spill if spill is None else spill

        def on_change(change: Change) -> None:
            sightings.note(change)
            publish(change)

        names = loaded.chain if force_backend is None else (force_backend,)
        chosen = (
            Builder(loaded, database, on_change if spilling else tell).build(names) if backends is None else backends
        )
        if force_backend is not None or not chosen:
            chosen = only(force_backend, chosen)
        default = backends[0].namespace if backends else loaded.namespace
        self._limits = loaded.limits
        self._chain = Chain(
            chosen,
            ManifestFile(loaded.manifest_path),
            order=() if backends is not None or force_backend is not None else loaded.chain,
            strict=loaded.strict if strict is None else strict,
            spilling=spilling,
            patience=loaded.delivery_timeout,
            limits=loaded.limits,
            publish=publish,
            sightings=sightings,
        )
        self._hears_deletes = backends is None
        self._take_namespace(default if namespace is None else namespace)

    def _take_namespace(self, namespace: str) -> None:
        check_namespace(namespace)
        if namespace.partition("/")[0] == RESERVED:
            raise InvalidNamespace(f"namespace {namespace!r} is reserved for what the router keeps: choose another")
        self.namespace = namespace
        self._first, self._seen = self._chain.first.within(namespace), self._chain.sightings.of(namespace)

    @property
    def name(self) -> str:
        """The kind of the store that serves."""
        return self._chain.serving.name

    @property
    def priority(self) -> int:
        """The place of the store that serves."""
        return self._chain.serving.priority

    @property
    def capabilities(self) -> Capabilities:
        """What the router can do now: that of the first store, or the little that is left while it is out of reach."""
        return self._chain.capabilities

    @property
    def serving(self) -> Backend:
        """The first store, under this namespace, for what goes beyond the verbs.

        Raises:
            BackendUnavailable: it is out of reach, or the router was not opened.
            DeliveryPending: writes are on their way to it: see `settled`.
        """
        if not self._chain.normal:
            raise self._chain.refusal("transactions and reconcile() need it")
        return self._first

    @property
    def is_settled(self) -> bool:
        """Whether the first store serves and nothing waits for it."""
        return self._chain.normal

    async def settled(self) -> Backend:
        """Return the first store, under this namespace, when nothing waits for it any more.

        Raises:
            BackendUnavailable: it is out of reach. DeliveryPending: it takes longer than `delivery_timeout`.
        """
        if not self._chain.opened:
            await self._chain.open()
        await self._chain.settled()
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

    def within(self, namespace: str) -> Self:
        """Return the same router under another namespace; closing either closes both."""
        other = copy.copy(self)
        other._take_namespace(namespace)
        return other

    async def open(self) -> Self:
        """Open the first store that answers, and begin to deliver what waits for it.

        Raises:
            BackendUnavailable: none answers, or, with `strict`, not the first. Corrupt: the store is damaged, or not
                the one that was here. SchemaTooNew: a newer version of dgent wrote it.
        """
        await self._chain.open()
        return self

    async def recover(self) -> Delivery:
        """Probe the first store now, deliver to it what waits, and report."""
        return await self._chain.recover()

    async def set_aside(self) -> Sequence[Entry]:
        """Return the writes that were set aside, oldest first, each with its reason."""
        return await self._chain.ways.set_aside()

    async def retry(self, entry: Entry) -> bool:
        """Deliver a write that was set aside over whatever the first store holds; tell whether it was there.

        One that is damaged cannot be delivered: False.
        """
        return await self._chain.retry(key_of(entry))

    async def discard(self, entry: Entry) -> bool:
        """Erase a write that was set aside, once it was dealt with; tell whether it was there."""
        return await self._chain.ways.discard(key_of(entry))

    def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Coroutine[Any, Any, Datum]:
        """Store a datum and return it with the version and seq that it got."""
        return self._write("put", datum, expect=expect, ttl=ttl)

    def put_many(self, datums: Iterable[Datum], *, ttl: TTL = None) -> Coroutine[Any, Any, list[Datum]]:
        """Store many datums in order, all or none."""
        return self._write("put_many", as_list(datums, "datums"), ttl=ttl)

    def get(self, id: str, *, version: int | None = None) -> Coroutine[Any, Any, Datum | None]:
        """Return the live datum, or the one that was put as `version`."""
        return self._read("get", id, version=version)

    def get_many(self, ids: Iterable[str]) -> Coroutine[Any, Any, dict[str, Datum]]:
        """Return the live ones of these ids, by id, in the order asked."""
        return self._read("get_many", checked_ids(ids))  # a list: they may be looked at twice

    def delete(self, id: str, *, expect: int | None = None) -> Coroutine[Any, Any, bool]:
        """Append a tombstone; tell whether there was a live datum."""
        return self._write("delete", id, expect=expect)

    def delete_many(self, ids: Iterable[str]) -> Coroutine[Any, Any, int]:
        """Delete many, all or none, and return how many were live."""
        return self._write("delete_many", as_list(ids, "ids"))

    def exists(self, id: str) -> Coroutine[Any, Any, bool]:
        """Tell whether a live datum has this id."""
        return self._read("exists", id)

    def count(self, *, prefix: str | None = None) -> Coroutine[Any, Any, int]:
        """Return how many live datums there are, or how many whose id starts with `prefix`."""
        return self._read("count", prefix=prefix)

    def query(self, query: Query) -> Coroutine[Any, Any, Page]:
        """Return a page of the live datums that match."""
        return self._read("query", query)

    def causal_chain(self, id: str) -> Coroutine[Any, Any, Datums]:
        """Return the live datum and its live ancestors, oldest first."""
        return self._read("causal_chain", id)

    def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Coroutine[Any, Any, Revisions]:
        """Return the stored versions of an id, oldest first: the last `limit` of those below version `before`."""
        return self._read("history", id, limit=limit, before=before)

    def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Coroutine[Any, Any, Page]:
        """Return a page of what was live at a moment, in the order of the ids."""
        return self._read("as_of", time, prefix=prefix, limit=limit, cursor=cursor)

    def namespaces(self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT) -> Coroutine[Any, Any, list[str]]:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""
        return self._read("namespaces", prefix, limit=limit)

    def stats(self) -> Coroutine[Any, Any, StoreStats]:
        """Return what the namespace holds."""
        return self._read("stats")

    def purge(self, id: str) -> Coroutine[Any, Any, int]:
        """Erase every version of an id for good and return how many there were."""
        return self._erase("purge", id)

    def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> Coroutine[Any, Any, int]:
        """Erase expired datums and old versions, and return how many versions went."""
        return self._erase("compact", keep_versions=keep_versions, older_than=older_than)

    async def is_available(self) -> bool:
        """Tell whether reads and writes are answered now. Never raises."""
        return await self._chain.is_available()

    async def status(self) -> Mapping[str, object]:
        """Return which store serves, what is out of reach and why, what waits and what was set aside."""
        described = await self._chain.describe()
        return {
            "name": self.name,
            "namespace": self.namespace,
            "available": await self.is_available(),
            "read_only": getattr(getattr(self._first, "database", None), "read_only", ""),
            "capabilities": str(self.capabilities),
            **described,
        }

    async def close(self) -> None:
        """Wait for what was acknowledged, then close every store of the chain. May be called twice."""
        await self._chain.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(self, verb: str, *args: Any, **named: Any) -> Any:
        chain = self._chain
        while not chain.normal:
            if not chain.opened:
                await chain.open()
            elif chain.away:
                return await getattr(await chain.view(self.namespace), verb)(*args, **named)
            elif await self._brought(_ids(verb, args)):
                break
        if self._seen.is_new:
            await self._look_first()
        try:
            answer = await getattr(self._first, verb)(*args, **named)
        except BackendUnavailable as error:
            chain.lost(error)
            raise
        chain.heard = time()
        if answer.__class__ is Datum or answer.__class__ is Page:
            self._saw(answer)
        if chain.down:
            chain.answered()
        return answer

    async def _brought(self, ids: Sequence[str] | None) -> bool:
        """While writes are on their way: bring in those of some ids, or wait for all; tell whether some were asked for.

        Raises:
            StorageError: the first store failed. DeliveryPending: all of them take too long.
        """
        if ids is None or len(ids) > FEW:
            await self._chain.settled()
            return False
        try:
            await self._chain.bring(self.namespace, ids)
        except BackendUnavailable as error:
            self._chain.lost(error)
            raise
        return True

    async def _erase(self, verb: str, *args: Any, **named: Any) -> Any:
        if not self._chain.opened:
            await self._chain.open()
        if self._chain.away:
            raise self._chain.refusal(f"{verb} needs it")
        return await self._read(verb, *args, **named)

    async def _write(self, verb: str, subject: Any, **named: Any) -> Any:
        # By the time of a delivery the live datum may have changed, or expired.
        chain, needs_live = self._chain, named.get("expect") is not None or named.get("ttl") == "keep"
        while True:
            if not chain.normal:
                waits, answer = await self._put_off(verb, subject, named.get("ttl"), needs_live=needs_live)
                if waits:
                    return answer
            try:
                if not chain.normal and not await self._brought(None if needs_live else _ids(verb, [subject])):
                    continue
                if self._seen.is_new:
                    await self._look_first()
                answer = await getattr(self._first, verb)(subject, **named)
            except DeliveryPending:
                raise
            except (OutcomeUnknown, CancelledError):
                self._doubt(verb, subject)
                raise
            except (BackendUnavailable, StorageTimeout) as error:
                if not await chain.take_over(error, spill=chain.spilling and not needs_live):
                    raise
                continue
            await self._wrote(verb, subject, answer)
            return answer

    async def _put_off(self, verb: str, subject: Any, ttl: Any, *, needs_live: bool) -> tuple[bool, Any]:
        """While the first is out of reach, let a write wait; tell whether it does, and what it answers."""
        chain = self._chain
        while not chain.normal:
            if not chain.opened:
                await chain.open()
            elif not chain.away:
                break
            elif needs_live:
                raise chain.refusal("only it can compare versions and keep a time to live")
            else:
                writes, answer = self._checked(verb, subject, ttl)
                if await chain.keep(self.namespace, writes, ttl):
                    return True, answer
        return False, None

    async def _wrote(self, verb: str, subject: Any, answer: Any) -> None:
        """Take note that a write was acknowledged; a version up to its seq is nobody else's."""
        chain = self._chain
        chain.heard = time()
        if answer.__class__ is Datum or answer.__class__ is list:
            self._saw(answer)
        elif answer and chain.spilling and not self._hears_deletes:
            await self._look_at_tombstones(_ids(verb, [subject]) or ())
        if chain.down:
            chain.answered()
        if not chain.filled:
            chain.fill()

    def _saw(self, answer: Any) -> None:
        """Remember the seq of what an answer showed."""
        if answer.__class__ is Datum and not self._chain.sightings.unknown:
            self._seen.note(answer.seq)
            return
        datums = [answer] if answer.__class__ is Datum else answer
        self._seen.note(max([datum.seq for datum in datums], default=0))
        if self._chain.sightings.unknown:
            for datum in datums:
                self._chain.sightings.settle(self.namespace, datum.id)

    def _doubt(self, verb: str, subject: Any) -> None:
        """Remember a write the answer to which was lost: it may be in, and is nobody else's."""
        for one in subject if verb in _OF_MANY else [subject]:
            datum, id = (None, one) if verb.startswith("delete") else (one, one.id)
            self._chain.sightings.doubt(self.namespace, id, datum)

    async def _look_first(self) -> None:
        """Look where the namespace stands when it is first used, if a write may have to wait one day."""
        seen, head = self._seen, getattr(self._first, "head", None)
        seen.is_new = False
        if self._chain.spilling and head is not None:
            try:
                seen.note(await head())
            except BaseException as error:
                seen.is_new = True
                if not isinstance(error, StorageError):  # that the verb itself meets, or not
                    raise

    async def _look_at_tombstones(self, ids: Sequence[str]) -> None:
        """Remember the seqs of deletes by a store that tells nobody of them."""
        with suppress(StorageError):  # then they count as somebody else's
            for id in ids:
                for revision in await self._first.history(id, limit=1):
                    self._seen.note(revision.seq)

    def _checked(self, verb: str, subject: Any, ttl: float | None) -> tuple[_Writes, Any]:
        """Check a write as a store would, and return what it does and what it answers while it waits."""
        check_ttl(ttl)
        if verb.startswith("delete"):
            ids = checked_ids(subject if verb == "delete_many" else [subject])
            return [(id, None) for id in ids], len(ids) if verb == "delete_many" else True
        datums = subject if verb == "put_many" else [subject]
        for datum in datums:
            if not isinstance(datum, Datum):
                raise InvalidDatum(f"a store keeps Datum objects, not {type(datum).__name__}: use Datum.create(...)")
            self._limits.admit(datum)
        answers = [stamped(datum, 0, 0) for datum in datums]
        return [(one.id, one) for one in datums], answers if verb == "put_many" else answers[0]

    # The last one in the class: below it, `list` no longer means the type.
    def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Coroutine[Any, Any, Page]:
        """Return a page of live datums, the newest first."""
        return self._read("list", prefix, after, limit, cursor=cursor, order=order)


def _ids(verb: str, args: Sequence[Any]) -> Sequence[str] | None:
    """Return the ids that a verb is about; None if it is about more than some ids."""
    if verb not in _OF_ONE and verb not in _OF_MANY:
        return None
    given = [args[0]] if verb in _OF_ONE else [*args[0]]
    return [one.id if isinstance(one, Datum) else one for one in given]


def _ignore(event: Event) -> None:
    """Publish nothing."""
