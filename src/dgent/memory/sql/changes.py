"""What changed in a namespace, in the order of the commits, and where it stood at a time.

Plain functions over a `Connection`, in SQL that SQLite and PostgreSQL share.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
)

from dgent.change_page import ChangePage, ChangeRecord, change_page
from dgent.exceptions import Corrupt
from dgent.memory.sql.datum_tables import READ, damaged_of, datum_of, datums
from dgent.memory.sql.reads import check_passable
from dgent.operations import read_note
from dgent.sql.damaged_pages import Source, page_of, part_of
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dgent.page import Damaged

d = datums.c
LAST: Final = 2**63 - 1
"""The largest number that a seq can be; SQLite holds texts, which damage leaves, for larger than every number."""
_HALVINGS: Final = 64
"""As often as a range of seqs can be halved: damage may leave one that does not shrink."""

_of_namespace = select(*READ).where(d.namespace == bindparam("ns"))
_behind = _of_namespace.where(d.seq > bindparam("after_seq")).order_by(d.seq).limit(bindparam("most", type_=Integer))
_CHANGES = Statement(_behind, "ns after_seq most")
_CHANGES_UNTIL = Statement(_behind.where(d.seq <= bindparam("until")), "ns after_seq most until")
_BACKWARDS = Statement(
    _of_namespace.where(d.seq < bindparam("before")).order_by(d.seq.desc()).limit(bindparam("most", type_=Integer)),
    "ns before most",
)


def _around_time() -> Statement:
    """Halve the range of seqs until the last version at or before a time is found; read that and the one behind it."""
    zero, one, two = (literal_column(number, BigInteger) for number in ("0", "1", "2"))
    all_seqs = select(
        cast(zero, BigInteger).label("low"),
        func.coalesce(func.max(d.seq), cast(zero, BigInteger)).label("high"),
        literal_column("0", Integer).label("halvings"),
    ).where(d.namespace == bindparam("ns"), d.seq <= literal_column(str(LAST)))
    seqs = all_seqs.cte("seqs", recursive=True)
    low, high, halvings = seqs.c
    middle = low + (high - low + one) // two
    there, found = datums.alias("there"), datums.alias("found")
    first = select(func.min(there.c.seq)).where(there.c.namespace == bindparam("ns"), there.c.seq >= middle)
    is_then = found.c.stored_at <= bindparam("time", type_=Float(53))
    half = (
        select(
            case((is_then, found.c.seq), else_=low),
            case((is_then, high), else_=middle - one),
            halvings + literal_column("1"),
        )
        .select_from(seqs)
        .join(found, and_(found.c.namespace == bindparam("ns"), found.c.seq == first.scalar_subquery()))
        .where(low < high, halvings < literal_column(str(_HALVINGS)))
    )
    seqs = seqs.union_all(half)
    around = _of_namespace.where(d.seq >= select(func.max(seqs.c.low)).scalar_subquery()).order_by(d.seq)
    return Statement(around.limit(literal_column("2")).offset(zero), "ns time")


_AROUND_TIME = _around_time()


def changes(connection: Connection, namespace: str, after_seq: int, until: int | None, limit: int) -> ChangePage:
    """Return a page of the versions with `after_seq < seq <= until`, in the order of seq."""
    start = after_seq if after_seq > 0 else -LAST  # a seq that is damaged may be below all that were given

    def rows(behind: int | None, most: int) -> list[Any]:
        if until is None:
            return _CHANGES.rows(connection, namespace, behind, most)
        return _CHANGES_UNTIL.rows(connection, namespace, behind, most, until)

    try:
        return change_page([_change(namespace, row) for row in rows(start, limit + 1)], after_seq, limit)
    except Exception as error:
        check_passable(error)
    source = Source(rows, partial(_each, namespace), _seq)
    part = page_of(connection, source, start, limit, lambda _: True, f"namespace {namespace!r}")
    seq = part.last.seq if part.last is not None else part.found[-1].seq if part.found else after_seq
    return ChangePage(part.found, seq, more=part.last is not None, damaged=part.damaged)


def seq_at(connection: Connection, namespace: str, time: float) -> int:
    """Return the seq of the last version stored at or before a time; 0 before all."""
    try:
        return sure_seq_at(connection, namespace, time)
    except Exception as error:
        check_passable(error)
        return _last_whole(connection, namespace, time)


def sure_seq_at(connection: Connection, namespace: str, time: float) -> int:
    """Return what `seq_at` does, unless a damaged row may have led the search astray.

    It is one of the two between which the search ends: those that are whole are in order.

    Raises:
        Corrupt: one of them is damaged.
    """
    around = [_change(namespace, row) for row in _AROUND_TIME.rows(connection, namespace, time)]
    return around[0].seq if around and around[0].stored_at <= time else 0


def _last_whole(connection: Connection, namespace: str, time: float) -> int:
    """Return what `seq_at` does, by a walk back over the versions that are whole."""
    what, at = f"namespace {namespace!r}", LAST
    source = Source(partial(_BACKWARDS.rows, connection, namespace), partial(_each, namespace), _seq)
    while True:
        part = part_of(connection, source, at, 1, lambda each: each.stored_at <= time, what)
        if part.found or part.last is None:
            return part.found[0].seq if part.found else 0
        at = part.last.seq


def _seq(change: ChangeRecord) -> int:
    return change.seq


def _change(namespace: str, row: Any) -> ChangeRecord:
    id, version, seq, _, stored_at, _, _, metadata, *_ = row
    datum = datum_of(namespace, row)
    author, reason = (None, None) if datum is not None else read_note(metadata)
    return ChangeRecord(id, version, seq, stored_at, datum, author, reason)


def _each(namespace: str, rows: Iterable[Any]) -> Iterator[ChangeRecord | Damaged]:
    for row in rows:
        try:
            yield _change(namespace, row)
        except Corrupt:
            yield damaged_of(row)
