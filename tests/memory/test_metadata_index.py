"""Two values may share a term: what an index finds is checked against the query."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.memory import metadata_index
from dgent.memory.metadata_index import covers
from dgent.query import Query

KINDS = [{"tags": ["a"]}, {"tags": ["b", "a"]}, {"n": 1}, {"n": 1.0}, {"n": "1"}, {"n": True}, {"m": {"n": 1}}, {}]
QUERIES = [
    Query(tags=frozenset("a")),
    Query(tags=frozenset("ab")),
    Query(where={"metadata.n": 1}),
    Query(where={"metadata.n": "1"}),
    Query(where={"metadata.n": True}),
    Query(where={"metadata.m.n": 1}),
    Query(where={"metadata.m": {"n": 1}}),
    Query(where={"metadata.tags[0]": "b"}, tags=frozenset("a")),
    Query(where={"metadata.n": 2}),
]


@pytest.mark.parametrize("bits", [0, 1, 63])
async def test_what_shares_a_term_is_told_apart(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    whole = metadata_index.term
    monkeypatch.setattr(metadata_index, "term", lambda path, value: whole(path, value) % 2**bits)
    draw = random.Random(7)
    datums = [Datum(f"d{at}", b"", float(at), metadata=draw.choice(KINDS)) for at in range(300)]
    async with sqlite(sqlite_path) as store:
        await store.put_many(datums)
        for query in QUERIES:
            found, wanted = [], [datum for datum in reversed(datums) if query.matches(datum)]
            page = await store.query(Query(where=query.where, tags=query.tags, limit=7))
            found += page
            while page.cursor:
                page = await store.query(Query(where=query.where, tags=query.tags, limit=7, cursor=page.cursor))
                found += page
            assert found == wanted


@pytest.mark.parametrize(
    ("query", "covered"),
    [
        (Query(tags=frozenset("a"), schema="s", author="x", where={"metadata.n": None}), True),
        (Query(author="system"), False),
        (Query(where={"n": 1}), False),
        (Query(where={"metadata.n": [1]}), False),
        (Query(where={"metadata.n[0]": 1}), False),
        (Query(where={"metadata.n": 1, "content.n": 1}), False),
    ],
)
def test_only_what_has_a_term_is_covered(query: Query, covered: bool) -> None:
    assert covers(query) is covered
