"""The index of metadata: what a live datum can be found by without a scan, hashes of the scalar paths of its metadata.

A term is 64 bits of BLAKE3 over a path and a value. Two values may share one, so whatever an index finds is checked
against the query itself: an inverted index in a portable table, after the idea of PostgreSQL's GIN `jsonb_path_ops`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson
from blake3 import blake3
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    select,
    tuple_,
)

from dgent.condition_tree import All, No, Test
from dgent.exceptions import InvalidQuery
from dgent.jsonvalue import comparable_or_none
from dgent.memory.sql.datum_tables import datums, is_whole
from dgent.query import Query, checked_query
from dgent.sql.constructs import BYTEWISE, one_of
from dgent.sql.error_details import declare
from dgent.sql.keyset import behind, in_order
from dgent.sql.statement import BulkInsert, Statement
from dgent.sql.table_set import TableSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

    from dgent.condition_tree import Node
    from dgent.datum import Datum
    from dgent.memory.sql.datum_tables import Row

metadata = MetaData()
declare(metadata)

TABLES: Final = TableSet("the index of metadata", "format.index.metadata", metadata, 1)

terms = Table(
    "dgent_terms",
    metadata,
    Column("namespace", BYTEWISE, primary_key=True),
    Column("term", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", Float(53), primary_key=True),
    Column("id", BYTEWISE, primary_key=True),
    Column("version", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    comment="What live datums can be found by: a hash of a metadata path and its value.",
)


t = terms.c
_MEMBER: Final = "[]"
_NOT_SEARCHED: Final = ("order", "limit", "cursor", "offset", "as_of", "expired")
_AS_IT_IS: Final = tuple(getattr(Query, name) for name in _NOT_SEARCHED)
_INSERT, _REPLACE = BulkInsert(terms), BulkInsert(terms, replace=["version"])
"""The second for ids that were there: where one was damaged, its terms could not all be forgotten."""
_FORGET_TERM = Statement(
    delete(terms).where(
        t.namespace == bindparam("ns"),
        t.term == bindparam("of_term"),
        t.created_at == bindparam("created"),
        t.id == bindparam("of_id"),
    ),
    "ns of_term created of_id",
)
_FORGET_ALL = Statement(delete(terms).where(t.namespace == bindparam("ns")), "ns")
_FORGET_IDS = Statement(delete(terms).where(t.namespace == bindparam("ns"), one_of(t.id, "ids")), "ns ids", lists="ids")
_AT_ONCE: Final = 1000
"""Keys that are looked up in one statement."""
_keys = [t.term, t.created_at, t.id]
_of_live_row = and_(
    datums.c.namespace == t.namespace, datums.c.id == t.id, datums.c.version == t.version, datums.c.live
)
_page = select(*_keys, t.version, exists().where(_of_live_row)).where(t.namespace == bindparam("ns"))
_page = _page.order_by(*in_order(_keys, descending=False)).limit(bindparam("most", type_=Integer))
_FIRST = Statement(_page, "ns most")
_NEXT = Statement(
    _page.where(behind(_keys, ["at_term", "at_time", "at_id"], descending=False)), "ns at_term at_time at_id most"
)


@lru_cache(maxsize=8192)
def term(path: tuple[str | int, ...], value: str) -> int:
    """Return the term of a path of names and a value in comparable JSON."""
    return int.from_bytes(blake3(orjson.dumps([path, value])).digest(8), "big", signed=True)


def terms_of(metadata_json: str) -> set[int]:
    """Return the terms of metadata: each scalar below nested objects, and each member of `tags`."""
    if metadata_json == "{}":
        return set()
    metadata: dict[str, Any] = orjson.loads(metadata_json)
    found = {term(path, value) for path, value in _scalars(metadata, ())}
    tags = metadata.get("tags")
    if isinstance(tags, list):
        found |= {tag_term(tag) for tag in tags if isinstance(tag, str)}
    return found


def tag_term(tag: str) -> int:
    """Return the term of one tag."""
    return term(("tags", _MEMBER), orjson.dumps(tag).decode())


def terms_for(query: Query) -> list[int]:
    """Return the terms that every match of a query has."""
    found = [tag_term(tag) for tag in sorted(query.tags)]
    if query.schema is not None:
        found.append(term(("schema",), orjson.dumps(query.schema).decode()))
    if query.author is not None and query.author != "system":  # "system" also means that there is none
        found.append(term(("author",), orjson.dumps(query.author).decode()))
    alternatives = map(terms_of_any, query.conditions)
    return found + [only for among in alternatives if among is not None and len(among) == 1 for only in among]


def covers(query: Query) -> bool:
    """Tell whether terms stand for all that a query asks of the metadata and the content."""
    return query.author != "system" and all(
        isinstance(condition, Test) and len(_terms_of_test(condition) or ()) == 1 for condition in query.conditions
    )


def terms_of_any(node: Node) -> frozenset[int] | None:
    """Return terms of which every match of a condition has at least one, as few as can be; None if there are none."""
    if isinstance(node, Test):
        return _terms_of_test(node)
    if isinstance(node, No):
        return None
    among = [terms_of_any(part) for part in node.parts]
    if isinstance(node, All):
        return min((each for each in among if each is not None), key=len, default=None)
    return None if None in among else frozenset().union(*among)  # type: ignore[arg-type]  # None is not in it


def _terms_of_test(test: Test) -> frozenset[int] | None:
    """Return the terms of scalars in the metadata, which are what has one."""
    named = test.root == "metadata" and all(isinstance(step, str) for step in test.path)
    if not named or not isinstance(test.value, frozenset) or any(value[0] in "{[" for value in test.value):
        return None
    return frozenset(term(test.path, value) for value in test.value)


def _scalars(value: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _scalars(item, (*path, name))
        elif not isinstance(item, list) and (text := comparable_or_none(item)) is not None:
            yield (*path, name), text


class MetadataIndex:
    """The `DatumIndex` of the scalars in the metadata, which narrows queries for tags, schema, author and paths."""

    name = "metadata"
    tables = TABLES

    def add(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> None:
        """Take in rows that are live from now on."""
        found = rows_of(namespace, rows)
        if found:
            (_INSERT if all(row.version == 1 for row in rows) else _REPLACE).run(connection, found)

    def remove(self, connection: Connection, namespace: str, rows: Iterable[Row]) -> None:
        """Take out rows that are not live any more; damaged ones by a scan, since they cannot say where they stand."""
        found: list[tuple[str, int, float, str]] = []
        damaged: list[str] = []
        for row in rows:
            if is_whole(row):
                found += [(namespace, term, row.created_at, row.id) for term in terms_of(row.metadata)]
            else:
                damaged.append(row.id)
        if found:
            _FORGET_TERM.run_many(connection, found)
        if damaged:
            _FORGET_IDS.run(connection, namespace, damaged)

    def erase(self, connection: Connection, namespace: str) -> None:
        """Take out everything of a namespace."""
        _FORGET_ALL.run(connection, namespace)

    def lacking(self, connection: Connection, namespace: str, rows: Sequence[Row]) -> set[str]:
        """Return the ids of those live rows of which it has not every term."""
        wanted = {(term, created_at, id, version) for _, term, created_at, id, version in rows_of(namespace, rows)}
        keys = [key[:3] for key in wanted]
        for start in range(0, len(keys), _AT_ONCE):
            these = tuple_(*_keys).in_(keys[start : start + _AT_ONCE])
            found = connection.execute(select(*_keys, t.version).where(t.namespace == namespace, these))
            wanted.difference_update(map(tuple, found))
        return {id for _, _, id, _ in wanted}

    def strays(
        self, connection: Connection, namespace: str, at: tuple[int, float, str] | None, most: int
    ) -> tuple[list[tuple[str, int]], tuple[int, float, str] | None]:
        """Return id and version of what it has of no live row on a page, and where the next page begins, if any."""
        rows = _FIRST.rows(connection, namespace, most) if at is None else _NEXT.rows(connection, namespace, *at, most)
        found = {(id, version): None for _, _, id, version, is_live in rows if not is_live}
        return [*found], None if len(rows) < most else tuple(rows[-1][:3])

    def search(self, connection: Connection, namespace: str, question: Query, limit: int) -> list[str]:
        """Return the ids of what may match a query with tags, a schema, an author or conditions, the newest first.

        Raises:
            InvalidQuery: it has none of these; or what is for `query`: an order, a limit, a cursor, a time, `expired`.
        """
        wanted = terms_for(checked_query(question))
        if tuple(getattr(question, name) for name in _NOT_SEARCHED) != _AS_IT_IS:
            raise InvalidQuery(
                "a search gives what is live, the newest first, up to its own limit: for another order, for pages, for "
                "what was live at a time or has expired use query()"
            )
        if not wanted:
            raise InvalidQuery(
                "the index of metadata finds by tag, schema, author and metadata path: give one of these"
            )
        return [id for (id,) in _find(len(wanted)).rows(connection, namespace, limit, *wanted)]

    def confirms(self, question: Query, datum: Datum) -> bool:
        """Tell whether a datum matches: two values may share a term."""
        return question.matches(datum)


def rows_of(namespace: str, rows: Iterable[Row]) -> list[tuple[str, int, float, str, int]]:
    """Return what stands in the index for some rows."""
    return [
        (namespace, term, row.created_at, row.id, row.version)
        for row in rows
        if row.metadata != "{}"
        for term in terms_of(row.metadata)
    ]


@lru_cache(maxsize=16)
def _find(count: int) -> Statement:
    """Write the statement that finds what has so many terms."""
    where = [t.namespace == bindparam("ns"), t.term == bindparam("term0"), *(also(at) for at in range(1, count))]
    found = (
        select(t.id).where(*where).order_by(t.created_at.desc(), t.id.desc()).limit(bindparam("most", type_=Integer))
    )
    return Statement(found, " ".join(["ns most", *(f"term{at}" for at in range(count))]))


def also(at: int) -> ColumnElement[bool]:
    """Return the condition that a row of the index, in an outer query, has another term as well."""
    other = terms.alias(f"also{at}")
    return exists().where(
        other.c.namespace == bindparam("ns"),
        other.c.term == bindparam(f"term{at}"),
        other.c.created_at == t.created_at,
        other.c.id == t.id,
    )
