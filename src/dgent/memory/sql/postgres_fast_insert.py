"""Puts of new ids as one statement that commits itself: one round trip to the server, where a transaction takes five.

The writer supposes that the head of the namespace is where this process last saw it, and that the store has none of
the ids. On that it makes the rows, and sends them with what it supposes as a condition on the head row. Nothing is
written unless all of it is so, because who appends to a namespace moves its head, which never goes back:

* The statement sees the head at the supposed seq, and it locks the row and finds the seq unmoved. So nothing was
  appended since the moment it sees, in which none of the ids was there.
* Versions that were erased since then do no harm: it relies on what is absent only. A head that was erased with them
  comes back behind every seq that it had.
* A supposition that was wrong once stays wrong, so a statement that comes late does nothing.
* It sees that the store is kept with no other index; who makes one holds the table of heads meanwhile.

The server's clock decides when a datum expires, and its digest covers the time, which therefore has to be known before
the statement is sent. The writer supposes that too: each answer tells the server's time, and from there a clock of this
process counts on. The server refuses a time that is further from its own than `TOLERANCE`.

What this process remembers of a head and of a clock is therefore a guess. A wrong one costs a round trip, and nothing
else.
"""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    Float,
    TableValuedAlias,
    bindparam,
    column,
    exists,
    func,
    insert,
    literal_column,
    not_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from dgent.memory.datum_index import NOTED, kept, registered
from dgent.memory.metadata_index import rows_of, terms
from dgent.memory.sql.datum_tables import Row, datums, heads
from dgent.memory.sql.namespace_head import move, take
from dgent.memory.sql.writes import planned, write
from dgent.memory.write_batch import NamespaceHead, WriteBatch
from dgent.operations import Operation, Outcome, Put
from dgent.sql.constructs import clock_time, one_of
from dgent.sql.runner import Optimistic
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import CTE, Column, Connection

    from dgent.limits import Limits

Batch: TypeAlias = "Sequence[Operation]"
Result: TypeAlias = "list[Outcome] | Exception"

MOST: Final = 256
"""Rows up to which one statement is quicker than a transaction, in which they are copied."""
_LONGEST_PAUSE: Final = 64
TOLERANCE: Final = 1.0
"""Seconds by which the time of a put may differ from the server's: longer than a round trip to any server that one
would write to, shorter than any time to live that makes sense between hosts. Ordinarily it is a round trip behind."""

d, t, h = datums.c, terms.c, heads.c


class NamespaceWriter(Optimistic[Batch, list[Outcome]]):
    """Writes what waits for one namespace: in one statement where all may be new, else in a transaction.

    `clock` is the time of a database that has no clock; `ticks` are seconds that pass, from any moment on.
    """

    def __init__(self, namespace: str, limits: Limits, clock: Callable[[], float], ticks: Callable[[], float]) -> None:
        self.namespace, self._limits, self._clock, self._ticks = namespace, limits, clock, ticks
        self._seq: int | None = None
        self._stored_at = self._ahead = 0.0
        self._misses = self._pause = 0

    def __call__(self, connection: Connection, batches: list[Batch]) -> list[Result]:
        """Apply batches in a transaction, and remember where the head is then."""
        results, head = write(connection, self.namespace, batches, self._clock, self._limits)
        self._remember(head)
        return results

    def attempt(self, batches: list[Batch]) -> FastInsert | None:
        """Return the statement that puts all, if they may be new and the head is known."""
        puts = [one for batch in batches for one in batch if isinstance(one, Put) and not one.expect]
        if self._seq is None or len(puts) > MOST or len(puts) < sum(map(len, batches)):
            return None
        if len(registered()) > 1:  # the one statement has room for the index of metadata alone
            return None
        if self._pause:
            self._pause -= 1
            return None
        head = NamespaceHead(self._seq, self._stored_at, self._ticks() + self._ahead)
        batch = planned(self.namespace, self._limits, head, {}, (), _no_ancestors)
        results = batch.apply_each(batches)
        if not puts or len(batch.last) < len(puts):  # an id may come twice, or close a cycle
            return None
        return FastInsert(self, batch, results)

    def tries(self) -> None:
        """Try less and less often while it is in vain: others write here, ids are not new, or the server refuses."""
        self._pause = min(2**self._misses, _LONGEST_PAUSE) - 1
        self._misses += 1

    def wrote(self, head: NamespaceHead) -> None:
        """Remember where this process left the head, and that it succeeds."""
        self._remember(head)
        self._pause = self._misses = 0

    def _remember(self, head: NamespaceHead) -> None:
        self._seq, self._stored_at = head.seq, head.stored_at
        self._ahead = head.now - self._ticks()


