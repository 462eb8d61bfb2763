"""SQLite's planner takes the index that each statement was written for: a wrong choice is slow and never an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from dgent.memory.datum_index import TABLES
from dgent.memory.sql import (
    causal_reads,
    changes,
    erasure,
    key_listing,
    namespace_head,
    past_queries,
    queries,
    query_bounds,
    reads,
    writes,
)
from dgent.memory.sql.past_queries import _Shape as PastShape
from dgent.memory.sql.past_queries import _standing
from dgent.memory.sql.queries import _listing, _QueryShape
from dgent.sql.statement import Statement

MODULES = (
    *(causal_reads, changes, erasure, key_listing, namespace_head),
    *(past_queries, queries, query_bounds, reads, writes),
)
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}{name}": statement
    for module in MODULES
    for name, statement in vars(module).items()
    if isinstance(statement, Statement)
}
IN_RANGE = frozenset(["first", "end"])
BY_ID = (
    *("_GET", "_GET_MANY", "_LATEST", "_LATEST_OF_ONE", "_HISTORY", "_ANCESTORS", "_PURGE", "_SUPERSEDE"),
    *("_CHAIN", "_CHAIN_AT_TIME", "_CHAIN_OF_VERSION"),
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as opened:
        TABLES.prepare(opened)
        yield opened
    engine.dispose()


def plan(connection: Connection, statement: Statement) -> list[str]:
    sql = statement._compile(connection.dialect).sql
    values = ["[]" if "json_each" in sql else None] * sql.count("?")
    driver = connection.connection.dbapi_connection
    assert driver is not None
    return [row[3] for row in driver.cursor().execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()]


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_scans_a_table(connection: Connection, name: str) -> None:
    steps = plan(connection, STATEMENTS[name])
    assert not [step for step in steps if step.startswith("SCAN dgent_")], steps


@pytest.mark.parametrize("name", sorted(name for name in STATEMENTS if name.endswith(BY_ID)))
def test_an_id_is_looked_up_by_its_key(connection: Connection, name: str) -> None:
    steps = [step for step in plan(connection, STATEMENTS[name]) if step.startswith("SEARCH")]
    by_key = [step for step in steps if "namespace=? AND id=?" in step]
    assert by_key
    assert all(step in by_key or "rowid=?" in step for step in steps), steps


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        (_QueryShape("newest", "order", 0, frozenset(), False), "ix_dgent_datums_time"),
        (_QueryShape("newest", "order", 0, frozenset(), True, past=True), "ix_dgent_datums_time"),
        (_QueryShape("oldest", "order", 0, IN_RANGE | {"after"}, True), "ix_dgent_datums_time"),
        (_QueryShape("seq", "order", 0, frozenset(["after_seq"]), False), "ix_dgent_datums_seq"),
        (_QueryShape("newest", "id", 0, IN_RANGE, True), "(namespace=? AND id>? AND id<?)"),
        (_QueryShape("seq", "id", 0, IN_RANGE, False), "(namespace=? AND id>? AND id<?)"),
        (_QueryShape("newest", "term", 2, IN_RANGE | {"since"}, True), "PRIMARY KEY (namespace=? AND term=?"),
        (
            _QueryShape("id", "order", 0, frozenset(["since"]), False),
            "sqlite_autoindex_dgent_datums_1 (namespace=?)",
        ),
        (
            _QueryShape("-id", "order", 0, IN_RANGE | {"before_seq"}, False, True),
            "(namespace=? AND id>? AND id<?)",
        ),
        (_QueryShape("id", "order", 0, IN_RANGE, False), "(namespace=? AND id>? AND id<?)"),
        (_QueryShape("-seq", "order", 0, IN_RANGE | {"before_seq"}, False), "ix_dgent_datums_seq"),
        (_QueryShape("id", "term", 1, IN_RANGE, False), "PRIMARY KEY (namespace=? AND term=?"),
        (_QueryShape("newest", "parent", 0, IN_RANGE | {"since"}, True), "ix_dgent_datums_parent"),
        (_QueryShape("-id", "parent", 0, IN_RANGE, False), "ix_dgent_datums_parent"),
        (_QueryShape("seq", "parent", 0, frozenset(["after_seq"]), False), "ix_dgent_datums_parent"),
        (_QueryShape("seq", "term", 1, frozenset(), False), "PRIMARY KEY (namespace=? AND term=?"),
    ],
)
def test_a_listing_walks_what_was_chosen_for_it(connection: Connection, shape: _QueryShape, index: str) -> None:
    steps = plan(connection, _listing(shape))
    assert steps[0].startswith("SEARCH dgent_")
    assert index in steps[0]
    if shape.by == "order":
        assert len(steps) == 1, f"it sorts, rather than walk an order that is there: {steps}"


def test_segments_are_found_by_one_step_in_the_index_of_ids_for_each(connection: Connection) -> None:
    steps = [step for step in plan(connection, key_listing._SEGMENTS) if "dgent_datums" in step]
    assert steps
    assert all("(namespace=? AND id>? AND id<?)" in step for step in steps), steps


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        (PastShape("id", True, True, frozenset(), False), "(namespace=?)"),
        (PastShape("id", True, True, frozenset(["first", "end"]), False), "(namespace=? AND id>? AND id<?)"),
        (PastShape("-id", True, True, frozenset(["end"]), False), "(namespace=? AND id<?)"),
        (PastShape("newest", True, True, frozenset(["first", "end"]), True), "AND id>? AND id<?)"),
        (PastShape("newest", True, True, frozenset(["ids"]), False), "(namespace=? AND id=?)"),
        (PastShape("seq", False, True, frozenset(["after_seq", "until_seq"]), False), "datums_seq"),
        (PastShape("-seq", False, True, frozenset(["before_seq"]), False), "datums_seq"),
        (PastShape("newest", False, True, frozenset(["until_seq", "end", "first"]), True), "datums_seq"),
        (PastShape("newest", False, False, frozenset(["until_seq", "after_seq"]), True), "datums_seq"),
    ],
)
def test_each_way_into_the_past_takes_its_index(connection: Connection, shape: PastShape, index: str) -> None:
    steps = plan(connection, _standing(shape))
    assert index in next(step for step in steps if step.startswith("SEARCH dgent_datums ")), steps
    assert "(namespace=? AND id=? AND version>?)" in next(step for step in steps if "later" in step), steps
