"""What is exported comes in again as it was, or is refused and leaves nothing, whatever was changed of it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.portable import damaged, each, exported, resealed

from dgent import Datum, Query, StorageProvider
from dgent.causal import MaintainedLog, SigningKey
from dgent.exceptions import CausalCycle, InvalidFile, InvalidInput
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.datum_tables import digest
from dgent.memory.sql.maintenance import MaintainedMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.sql.maintained import Portable, Record

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
STORES: dict[str, Callable[[Any], Portable]] = {"memory": MaintainedMemory, "log": MaintainedLog}


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


@pytest.fixture(scope="module")
def exports() -> dict[str, list[Record]]:
    """Return an export of each store."""
    return {name: asyncio.run(export_of(name)) for name in STORES}


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
        store = STORES[name](storage.database)
        try:
            await store.import_(each(records))
        except InvalidFile:
            left = [record for record in await exported(store) if record["kind"] != "end"]
            assert (left, await storage.memory.namespaces()) == ([], [])
            return None, []
        for id in ("root", "gone", "new"):
            put = await storage.memory.put(Datum.create("later", id=id, metadata={"late": True}))
            assert (await storage.memory.query(Query(order="seq")))[-1] == put
        return await exported(store, "nobody" if name == "memory" else None), await damaged(store)


@given(data=st.data())
@pytest.mark.parametrize("name", STORES)
def test_an_export_that_was_changed_is_refused_and_leaves_nothing(
    exports: dict[str, list[Record]], name: str, data: st.DataObject
) -> None:
    records = data.draw(changed(exports[name]))
    found, _ = asyncio.run(brought(name, records))
    assert found is None or json.dumps(records) == json.dumps(exports[name])


NO_GENERATION: Record = {"store": "log", "kind": "generation", "key": "turns", "value": 0}


def said(record: Record) -> str:
    """Return what a record of a log says, however its bytes are spelled."""
    hashes = {name: record[name].lower() for name in ("prev_hash", "content_hash") if record.get(name) is not None}
    return json.dumps({**record, **hashes, "payload": str(base64.b64decode(record.get("payload", "")))}, sort_keys=True)


@given(data=st.data())
@pytest.mark.parametrize("name", STORES)
def test_whoever_ends_it_anew_gets_in_what_a_store_could_have_written(
    exports: dict[str, list[Record]], name: str, data: st.DataObject
) -> None:
    records = [record for record in data.draw(changed(exports[name])) if isinstance(record, dict)]
    try:
        records = asyncio.run(resealed([*records, {"store": name, "kind": "end"}]))
    except TypeError:  # nothing that JSON could say
        return
    found, wrong = asyncio.run(brought(name, records))
    assert [one for one in wrong if "the tail was cut off" not in one.reason] == []  # a checkpoint tells
    if found is not None and name == "log":
        assert {said(one) for one in found[:-1]} == {said(one) for one in records[:-1]} - {said(NO_GENERATION)}


def crafted(**values: Any) -> Record:
    """Return a version with the digest that belongs to it, whatever it says."""
    row: dict[str, Any] = {"namespace": "default", "id": "a", "version": 1, "seq": 1, "created_at": 1.0}
    row |= {"stored_at": 1.0, "expires_at": None, "parent": None, "metadata": "{}", "content": b"x", **values}
    content = None if row["content"] is None else base64.b64encode(row["content"]).decode()
    return {"store": "memory", "kind": "version", **row, "content": content, "digest": digest(**row).hex()}


STAND: Record = {"store": "memory", "kind": "namespace", "namespace": "default", "seq": 9, "stored_at": 1.0}
END: Record = {"store": "memory", "kind": "end"}


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{**STAND, "seq": 2**63}], "record 1 .* seq is 9223372036854775808"),
        ([{**STAND, "seq": 2**63 - 1}], "seq is"),
        ([{**STAND, "seq": -5}], "seq is -5"),
        ([{**STAND, "seq": True}], "seq is True"),
        ([{**STAND, "stored_at": math.inf}], "between the years 1 and 9999"),
        ([{**STAND, "stored_at": math.nan}], "between the years 1 and 9999"),
        ([{**STAND, "stored_at": 1e300}], "between the years 1 and 9999"),
        ([{**STAND, "stored_at": "12"}], "not str"),
        ([{**STAND, "namespace": "a//b"}], "segment ''"),
        ([{**STAND, "more": 1}], "other fields than these: store, kind, namespace"),
        ([STAND, STAND], "'default' comes twice"),
        ([crafted()], "has to come before its versions"),
        ([STAND, crafted(namespace="other")], "has to come before its versions"),
        ([STAND, crafted(version=0)], "record 2 .* version is 0"),
        ([STAND, crafted(version=-1)], "version is -1"),
        ([STAND, crafted(version=2**63 - 1)], "version is"),
        ([STAND, crafted(seq=0)], "seq is 0"),
        ([STAND, crafted(seq=10)], "stands at 9"),
        ([STAND, crafted(), crafted(id="b")], "the seq 1 comes behind 1"),
        ([STAND, crafted(seq=2), crafted(version=2)], "the seq 1 comes behind 2"),
        ([STAND, crafted(version=2), crafted(seq=2)], "version 1 of 'a' comes behind version 2"),
        ([STAND, crafted(version=2), crafted(seq=2, version=2)], "version 2 of 'a' comes behind version 2"),
        ([STAND, crafted(stored_at=math.inf)], "between the years 1 and 9999"),
        ([STAND, crafted(expires_at=math.inf)], "expires_at is inf"),
        ([STAND, crafted(parent="a")], "none that a store could have written"),
        ([STAND, crafted(content=None, parent="b")], "none that a store could have written"),
        ([STAND, {k: v for k, v in crafted().items() if k != "parent"}], "other fields"),
        ([STAND, {**crafted(), "content": "!!"}], "record 2 is not what was exported"),
        ([STAND, {**crafted(), "digest": "00" * 16}], "digest of version 1 of 'a' is that of another"),
        ([5], "record 1 is not what was exported: it is an int"),
        ([{"store": "log", "kind": "entry"}], "none of agent memory"),
    ],
)
async def test_what_no_store_could_have_written_is_named(records: list[Any], told: str) -> None:
    given = [*records, END] if records == [5] else await resealed([*records, END])
    async with await StorageProvider.create_minimal() as storage:
        with pytest.raises(InvalidFile, match=told) as error:
            await MaintainedMemory(storage.database).import_(each(given))
        assert "InvalidFile" not in str(error.value)
        assert await storage.memory.namespaces() == []


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_cycle_that_a_clock_brought_to_life_comes_back(compacted: bool) -> None:
    now = 1000.0
    async with await StorageProvider.create_minimal() as storage, await StorageProvider.create_minimal() as elsewhere:
        memory, there = (SqlBackend(one.database, "n", clock=lambda: now) for one in (storage, elsewhere))
        await memory.put(Datum("b", b"1", 0.0, "d"), ttl=0.5)
        now = 1001.0
        await memory.put(Datum("d", b"", 0.0, "b"))
        now = 1000.0  # so `b` is live again, with the parent that it had
        await memory.put(Datum("b", b"2", 0.0, "d"))
        if compacted:
            await memory.compact(keep_versions=1)
        records = await exported(MaintainedMemory(storage.database))
        assert await MaintainedMemory(elsewhere.database).import_(each(records)) == len(records) - 2
        assert await damaged(MaintainedMemory(elsewhere.database)) == []
        for one in (memory, there):
            assert [datum.id for datum in await one.causal_chain("d")] == ["b", "d"]
        await there.put(Datum("c", b"", 0.0, "d"))
        with pytest.raises(CausalCycle):
            await there.put(Datum("d", b"", 0.0, "c"))


@pytest.mark.parametrize("name", STORES)
async def test_an_export_that_lacks_something_says_how_many_records_came(
    exports: dict[str, list[Record]], name: str
) -> None:
    records = exports[name]
    count = len(records) - 1
    async with await StorageProvider.create_minimal() as storage:
        store = STORES[name](storage.database)
        for given, told in (
            (records[:-1], f"cut off: {count} records came"),
            ([], "cut off: 0 records came"),
            ([*records[: count - 1], records[-1]], f"an export of {count} records, and {count - 1} came"),
            (records * 2, f"record {count + 1} .* behind the end"),
        ):
            with pytest.raises(InvalidFile, match=told):
                await store.import_(each(given))
        with pytest.raises(InvalidInput, match="asynchronous generator"):
            await store.import_(records)  # type: ignore[arg-type]