class FastInsert:
    """Rows and their terms that go in together, or not at all where something is not as supposed."""

    def __init__(self, writer: NamespaceWriter, batch: WriteBatch[Row], results: list[Result]) -> None:
        self._writer, self._batch, self._results = writer, batch, results

    def run(self, connection: Connection) -> list[Result] | None:
        """Write and return the results; None if nothing was written."""
        batch, rows, found = self._batch, self._batch.rows, rows_of(self._batch.namespace, self._batch.rows)
        children = [row.id for row in rows if row.parent is not None]
        expiring = any(row.expires_at is not None for row in rows)
        shape = _InsertShape(len(rows) == 1, bool(children), expiring, bool(found))
        statement, own = _statement(shape)
        values = [batch.namespace, batch.seq - len(rows), batch.seq, batch.now, batch.stored_at, kept()]
        values += own(rows[0] if shape.one else [*zip(*rows, strict=True)])
        if shape.children:
            values.append(children)
        if shape.terms:
            values += [*zip(*found, strict=True)][1:4]
        self._writer.tries()
        answer = statement.row(connection, *values)
        if answer is None:
            return None
        self._writer.wrote(NamespaceHead(batch.seq, batch.stored_at, answer[0]))
        return self._results

    def look(self, connection: Connection) -> list[Result] | None:
        """Return the results if it is in, in a transaction after its answer was lost. From then on it cannot come."""
        row = self._batch.rows[0]
        head = take(connection, row.namespace, lambda: row.stored_at)
        move(connection, row.namespace, head.seq + 1, head.stored_at)  # what comes late finds it elsewhere
        found = _DIGEST.row(connection, row.namespace, row.id)
        return self._results if found is not None and found[0] == row.digest else None


def _no_ancestors(id: str) -> dict[str, str | None]:
    """Suppose that nothing is above an id, since nothing is there."""
    return {}


_DIGEST = Statement(
    select(d.digest).where(d.namespace == bindparam("ns"), d.id == bindparam("id"), d.version == literal_column("1")),
    "ns id",
)


class _InsertShape(NamedTuple):
    """What the statement looks like, apart from its values."""

    one: bool  # one row as scalars, or many as arrays
    children: bool  # some have a parent
    expiring: bool
    terms: bool

    def columns(self) -> list[str]:
        """Return the columns that differ from row to row. Seqs are counted on the server."""
        optional = ["parent"] * self.children + ["expires_at"] * self.expiring
        return ["id", "created_at", "metadata", "content", "digest", *optional]


@cache
def _statement(shape: _InsertShape) -> tuple[Statement, Callable[[Sequence[Any]], tuple[Any, ...]]]:
    """Write the statement of a shape, and return what takes the columns that it wants from a row or from all columns.

    The parameters come in the order in which `run` gives them.
    """
    names = shape.columns()
    head, new = _head(shape), _unnest("new", [d[name] for name in names])
    own = {name: bindparam(f"new_{name}", type_=d[name].type) if shape.one else new.c[name] for name in names}
    values: dict[str, Any] = {
        "namespace": head.c.namespace,
        "version": literal_column("1"),
        "seq": bindparam("to_seq", type_=d.seq.type) if shape.one else bindparam("from_seq") + new.c.at,
        "live": literal_column("true"),
        "stored_at": head.c.stored_at,
        **own,
    }
    source = head if shape.one else head.join(new, true())
    put = insert(datums).from_select(list(values), select(*values.values()).select_from(source))
    element = select(head.c.now).add_cte(put.cte("put"))
    params = ["ns from_seq to_seq now stored_at kept", *(f"new_{name}" for name in names)]
    if shape.children:
        params.append("children")
    if shape.terms:
        found = _unnest("found", [t.term, t.created_at, t.id])
        keys = select(head.c.namespace, found.c.term, found.c.created_at, found.c.id, literal_column("1"))
        filed = insert(terms).from_select(t.keys(), keys.select_from(head.join(found, true())))
        element = element.add_cte(filed.cte("filed"))
        params.append("found_term found_created_at found_id")
    return Statement(element, " ".join(params)), itemgetter(*map(Row._fields.index, names))


def _head(shape: _InsertShape) -> CTE:
    """Move the head on, if it, the time and the formats are as we suppose, and the store has neither ids nor children.

    Without children of theirs in the store, only rows of ours could close a cycle.
    """
    here = d.namespace == bindparam("ns")
    known = d.id == bindparam("new_id", type_=d.id.type) if shape.one else one_of(d.id, "new_id")
    moved = update(heads).where(
        h.namespace == bindparam("ns"),
        h.seq == bindparam("from_seq"),
        h.stored_at <= bindparam("stored_at"),
        func.abs(clock_time("clock") - bindparam("now", type_=Float(53))) <= literal_column(str(TOLERANCE)),
        not_(exists(literal_column("1")).where(here, known)),
        bindparam("kept") == NOTED,
    )
    if shape.expiring:  # its life begins when the wait for the lock is over
        held = select(h.namespace).where(h.namespace == bindparam("ns")).with_for_update().subquery("held")
        moved = moved.where(h.namespace == held.c.namespace)
    if shape.children:
        child = exists(literal_column("1")).where(here, one_of(d.parent, "children"), d.live)
        moved = moved.where(not_(child))
    return (
        moved.values(seq=bindparam("to_seq"), stored_at=bindparam("stored_at"))
        .returning(h.namespace, h.stored_at, clock_time("clock").label("now"))
        .cte("head")
    )


def _unnest(name: str, columns: Sequence[Column[Any]]) -> TableValuedAlias:
    """Return arrays as the columns of a table, with the place in the arrays as `at`."""
    arrays = [bindparam(f"{name}_{each.name}", type_=ARRAY(each.type)) for each in columns]
    table = func.unnest(*arrays).table_valued(
        *(column(each.name, each.type) for each in columns), with_ordinality="at", name=name
    )
    return table.render_derived()
