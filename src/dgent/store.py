"""What every store of datums can do, and the laws that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from dgent.datum import Datum
from dgent.operations import TTL, Operation, Outcome, read_note
from dgent.query import DEFAULT_LIMIT, Order, Query

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dgent.capabilities import Capabilities
    from dgent.change_page import ChangePage
    from dgent.erasure_request import Erased
    from dgent.page import KeyPage, Page


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
    author, reason = (None, None) if datum is not None else read_note(note)
    return Revision(version, seq, stored_at, datum, author, reason)


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
      version of its id. `delete` appends a tombstone; only `purge`, `erase` and `compact` erase, and no seq comes
      again.
    * Batches: `apply` does what its operations do one by one; one that is refused undoes all.
    * Compare and swap: `put(d, expect=n)` succeeds for exactly one of many concurrent callers, and only if n is the
      live version (0: absent).
    * Time to live: what has expired is absent, by one clock: the process's, or that of the server that holds the store.
      All verbs agree on it, whatever that clock does. `put(d, ttl="keep")` moves no moment of expiry; any other put
      sets it. `touch` changes when a datum expires and nothing else.
    * Causality: `causal_chain(x)` unfolds the parents of x, oldest first; an absent parent ends it; a put that would
      close a cycle is refused; deleting a parent changes no child.
    * Pages: joined under any sequence of limits they give each live id once, equal times included, in the order asked
      for, whatever is written in between. `keys` and `segments` show of the ids what `query` would.
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
        after_seq: int | None = None,
        before_seq: int | None = None,
    ) -> Page:
        """Return a page of live datums, the newest first unless told otherwise: `query` with the most common filters.

        The last one below a prefix is `list(prefix, order="-id", limit=1)`, and costs about as much as a `get`.
        """

    async def keys(
        self,
        prefix: str | None = None,
        *,
        order: Order = "id",
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> KeyPage:
        """Return a page of the ids of live datums, without reading their contents.

        Its cursors are those of `list` with the same prefix and order. What is damaged and looks live is in it: only
        the content would tell.
        """

    async def segments(
        self,
        prefix: str | None = None,
        *,
        delimiter: str = "/",
        depth: int = 1,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> KeyPage:
        """Return a page of the distinct beginnings of live ids below a prefix, in their order, as a folder is listed.

        Each is an id up to the `depth`th delimiter behind the prefix, with that delimiter; an id that has fewer stands
        there whole. Of `a/1`, `a/b/2`, `a/b/3` and `a/c/4/5`, `segments("a/")` gives `a/1`, `a/b/` and `a/c/`. It
        jumps over what it has seen: one step in an index for each segment, however many ids share it.

        Raises:
            InvalidQuery: the delimiter is empty, or `depth` is below 1.
        """

    async def query(self, query: Query) -> Page:
        """Return a page of the live datums that match."""

    async def causal_chain(
        self,
        id: str,
        *,
        version: int | None = None,
        as_of: float | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Datums:
        """Return the live datum and its live ancestors, oldest first unless told otherwise; empty where there is none.

        With `as_of` (Unix seconds) it is the chain as it was live at that moment. With `version` it says why that
        version was so: each ancestor is the one that was live when the one below it was stored, which its seq tells.
        `limit` asks for that many, those nearest to the datum.

        Raises:
            LimitExceeded: the chain is longer than the limit `max_chain`, and so is what was asked for.
            InvalidQuery: both a version and a time were given.
            CapabilityMissing: one of them was, of a store without a history.
        """

    async def history(self, id: str, *, limit: int = 1000, before: int | None = None) -> Revisions:
        """Return the stored versions of an id, oldest first: the last `limit` of those below version `before`."""

    async def as_of(
        self, time: float, *, prefix: str | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page:
        """Return a page of what was live at a moment, in the order of the ids: `query` with `as_of` and a prefix."""

    async def head(self) -> int:
        """Return the seq of the last write, also where that was purged; 0 where nothing was ever put.

        Raises:
            CapabilityMissing: the store counts no commits: it has no history.
        """

    async def seq_at(self, time: float) -> int:
        """Return the seq of the last version stored at or before a moment (Unix seconds), 0 before everything.

        Both only grow within a namespace, so a reader of `seq > await seq_at(t)` sees what was stored after t.
        """

    async def changes(self, after_seq: int, *, until: int | None = None, limit: int = DEFAULT_LIMIT) -> ChangePage:
        """Return a page of the versions of all ids with `after_seq < seq <= until`, in the order of the commits.

        Deletions are among them; what was purged or compacted away is not. Go on with `changes(page.seq)`: a commit
        that comes later never has a smaller seq, so nothing that stays is missed.
        """

    async def touch(self, ids: Iterable[str], ttl: float | None) -> int:
        """Let live datums expire after `ttl` seconds from now, or stay for good where that is None; return how many.

        It changes when they expire and nothing else: no version, no seq, no content, no entry of a history. What is not
        live stays absent; a query of the past goes by the moment that holds since. A listener hears of it as a
        Change("touch").

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

    async def namespaces(
        self, prefix: str | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> KeyPage:
        """Return a page of the namespaces that hold something, sorted: all, or `prefix` and those below it."""

    async def compact(self, *, keep_versions: int | None = None, older_than: float | None = None) -> int:
        """Erase expired datums and old versions, and return how many versions went.

        Superseded versions go when they are not among the last `keep_versions` of their id, or were stored before
        `older_than` (Unix seconds); without either they all stay. Live datums always stay.
        """

    async def erase(
        self, *, prefix: str | None = None, everything: bool = False, below: bool = False, vacuum: bool = False
    ) -> Erased:
        """Erase datums for good, with all their versions, tombstones and indexes, in one transaction; say what went.

        `prefix` takes the ids that begin with it; `everything` takes all of the namespace and forgets its name, so that
        nothing tells that it was there: a later namespace of any name has higher seqs than it had. `below` takes the
        same from the namespaces under this one: "a/b" is under "a". A put that commits later is whole. What waits for
        another store goes, too: there, before anything else is delivered. `vacuum` also waits until the database has
        cleared the room where the bytes were, which takes as long as the database is large, and no transaction.

        Raises:
            InvalidInput: neither a prefix nor everything is given, or both; or it is to vacuum within a transaction.
            StorageTimeout: it is erased, but others read for too long for its room to be cleared: vacuum again.
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
class FindsParents(Protocol):
    """A store that tells cheaply whether an id has children."""

    async def is_parent(self, id: str) -> bool:
        """Tell whether a live datum names this id as its parent."""
