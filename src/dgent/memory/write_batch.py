"""What puts and deletes become: one batch plans them for every store, which only has to keep the rows.

The store holds the lock of the namespace, says where it stands and what it holds of the ids, and gets the rows to
append. Each write sees those before it, and nothing is changed in the store by planning. A batch is used by one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from dgent.datum import stamped
from dgent.exceptions import CausalCycle, DgentError, VersionConflict
from dgent.operations import Delete, Operation, Outcome, Put
from dgent.validation import ID_BYTES, KEY_BYTES, check_fits, check_id, utf8_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dgent.datum import Datum
    from dgent.limits import Limits
    from dgent.operations import TTL


class NamespaceHead(NamedTuple):
    """Where a namespace stands, and what time it is for its store: the process's clock, or that of the server."""

    seq: int
    stored_at: float
    now: float

    @property
    def next_stored_at(self) -> float:
        """What is written now was stored at this time: history never goes back, whatever the clock does."""
        return max(self.now, self.stored_at) + 0.0  # there is one zero: -0.0 would be stored as 0.0


class Row(Protocol):
    """One version of an id, as a store keeps it."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def live(self) -> bool:
        """Whether it has a content; it may have expired."""

    @property
    def expires_at(self) -> float | None: ...  # noqa: D102
    @property
    def parent(self) -> str | None: ...  # noqa: D102

    def holds(self, datum: Datum) -> bool:
        """Tell whether it is this datum, and as it was written."""

    def check(self) -> None:
        """Raise Corrupt if it is not as it was written."""


R = TypeVar("R", bound=Row)


class Held(NamedTuple, Generic[R]):
    """What a store holds, as far as a batch has to know it.

    Attributes:
        latest: returns the last version of an id, tombstones included.
        is_parent: tells whether a live datum may name an id as its parent.
        ancestors: returns the parents of an id and of any live ids above it, by id; nothing where it is not live.
        row: makes a row of an id, a version, a seq, when it was stored, when it expires, and the datum.
    """

    latest: Callable[[str], R | None]
    is_parent: Callable[[str], bool]
    ancestors: Callable[[str], Mapping[str, str | None]]
    row: Callable[[str, int, int, float, float | None, Datum | None], R]


class WriteBatch(Generic[R]):
    """The operations on one namespace that are written together.

    Attributes:
        rows: what is to be appended, in order.
        last: the last of them for each id.
        seq: where the namespace stands after them.
        now: decides what is live, and when it expires.
        stored_at: what history says of all of them.
    """

    def __init__(self, namespace: str, limits: Limits, head: NamespaceHead, held: Held[R]) -> None:
        self.namespace, self.seq, self.now, self.stored_at = namespace, head.seq, head.now, head.next_stored_at
        self.rows: list[R] = []
        self.last: dict[str, R] = {}
        self._limits, self._held = limits, held
        self._parents: set[str] = set()
        self._surely_fits = min(ID_BYTES, KEY_BYTES - utf8_size(namespace)) // 4  # characters

    def apply(self, operations: Iterable[Operation]) -> list[Outcome]:
        """Plan some operations of which all are kept, or none where one raises.

        Raises:
            VersionConflict: see `DgentProtocol.put`.
            CausalCycle: see `DgentProtocol.put`.
            LimitExceeded: see `DgentProtocol.put`.
            InvalidDatum: see `DgentProtocol.put`.
            Corrupt: what is stored there cannot be gone on from.
        """
        mark = len(self.rows)
        try:
            return [self._put(one) if isinstance(one, Put) else self._delete(one) for one in operations]
        except BaseException:
            if len(self.rows) > mark:
                self.seq -= len(self.rows) - mark
                del self.rows[mark:]
                self.last = {row.id: row for row in self.rows}
            raise

    def apply_each(self, batches: Iterable[Iterable[Operation]]) -> list[list[Outcome] | Exception]:
        """Plan batches of operations in order; each whole, or not at all and answered with its error."""
        return [self._answer(batch) for batch in batches]

    def _answer(self, operations: Iterable[Operation]) -> list[Outcome] | Exception:
        try:
            return self.apply(operations)
        except DgentError as error:
            return error

    def _put(self, put: Put) -> Outcome:
        datum, expect, ttl = put
        self._limits.admit(datum)
        id, parent = datum.id, datum.causal_parent
        if len(id) > self._surely_fits or (parent is not None and len(parent) > self._surely_fits):
            check_names(self.namespace, datum)
        last = self.last.get(id) or self._held.latest(id)
        live = self._live(last)
        if expect is not None:
            check_expected(id, expect, live)
        expires_at = None if ttl is None else self._expiry(ttl, live)
        if live is not None:
            if (ttl is None or ttl == "keep") and live.expires_at == expires_at and live.holds(datum):
                return Outcome(stamped(datum, live.version, live.seq), changed=False)
            if parent is not None and live.parent != parent:
                self._check_acyclic(id, parent)
        elif parent is not None:
            self._check_acyclic(id, parent)
        row = self._append(id, last, expires_at, datum)
        if parent is not None:
            self._parents.add(parent)
        return Outcome(stamped(datum, row.version, row.seq), True, row.version, row.seq)

    def _delete(self, delete: Delete) -> Outcome:
        id = delete.id
        last = self.last.get(id) or self._held.latest(id)
        live = self._live(last)
        check_expected(id, delete.expect, live)
        if live is None:
            return Outcome(None, changed=False)
        row = self._append(id, last, None, None)
        return Outcome(None, True, row.version, row.seq)

    def _append(self, id: str, last: R | None, expires_at: float | None, datum: Datum | None) -> R:
        self.seq += 1
        version = last.version + 1 if last is not None else 1
        row = self._held.row(id, version, self.seq, self.stored_at, expires_at, datum)
        self.rows.append(row)
        self.last[id] = row
        return row

    def _live(self, row: R | None) -> R | None:
        if row is None or not row.live or (row.expires_at is not None and row.expires_at <= self.now):
            return None
        return row

    def _expiry(self, ttl: TTL, live: R | None) -> float | None:
        if ttl is not None and ttl != "keep":
            return self.now + ttl
        if live is None or live.expires_at is None:
            return None
        live.check()
        return live.expires_at

    def _check_acyclic(self, id: str, parent: str) -> None:
        """Refuse a parent below `id`. Where nothing has `id` as its parent there is nothing below it.

        A clock that went back may have brought a cycle to life, in which nobody walks twice.
        """
        if parent == id:
            raise closes_cycle(id, parent)
        if id not in self._parents and not self._held.is_parent(id):
            return
        known: dict[str, str | None] = {}
        passed: set[str] = set()
        above: str | None = parent
        while above is not None and above not in passed:
            if above == id:
                raise closes_cycle(id, parent)
            passed.add(above)
            if above in self.last:
                row = self._live(self.last[above])
                above = row.parent if row else None
                continue
            if above not in known:
                known[above] = None  # unless it is there
                known.update(self._held.ancestors(above))
            above = known[above]


def check_names(namespace: str, datum: Datum) -> None:
    """Refuse an id or a parent that some index of some store does not hold.

    Raises:
        InvalidDatum: one of them is too long, alone or together with the namespace.
    """
    check_fits(namespace, check_id(datum.id))
    if datum.causal_parent is not None:
        check_fits(namespace, check_id(datum.causal_parent, "causal_parent"), "causal_parent")


def check_expected(id: str, expect: int | None, live: Row | None) -> None:
    """Refuse a write that expects another version than the live one, 0 for none.

    Raises:
        VersionConflict: it does.
    """
    actual = live.version if live is not None else 0
    if expect is not None and expect != actual:
        raise VersionConflict(id, expect, actual)


def check_acyclic_within(operations: Iterable[Operation]) -> None:
    """Refuse a batch that closes a cycle whatever a store holds: for those who cannot look into theirs now.

    Raises:
        CausalCycle: a put names itself, or what descends from it by the puts before it, as its parent.
    """
    parents: dict[str, str | None] = {}  # without a cycle, so that each walk ends
    named: set[str] = set()
    for one in operations:
        parent = parents[one.id] = None if one.datum is None else one.datum.causal_parent
        if parent is None:
            continue
        named.add(parent)
        above = parent if one.id in named else None  # else nothing is below it
        while above is not None:
            if above == one.id:
                raise closes_cycle(one.id, parent)
            above = parents.get(above)


def closes_cycle(id: str, parent: str | None) -> CausalCycle:
    """Return the error for a parent that is the datum itself, or descends from it."""
    if parent == id:
        return CausalCycle(f"{id!r} cannot be its own parent")
    return CausalCycle(f"{parent!r} descends from {id!r}, so it cannot be its parent: choose another")
