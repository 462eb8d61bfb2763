"""What is exported comes in again as it was, or is refused and leaves nothing; and nobody gets in between."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dgent import Datum, Query, StorageProvider
from dgent.causal import MaintainedLog, SigningKey
from dgent.exceptions import (
    Conflict,
    InvalidFile,
    InvalidInput,
    NestedWrite,
    StorageTimeout,
    VersionConflict,
)
from dgent.memory.sql.maintenance import MaintainedMemory
from tests.portable import each, exported, resealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.sql.maintained import Portable, Record

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
STORES = {"memory": MaintainedMemory, "log": MaintainedLog}


@pytest.fixture(params=["sqlite", "postgres"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[StorageProvider]]:
    """Return two programs on one database, of each kind in turn."""
    given: dict[str, Any] = {"data_dir": tmp_path / "data"}
    if request.param == "postgres":
        given["database_url"] = request.getfixturevalue("postgres_url")
    async with (
        await StorageProvider.from_config(**given) as one,
        await StorageProvider.from_config(**given) as other,
    ):
        yield [one, other]


async def filled(storage: StorageProvider) -> None:
    """Put versions, tombstones, causes, tags and times to live, and logs with a checkpoint and a generation."""
    for memory in (storage.memory, storage.memory.within("agents/ada")):
        await memory.put(Datum("bin", bytes(range(256)), 1.5))
        await memory.put(Datum.create("one", id="root", tags=["maps", "old"]))
        await memory.put(Datum.create("two", id="root", tags=["maps"]))
        await memory.put(Datum.create("child", id="child", causal_parent="root"), ttl=3600)
        await memory.put(Datum.create("gone", id="gone"))
        await memory.delete("gone")
    await storage.log.append_many("audit", "ada", [b"1", b"2", b"3"])
    await storage.log.append("audit", "bob", b"")
    await storage.log.within("agent-store/1").append_many("audit", "bob", [b"1", b"2"])
    await storage.log.sign("audit", "ada", KEY)
    await storage.generation("turns").set(41)


async def export_of(name: str) -> list[Record]:
    async with await StorageProvider.create_minimal() as storage:
        await filled(storage)
        return await exported(STORES[name](storage.database))


EXPORTS: dict[str, list[Record]] = {name: asyncio.run(export_of(name)) for name in STORES}


async def damage(store: Portable) -> list[Any]:
    return [found async for found in store.check()]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63)]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["\ud800", "\0", "00", "0" * 64, "{}", '{"a":1e999}', "[" * 5000, "default", "a//b", "root"]),
    st.just([]),
    st.just({}),
)


@st.composite
def changed(draw: st.DrawFn, records: list[Record]) -> list[Any]:
    """Draw an export in which something is another: a byte, a field, the order, or how often or whether one comes."""
    found: list[Any] = [dict(record) for record in records]
    at, other = (draw(st.integers(0, len(found) - 1)) for _ in range(2))
    kind = draw(st.sampled_from(["byte", "field", "swap", "twice", "lack", "cut", "again", "no record"]))
    if kind == "byte":
        found[at] = _with_another_byte(draw, found[at])
    elif kind == "field":
        name = draw(st.sampled_from([*found[at], "extra"]))
        alike = [record[name] for record in records if name in record]
        found[at][name] = draw(st.one_of(VALUES, st.sampled_from(alike)) if alike else VALUES)
    elif kind == "swap":
        found[at], found[other] = found[other], found[at]
    elif kind == "twice":
        found.insert(other, found[at])
    elif kind == "lack":
        del found[at]
    elif kind == "cut":
        del found[at:]
    elif kind == "again":
        found += found
    else:
        found[at] = draw(VALUES)
    return found


def _with_another_byte(draw: st.DrawFn, record: Record) -> Any:
    line = bytearray(json.dumps(record).encode())
    line[draw(st.integers(0, len(line) - 1))] = draw(st.integers(32, 126))
    try:
        return json.loads(line)
    except ValueError:  # who reads the file hears of it
        return record


async def brought(name: str, records: list[Any]) -> tuple[list[Record] | None, list[Any]]:
    """Import into an empty store; return what it exports then, or None where it was refused, and what is damaged."""
    async with await StorageProvider.create_minimal() as storage:
        store: Any = STORES[name](storage.database)
        try:
            await store.import_(each(records))
        except InvalidFile as error:
            assert "InvalidFile" not in str(error)
            left = [record for record in await exported(store) if record["kind"] != "end"]
            assert (left, await storage.memory.namespaces()) == ([], [])
            return None, []
        for id in ("root", "gone", "new"):
            put = await storage.memory.put(Datum.create("later", id=id, metadata={"late": True}))
            assert (await storage.memory.query(Query(order="seq")))[-1] == put
        return await exported(store, "nobody" if name == "memory" else None), await damage(store)


@given(data=st.data())
@pytest.mark.parametrize("name", STORES)
def test_an_export_that_was_changed_is_refused_and_leaves_nothing(name: str, data: st.DataObject) -> None:
    records = data.draw(changed(EXPORTS[name]))
    found, _ = asyncio.run(brought(name, records))
    assert found is None or json.dumps(records) == json.dumps(EXPORTS[name])


NO_GENERATION: Record = {"store": "log", "kind": "generation", "key": "turns", "value": 0}


def said(record: Record) -> str:
    """Return what a record of a log says, however its bytes are spelled."""
    hashes = {name: record[name].lower() for name in ("prev_hash", "content_hash") if record.get(name) is not None}
    return json.dumps({**record, **hashes, "payload": str(base64.b64decode(record.get("payload", "")))}, sort_keys=True)


@given(data=st.data())
@pytest.mark.parametrize("name", STORES)
def test_whoever_ends_it_anew_gets_in_what_a_store_could_have_written(name: str, data: st.DataObject) -> None:
    records = [record for record in data.draw(changed(EXPORTS[name])) if isinstance(record, dict)]
    try:
        records = asyncio.run(resealed([*records, {"store": name, "kind": "end"}]))
    except TypeError:  # nothing that JSON could say
        return
    found, wrong = asyncio.run(brought(name, records))
    assert [one for one in wrong if "the tail was cut off" not in one.reason] == []  # a checkpoint tells
    if found is not None and name == "log":
        assert {said(one) for one in found[:-1]} == {said(one) for one in records[:-1]} - {said(NO_GENERATION)}
