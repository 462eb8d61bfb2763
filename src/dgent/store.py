"""What every store of datums can do, and the laws that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import orjson

from dgent.datum import Datum
from dgent.operations import TTL, Operation, Outcome
from dgent.query import DEFAULT_LIMIT, Order, Query

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dgent.capabilities import Capabilities
    from dgent.page import Page


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of a history.

    Attributes:
        stored_at: Unix seconds by the store.
        datum: what was put, or None where it was deleted.
        author: who deleted it, where that was told.
        reason: why, the same.
    """

    version: int
    seq: int
    stored_at: float
    datum: Datum | None
    author: str | None = None
    reason: str | None = None


def revision(version: int, seq: int, stored_at: float, datum: Datum | None, note: str) -> Revision:
    """Return an entry of a history; `note` is the metadata of a tombstone, canonical JSON."""
    if datum is not None or note == "{}":
        return Revision(version, seq, stored_at, datum)
    told = orjson.loads(note)
    return Revision(version, seq, stored_at, None, told.get("author"), told.get("reason"))


# Inside of a class, `list` is the verb; these are the type.
Datums: TypeAlias = list[Datum]
Revisions: TypeAlias = list[Revision]
Names: TypeAlias = list[str]
Outcomes: TypeAlias = list[Outcome]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds: live datums, stored versions, the last seq, and bytes on disk where that is known."""

    live: int
    versions: int
    seq: int
    size: int | None = None


@runtime_checkable
class StateBackend(Protocol):
    """The two verbs that keeping state needs; every DgentProtocol has them."""

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the live datum, or None."""

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Store a datum."""


@runtime_checkable
class Partial(StateBackend, Protocol):
    """A store that can write a part of a datum: a typed table, whose parts are its columns."""

    async def update(self, id: str, changes: Mapping[str, Any], given: Mapping[str, Any]) -> Datum:
        """Write some parts, if others are still as they were read, and return the whole; all by name, as JSON values.

        Raises:
            DatumNotFound: it is not there.
            VersionConflict: a part in `given` is not as it was.
        """


@runtime_checkable
class DgentProtocol(StateBackend, Protocol):
    """A store of datums, under one namespace. `dgent.store_base` has the verbs over a few primitives.

    The laws, each checked by the test of `dgent.testing` that is named after it:

    * Append: `put` never destroys. A datum equal to the live one changes nothing; a different one becomes the next
      version of its id. `delete` appends a tombstone; only `purge` and `compact` erase, and no seq comes again.
    * Batches: `apply` does what its operations do one by one; one that is refused undoes all.
    * Compare and swap: `put(d, expect=n)` succeeds for exactly one of many concurrent callers, and only if n is the
      live version (0: absent).
    * Time to live: what has expired is absent, by one clock: the process's, or that of the server that holds the store.
      All verbs agree on it, whatever that clock does. `put(d, ttl="keep")` moves no moment of expiry; any other put
      sets it. `touch` changes when a datum expires and nothing else.
    * Causality: `causal_chain(x)` unfolds the parents of x, oldest first; an absent parent ends it; a put that would
      close a cycle is refused; deleting a parent changes no child.
    * Pages: joined under any sequence of limits they give each live id once, equal times included.
    * Prefix: `list(prefix=p)` is exactly the ids that start with p, byte for byte.
    * Isolation: namespaces never see each other.
    * Durability: an answer is given after the commit, and the store answers the same after it is reopened.
    * Order: a reader of `seq > s` never misses a later commit with a smaller seq.
    * Damage: a page leaves out what is not what was written, names it in `damaged` with one DamagedWarning, and gives
      the rest. Whoever reads it alone, copies or changes it gets Corrupt: nobody hides a datum by damaging it. What
      is derived, as a mark of which version is live, has no digest: `docs/promises.md` says what a wrong one does.

    Every verb raises InvalidInput (or a class below it) for what it cannot take, BackendUnavailable when the store does
    not answer, Corrupt for stored bytes that changed, StoreClosed after `close`; absent is never the answer to a fault.
    """

    @property
    def name(self) -> str:
        """The kind of store, as the settings name it: "sqlite", "table"."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Store a datum and return it with the version and seq that it got.

        `expect` is the version that must be live, 0 for none. `ttl` is seconds until it counts as absent; without it
        the datum stays. With "keep" it expires when the live one would, and stays where that stays or none is live.

        A repeated put of an equal datum changes nothing and returns the version that is there, unless that would change
        when it expires: it gives seconds, or it gives no `ttl` and the one that is there expires.

        Raises:
            VersionConflict: another version than `expect` is live.
            CausalCycle: the parent descends from this datum.
            LimitExceeded: it is larger than the limits allow.
            CapabilityMissing: the store cannot do what `expect` or `ttl` asks for.
        """

    async def put_many(self, datums: Iterable[Datum], *, expect: int | None = None, ttl: TTL = None) -> Datums:
        """Store many datums in one transaction, in order, all or none, and return them as `put` does.

        `expect` is the version that must be live of each of them, most often 0: none of the ids is there yet.
        """

    async def apply(self, operations: Iterable[Operation]) -> Outcomes:
        """Put, delete, purge and touch in one transaction, in order, all or none, and return what each led to.

        Each has the `expect` and the `ttl` of its own, and sees those before it: what a batch does is what its
        operations do one by one, seqs and versions included.

        Raises:
            InvalidInput: one of them is no operation.
            VersionConflict: as for `put`.
            CausalCycle: as for `put`.
            LimitExceeded: as for `put`.
            CapabilityMissing: as for `put`.
        """

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the live datum, or the one that was put as `version`; None where there is none.

        Raises:
            CapabilityMissing: `version` is asked of a store without a history.
        """

    async def get_many(self, ids: Iterable[str]) -> dict[str, Datum]:
        """Return the live ones of these ids, by id, in the order asked."""

    async def delete(
        self, id: str, *, expect: int | None = None, author: str | None = None, reason: str | None = None
    ) -> bool:
        """Append a tombstone; tell whether there was a live datum.

        `author` and `reason` are kept in the tombstone, for `history` to tell.

        Raises:
            VersionConflict: another version than `expect` is live.
            LimitExceeded: the author and the reason are larger than metadata may be.
            CapabilityMissing: the store has no history in which they could be kept.
        """

    async def delete_many(self, ids: Iterable[str]) -> int:
        """Delete many in one transaction and return how many were live."""

    async def exists(self, id: str) -> bool:
        """Tell whether a live datum has this id."""

    async def count(self, *, prefix: str | None = None) -> int:
        """Return how many live datums there are, or how many whose id starts with `prefix`."""

    async def list(
        self,
        prefix: str | None = None,
        after: float | None = None,
        limit: int = DEFAULT_LIMIT,
        *,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """Return a page of live datums, the newest first: `query` with the most common filters."""

    async def query(self, query: Query) -> Page:
        """Return a page of the live datums that match."""

    async def causal_chain(self, id: str, *, newest_first: bool = False) -> Datums:
        """Return the live datum and its live ancestors, oldest first unless told otherwise; empty where there is none.

        Raises:
            LimitExceeded: the chain is longer than the limit `max_chain`.
        """

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        """Return the stored versions of an id, oldest first: the last `limit` of those below version `before`."""

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Return a page of what was live at a moment (Unix seconds, by the store's clock), in the order of the ids.

        Where that clock went back, what was stored until it had caught up has the time of the last write before; what
        also expired in that time was live at no moment that history has.
        """

    async def touch(self, ids: Iterable[str], ttl: float | None) -> int:
        """Let live datums expire after `ttl` seconds from now, or stay for good where that is None; return how many.

        It changes when they expire and nothing else: no version, no seq, no content, no entry of a history. What is not
        live stays absent. A listener hears of it as a Change("touch").

        Raises:
            CapabilityMissing: nothing expires in the store.
        """

    async def purge(self, id: str) -> int:
        """Erase every version of an id for good and return how many there were."""

    async def purge_many(self, ids: Iterable[str]) -> int:
        """Erase every version of many ids in one transaction and return how many versions there were."""


@runtime_checkable
class Backend(DgentProtocol, Protocol):
    """A store that can be opened, asked for its health and put into a chain."""

    @property
    def namespace(self) -> str:
        """The namespace that the verbs see."""

    @property
    def where(self) -> str:
        """Where its data lies: no two stores share it; empty where that cannot be told. No password."""

    @property
    def priority(self) -> int:
        """Its place in a chain: the lower, the sooner."""

    def within(self, namespace: str) -> Backend:
        """Return the same store under another namespace; closing either closes both."""

    async def namespaces(self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT) -> Names:
        """Return the namespaces that hold something, sorted: all, or `prefix` and those below it."""

    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        """Erase expired datums and old versions, and return how many versions went.

        Superseded versions go when they are not among the last `keep_versions` of their id, or were stored before
        `older_than` (Unix seconds); without either they all stay. Live datums always stay.
        """

    async def is_available(self) -> bool:
        """Tell whether the store answers a real probe now. Never raises."""

    async def stats(self) -> StoreStats:
        """Return what the namespace holds."""

    async def status(self) -> Mapping[str, object]:
        """Return what a person wants to know: name, where, namespace, capabilities; no secrets."""

    async def close(self) -> None:
        """Wait for what was acknowledged, then release every connection, file and thread. May be called twice."""


@runtime_checkable
class Prepared(Protocol):
    """A store that makes what it lies in before it is used."""

    async def prepare(self) -> str:
        """Make it if it is not there, and return the id of the store."""


@runtime_checkable
class HasHead(Protocol):
    """A store that tells cheaply where a namespace stands."""

    async def head(self) -> int:
        """Return the highest seq of the namespace; 0 where nothing was ever put."""


@runtime_checkable
class FindsParents(Protocol):
    """A store that tells cheaply whether an id has children."""

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
