"""The head row of a namespace: its lock puts writers in the order of their commits, and its time is theirs."""

# a writer                  what it holds                                     what the others do
# before `lock` or `take`   nothing                                           go on
# waiting                   nothing: on PostgreSQL it waits for the row; on   one of them holds it
#                           SQLite it has waited for the whole file before
# deciding                  the head row, until its transaction ends          who changes anything in the namespace
#                                                                             waits; who reads does not
# forgetting                the head row, which goes at the commit; then the   who waits for it finds none, and begins
#                           row of the mark                                   anew; who begins a namespace waits for
#                                                                             the mark
# refused                   nothing: the store is kept with other indexes      go on
#                           than this process keeps
#                           nothing: at REPEATABLE READ the row was written   may run again
#                           since its first statement (40001, `Conflict`)
#
# At READ COMMITTED each statement sees what was committed before it began; so a statement after the lock sees all that
# whoever held it before has done, while one that took the lock and read at once would see what was there before it
# waited. Whatever changes a namespace writes its head row, too: appending moves it, erasing leaves it where it is. A
# cancel ends the transaction, and the lock with it.
#
# A namespace that is erased whole loses its head row. Its seq stays in one row for all of them, the mark, behind which
# every namespace begins: so no seq comes twice, and no name has to be kept for that. Who begins one looks at the mark
# in a statement after its head row is in: whoever erased that name before has committed by then.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Float, bindparam, case, delete, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from dgent.memory.datum_index import NOTED, TABLES, kept
from dgent.memory.sql.datum_tables import MARK, heads
from dgent.memory.write_batch import NamespaceHead
from dgent.sql.constructs import clock_time, one_of
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

h = heads.c


_MARK_NAME: Final = literal_column(f"'{MARK}'", h.namespace.type)
_held = select(h.seq, h.stored_at).where(h.namespace == bindparam("ns")).with_for_update().subquery("held")
# The clock is read outside of the subquery, which PostgreSQL does not merge: after the wait for the lock.
# So are the formats that are noted: who makes an index holds this table, for which a statement waits before it looks.
_LOCK = Statement(select(_held.c.seq, _held.c.stored_at, clock_time("now"), NOTED), "ns now")
_at_zero: dict[str, Any] = {"seq": literal_column("0"), "stored_at": literal_column("0.0")}
_BEGIN = Statement(  # with the mark, which older tables lack; and who sees an older one at REPEATABLE READ is refused
    upsert(heads)
    .values([{"namespace": bindparam("ns"), **_at_zero}, {"namespace": _MARK_NAME, **_at_zero}])
    .on_conflict_do_nothing(index_elements=[h.namespace]),
    "ns",
)
_mark = heads.alias("mark")
_marked = select(_mark.c.seq).where(_mark.c.namespace == _MARK_NAME).scalar_subquery()
_RAISE = Statement(update(heads).where(h.namespace == bindparam("ns"), h.seq < _marked).values(seq=_marked), "ns")
_new_mark = upsert(heads).values(namespace=_MARK_NAME, seq=bindparam("to_seq"), stored_at=literal_column("0.0"))
_highest = case((_new_mark.excluded.seq > h.seq, _new_mark.excluded.seq), else_=h.seq)
_SET_MARK = Statement(_new_mark.on_conflict_do_update(index_elements=[h.namespace], set_={"seq": _highest}), "to_seq")
_FORGET = Statement(delete(heads).where(one_of(h.namespace, "names")), "names", lists="names")
MOVE: Final = (
    update(heads)
    .where(h.namespace == bindparam("ns"))
    .values(seq=bindparam("to_seq"), stored_at=bindparam("at", type_=Float(53))),
    "ns to_seq at",
)
"""Says where a namespace stands after what was appended, with the names of its values: it goes with the INSERT."""
_MOVE = Statement(*MOVE)
_TOUCH = Statement(update(heads).where(h.namespace == bindparam("ns")).values(seq=h.seq), "ns")


def lock(connection: Connection, namespace: str, clock: Callable[[], float]) -> NamespaceHead | None:
    """Lock the head row of a namespace until the commit; None if nobody has ever written there.

    Raises:
        SchemaTooNew: another process made an index since the store was opened, or upgraded the tables.
        SchemaOutdated: an index was registered since, or is to be built anew: `prepare` makes it.
    """
    _LOCK.begin(connection)  # which may wait for the lock, and the clock goes on meanwhile
    row = _LOCK.row(connection, namespace, clock())
    if row is None:
        return None
    seq, stored_at, now, noted = row
    if noted != kept():
        TABLES.check_for_writing(connection)
    return NamespaceHead(seq, stored_at, now)


def take(connection: Connection, namespace: str, clock: Callable[[], float]) -> NamespaceHead:
    """Lock the head row of a namespace until the commit; make it, if nobody has written there. Raises as `lock`."""
    while (head := lock(connection, namespace, clock)) is None:  # once, unless others make it and erase it meanwhile
        _BEGIN.run(connection, namespace)
        _RAISE.run(connection, namespace)
    return head


def move(connection: Connection, namespace: str, seq: int, stored_at: float) -> None:
    """Say where the namespace stands, where no rows are inserted."""
    _MOVE.run(connection, namespace, seq, stored_at)


def forget(connection: Connection, held: Mapping[str, NamespaceHead]) -> None:
    """Let the names go of namespaces that are locked and empty, and keep the highest seq that any of them had."""
    _SET_MARK.run(connection, max(head.seq for head in held.values()))
    _FORGET.run(connection, [*held])


def touch(connection: Connection, namespace: str) -> None:
    """Write the head row as it is, after something was erased."""
    _TOUCH.run(connection, namespace)
