"""What operations become: one batch plans them for every store, which only has to keep the rows.

The store holds the lock of the namespace, says where it stands and what it holds of the ids, and gets what to erase, to
touch and to append, in this order. Each operation sees those before it, and nothing is changed in the store by
planning. A batch is used by one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from dgent.datum import stamped
from dgent.exceptions import CausalCycle, DgentError, VersionConflict
from dgent.operations import Delete, Operation, Outcome, Purge, Put, Touch
from dgent.validation import ID_BYTES, KEY_BYTES, check_fits, check_id, utf8_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

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
    def stored_at(self) -> float: ...  # noqa: D102
    @property
    def expires_at(self) -> float | None: ...  # noqa: D102
    @property
    def parent(self) -> str | None: ...  # noqa: D102

    def holds(self, datum: Datum) -> bool:
        """Tell whether it is this datum, and as it was written."""

    def check(self) -> None:
        """Raise Corrupt if it is not as it was written."""

    def until(self, expires_at: float | None) -> Self:
        """Return the same version, with another moment at which it expires."""


R = TypeVar("R", bound=Row)


class Held(NamedTuple, Generic[R]):
    """What a store holds, as far as a batch has to know it.

    Attributes:
        latest: returns the last version of an id, tombstones included.
        versions: returns how many versions of an id there are; it is asked for what is purged alone.
        is_parent: tells whether a live datum may name an id as its parent.
        ancestors: returns the parents of an id and of any live ids above it, by id; nothing where it is not live.
        row: makes a row of an id, a version, a seq, when it was stored, when it expires, and the datum; or None and
            the metadata of the tombstone.
    """

    latest: Callable[[str], R | None]
    versions: Callable[[str], int]
    is_parent: Callable[[str], bool]
    ancestors: Callable[[str], Mapping[str, str | None]]
    row: Callable[[str, int, int, float, float | None, Datum | None, str], R]


class WriteBatch(Generic[R]):
    """The operations on one namespace that are written together.

    Attributes:
        purged: the ids of which everything that is stored goes, each with the seq up to which what is planned goes.
        touched: stored versions with another moment of expiry, by id. They are touched even where they are superseded.
        last: what there is of each id after all, None where it was purged.
        seq: where the namespace stands after them.
        now: decides what is live, and when it expires.
        stored_at: what history says of all that is appended.
    """

    def __init__(self, namespace: str, limits: Limits, head: NamespaceHead, held: Held[R]) -> None:
        self.namespace, self.seq, self.now, self.stored_at = namespace, head.seq, head.now, head.next_stored_at
        self.purged: dict[str, int] = {}
        self.touched: dict[str, R] = {}
        self.last: dict[str, R | None] = {}
        self._planned: list[R] = []
        self._begun_at = head.seq
        self._before: tuple[dict[str, int], dict[str, R], list[R]] | None = None
        self._limits, self._held = limits, held
        self._parents: set[str] = set()
        self._surely_fits = min(ID_BYTES, KEY_BYTES - utf8_size(namespace)) // 4  # characters

    @property
    def rows(self) -> list[R]:
        """What is to be appended, in order: what is planned, but for what a later operation purged."""
        if not self.purged:
            return self._planned
        return [row for row in self._planned if row.seq > self.purged.get(row.id, 0)]

    @property
    def appended(self) -> dict[str, R]:
        """The last one of `rows` for each id."""
        if self.purged or self.touched:
            return {row.id: row for row in self.rows}
        return self.last  # type: ignore[return-value]  # nothing was purged

    @property
    def moves(self) -> bool:
        """Whether the namespace stands elsewhere then: something was appended, though it may have been purged since."""
        return self.seq > self._begun_at

    def __bool__(self) -> bool:
        """Tell whether there is anything to write."""
        return bool(self.moves or self.purged or self.touched)

    def apply(self, operations: Iterable[Operation]) -> list[Outcome]:
        """Plan some operations of which all are kept, or none where one raises.

        Raises:
            VersionConflict: see `DgentProtocol.put`.
            CausalCycle: see `DgentProtocol.put`.
            LimitExceeded: see `DgentProtocol.put`.
            InvalidDatum: see `DgentProtocol.put`.
            Corrupt: what is stored there cannot be gone on from.
        """
        mark, seq, self._before = len(self._planned), self.seq, None
        try:
            return [self._put(one) if isinstance(one, Put) else self._other(one) for one in operations]
        except BaseException:
            self._take_back(mark, seq)
            raise

    def _take_back(self, mark: int, seq: int) -> None:
        """Forget what was planned since there were `mark` rows."""
        if self._before is not None:
            self.purged, self.touched, self._planned = self._before
        elif len(self._planned) == mark:
            return
        del self._planned[mark:]
        self.seq = seq
        self.last = {**dict.fromkeys(self.purged), **self.touched, **{row.id: row for row in self.rows}}

    def _remember(self) -> None:
        """Keep what was planned before the first operation of `apply` that does more than append."""
        if self._before is None:
            self._before = self.purged.copy(), self.touched.copy(), self._planned.copy()

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
        last = self.last[id] if id in self.last else self._held.latest(id)
        live = self._live(last)
        if expect is not None:
            check_expected(id, expect, live)
        expires_at = None if ttl is None else self._expiry(ttl, live)
        if live is not None:
            if (ttl is None or ttl == "keep") and live.expires_at == expires_at and live.holds(datum):
                same = stamped(datum, live.version, live.seq, live.stored_at, live.expires_at)
                return Outcome(same, changed=False)
            if parent is not None and live.parent != parent:
                self._check_acyclic(id, parent)
        elif parent is not None:
            self._check_acyclic(id, parent)
        row = self._append(id, last, expires_at, datum)
        if parent is not None:
            self._parents.add(parent)
        kept = stamped(datum, row.version, row.seq, self.stored_at, expires_at)
        return Outcome(kept, True, row.version, row.seq)

    def _other(self, one: Delete | Purge | Touch) -> Outcome:
        if isinstance(one, Delete):
            return self._delete(one)
        return self._purge(one) if isinstance(one, Purge) else self._touch(one)

    def _expected(self, id: str, expect: int | None) -> tuple[R | None, R | None]:
        """Return the last version of an id and the live one, which is the expected one."""
        last = self.last[id] if id in self.last else self._held.latest(id)
        live = self._live(last)
        check_expected(id, expect, live)
        return last, live

    def _delete(self, delete: Delete) -> Outcome:
        last, live = self._expected(delete.id, delete.expect)
        if live is None:
            return Outcome(None, changed=False)
        note = delete.note
        self._limits.admit_note(delete.id, note)
        row = self._append(delete.id, last, None, None, note)
        return Outcome(None, True, row.version, row.seq)

    def _purge(self, purge: Purge) -> Outcome:
        """Erase what is stored, and what is planned; what is damaged goes, too, unless it is compared."""
        id, planned = purge.id, self.last.get(purge.id)
        if purge.expect is not None:
            self._expected(id, purge.expect)
        erased = 0 if id in self.purged else self._held.versions(id)
        if planned is not None:
            stored = None if id in self.purged else self._held.latest(id)
            erased += planned.version - (stored.version if stored is not None else 0)
        if erased:
            self._remember()
            self.purged[id], self.last[id] = self.seq, None
            self.touched.pop(id, None)
        return Outcome(None, erased > 0, erased=erased)

    def _touch(self, touch: Touch) -> Outcome:
        last, live = self._expected(touch.id, touch.expect)
        if live is None or last is None:
            return Outcome(None, changed=False)
        expires_at = None if touch.ttl is None else self.now + touch.ttl
        if live.expires_at != expires_at:
            live.check()
            self._remember()
            self._replace(last, last.until(expires_at))
        return Outcome(None, changed=True)

    def _replace(self, row: R, new: R) -> None:
        """Put a version that differs in when it expires into the place of one that is planned, or stored."""
        self.last[row.id] = new
        if row.seq > self._begun_at:
            at = next(at for at in reversed(range(len(self._planned))) if self._planned[at] is row)
            self._planned[at] = new
        else:
            self.touched[row.id] = new

    def _append(self, id: str, last: R | None, expires_at: float | None, datum: Datum | None, note: str = "{}") -> R:
        self.seq += 1
        version = last.version + 1 if last is not None else 1
        row = self._held.row(id, version, self.seq, self.stored_at, expires_at, datum, note)
        self._planned.append(row)
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
        if isinstance(one, Touch):
            continue
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
