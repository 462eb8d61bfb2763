"""What goes in takes one form at the door, whatever it was spelled as."""

from __future__ import annotations

import struct
from enum import Enum, StrEnum
from pathlib import Path

import pytest
from tests.crystal.stores import opened

from dgent.crystal import Ref
from dgent.datum import Datum
from dgent.exceptions import InvalidDatum, InvalidNamespace
from dgent.query import Query
from dgent.validation import check_namespace, check_time


class Mixed(str, Enum):  # noqa: UP042  # its text and its format differ, unlike those of a StrEnum
    A = "a"


class Plain(StrEnum):
    A = "a"


class Bytes(bytes):
    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def test_there_is_one_zero() -> None:
    for zero in (-0.0, 0, 0.0):
        datum = Datum("a", b"", zero)
        assert struct.pack("<d", datum.created_at) == bytes(8)
        assert datum == Datum("a", b"", 0.0)
        assert datum.to_json() == Datum("a", b"", 0.0).to_json()
        assert struct.pack("<d", check_time(zero)) == bytes(8)
        assert Query(since=zero).fingerprint == Query(since=0.0).fingerprint
    assert Datum.from_json('{"id":"a","text":"","created_at":-0.0}') == Datum("a", b"", 0.0)


def test_text_is_text() -> None:
    """A class of its own that is spelled, or hashed, as another text than it is would be found by no other process."""
    for id in (Plain.A, Ref("a")):
        datum = Datum(id, Bytes(b"x"), 1.0, id)
        assert [type(part) for part in (datum.id, datum.causal_parent, datum.content)] == [str, str, bytes]
        assert datum == Datum("a", b"x", 1.0, "a")
        assert type(check_namespace(id)) is str
    with pytest.raises(InvalidDatum, match="pass its value"):
        Datum(Mixed.A, b"", 1.0)
    with pytest.raises(InvalidDatum, match=r"causal_parent .* pass its value"):
        Datum("b", b"", 1.0, Mixed.A)
    with pytest.raises(InvalidNamespace, match="pass its value"):
        check_namespace(Mixed.A)


@pytest.mark.parametrize("kind", ["memory", "jsonl", "sqlite", "postgres"])
async def test_a_negative_zero_damages_nothing(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An agent with a write grant made every list of the namespace an error with it."""
    place = request.getfixturevalue("postgres_url") if kind == "postgres" else str(tmp_path)
    async with opened(kind, place) as store:
        put = await store.put(Datum("a", b"", -0.0))
        assert [*await store.list()] == [put] == [*await store.as_of(4e9)] == [*await store.query(Query(until=1.0))]
        assert await store.get("a") == put
        assert await store.put(Datum("a", b"", 0.0)) == put
        for id in (Plain.A, Ref("a")):
            assert await store.get(id) == put
            assert await store.get_many([id]) == {"a": put}
        with pytest.raises(InvalidDatum):
            await store.get(Mixed.A)
