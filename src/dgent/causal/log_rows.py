"""The rows of the logs: the statements that read and write them, and the heads and entries that they are.

What has a form that no entry can have is refused, with MalformedRow.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import BigInteger, bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from dgent.causal.hash_chain import Entry
from dgent.causal.head import HASH_SIZE, START, Head
from dgent.exceptions import MalformedRow
from dgent.sql.constructs import announcing
from dgent.sql.statement import BulkInsert, Statement

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select

    from dgent.causal.hash_chain import Format

_LARGEST: Final = 2**63 - 1


def entry_of(format: Format, stream: str, writer: str, row: Any) -> Entry:
    """Return a row as an entry; its hash is not recomputed."""
    seq, prev, own, payload = row
    fits = isinstance(payload, bytes) and _is_hash(own) and (prev is None or _is_hash(prev))
    if type(seq) is not int or not 0 <= seq <= _LARGEST or not fits:
        raise malformed(stream, writer, seq)
    return Entry(stream, writer, seq, prev, own, payload, format.name)


def head_of(stream: str, writer: str, row: Any | None) -> Head:
    """Return where a log ends by the seq and the hash of its last entry; None stands for no entry."""
    if row is None:
        return START
    seq, own = row
    if type(seq) is not int or not 1 <= seq < _LARGEST or not _is_hash(own):
        raise malformed(stream, writer, seq)
    return Head(seq, own)


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_SIZE


def malformed(stream: str, writer: object, seq: object) -> MalformedRow:
    """Return the error for a row that has a form that no entry can have."""
    where = f"{writer!r:.80} in {stream!r:.80}"
    return MalformedRow(f"the row {seq!r:.80} of {where} is no entry of a log: verify it, and restore it from a backup")


def texts_of(rows: list[Any]) -> list[str]:
    """Return the names that rows hold."""
    for (name,) in rows:
        if type(name) is not str:
            raise MalformedRow(f"a log has the name {name!r:.80}, which is no text: restore it from a backup")
    return [name for (name,) in rows]


def row_of(entry: Entry) -> tuple[Any, ...]:
    """Return an entry as the columns of its row."""
    return entry.stream, entry.writer, entry.seq, entry.prev_hash, entry.content_hash, entry.payload


class LogStatements(NamedTuple):
    """What reads and writes the rows of the logs of one format."""

    head: Statement
    at: Statement
    claim: Statement
    insert: BulkInsert
    start: Statement
    entries: Statement
    streams: Statement
    writers: Statement
    ends: Statement
    heads: Statement


@cache
def statements_of(format: Format) -> LogStatements:
    """Write the statements of a format, once."""
    log = format.table
    c = log.c
    here = (c.stream == bindparam("in_stream"), c.writer == bindparam("of_writer"))
    values: dict[str, Any] = {column.name: bindparam(column.name, type_=column.type) for column in c}
    claim = insert(log).values({**values, "stream": announcing("stream", "topic")})
    rows = select(c.seq, c.prev_hash, c.content_hash, c.payload).where(*here).order_by(c.seq)
    rows = rows.limit(bindparam("most", type_=BigInteger)).offset(literal_column("0"))  # else OFFSET ? has to be bound
    head = select(c.seq, c.content_hash).where(*here).order_by(c.seq.desc())
    head = head.limit(literal_column("1")).offset(literal_column("0"))
    streams, writers = _each(c.stream), _each(c.writer, c.stream == bindparam("in_stream"))
    of = (c.stream == bindparam("in_stream"), c.writer == writers.selected_columns.name)
    last = select(func.max(c.seq)).where(*of)
    own = (
        select(c.content_hash).where(*of).order_by(c.seq.desc()).limit(literal_column("1")).offset(literal_column("0"))
    )
    return LogStatements(
        Statement(head, "in_stream of_writer"),
        Statement(head.where(c.seq <= bindparam("until")), "in_stream of_writer until"),
        Statement(
            claim.on_conflict_do_nothing(index_elements=[c.stream, c.writer, c.seq]), " ".join([*values, "topic"])
        ),
        BulkInsert(log),
        Statement(rows, "in_stream of_writer most"),
        Statement(rows.where(c.seq > bindparam("after")), "in_stream of_writer after most"),
        Statement(streams),
        Statement(writers, "in_stream"),
        Statement(writers.add_columns(last.scalar_subquery()), "in_stream"),
        Statement(writers.add_columns(last.scalar_subquery(), own.scalar_subquery()), "in_stream"),
    )


def _each(column: ColumnElement[str], *where: ColumnElement[bool]) -> Select[str]:
    """Step from one value of the key to the next: DISTINCT reads every row, and on SQLite every payload with it."""
    found = select(func.min(column).label("name")).where(*where).cte("found", recursive=True)
    further = select(func.min(column)).where(*where, column > found.c.name).scalar_subquery()
    found = found.union_all(select(further).where(found.c.name.is_not(None)))
    return select(found.c.name).where(found.c.name.is_not(None)).order_by(found.c.name)
