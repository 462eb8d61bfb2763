"""O3: a lens over a stored datum, or a row, reads and writes only its focus; writers of different foci both survive."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.processes import started

from dgent.bridge import TableAdapter, unit_of_work
from dgent.datum import Datum
from dgent.exceptions import DatumNotFound, FocusNotFound, InvalidDatum, InvalidFocus, InvalidRow, StateConflict
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.optics import MISSING, Lens, LensAgent, as_json, at, each, filtered, identity, instance, key, path
from dgent.testing.contract_base import examples
from dgent.testing.manual_clock import ManualClock

from .conftest import CONTENT, ID, memory, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from dgent.store import DgentProtocol

STAMPS = {"updated_at"}


async def content(store: DgentProtocol) -> dict[str, Any]:
    datum = await store.get(ID)
    assert datum is not None
    return {name: value for name, value in datum.data.items() if name not in STAMPS}


@pytest.mark.parametrize("focus", ["n", "body.deep[0].x", 'body["new"]', "tags[-1]"])
async def test_l_o3_only_the_focus_is_written(store: DgentProtocol, focus: str) -> None:
    before, was = await store.get(ID), await content(store)
    value: Any = "c" if "tags" in focus else 7
    await LensAgent(store, ID, focus).set(value)
    assert await LensAgent(store, ID, focus).get() == value
    assert await content(store) == path(focus).set(was, value)
    after = await store.get(ID)
    assert before is not None
    assert after is not None
    assert (after.created_at, after.causal_parent) == (before.created_at, before.causal_parent)
    assert {**after.metadata, "tags": None} == {**before.metadata, "tags": None}
    if store.capabilities.versioned:
        assert after.version == before.version + 1


@pytest.mark.parametrize("kind", ["memory", "jsonl", "sqlite"])
async def test_what_expires_is_written_and_expires_all_the_same(kind: str, tmp_path: Path) -> None:
    clock = ManualClock()
    async with memory(kind, tmp_path, clock) as store:
        await store.put(Datum.create(data={"n": 0}, id=ID), ttl=10)
        await store.put(Datum.create(data={"n": 0}, id="stays"))
        clock.advance(9)
        await LensAgent(store, ID, "n").set(1)
        await LensAgent(store, "stays", "n").set(1)
        assert await LensAgent(store, ID, "n").modify(lambda n: n + 1) == 2
        clock.advance(1)
        with pytest.raises(DatumNotFound):
            await LensAgent(store, ID, "n").set(3)
        clock.advance(1000)
        assert [datum.id for datum in await store.list()] == ["stays"]


async def add_one(agent: LensAgent, times: int) -> None:
    for _ in range(times):
        await agent.modify(lambda n: n + 1)


async def test_l_o3_writers_of_different_foci_and_of_the_same_both_survive(store: DgentProtocol) -> None:
    foci = ["n", "m", "body.deep[0].x", "body.deep[1].x"]
    await asyncio.gather(*(add_one(LensAgent(store, ID, focus), 5) for focus in foci for _ in range(3)))
    assert [await LensAgent(store, ID, focus).get() for focus in foci] == [15, 15, 16, 17]
    assert (await content(store))["tags"] == CONTENT["tags"]


async def test_l_o3_without_a_conflict_the_function_runs_once(store: DgentProtocol) -> None:
    seen: list[int] = []

    async def note(n: int) -> int:
        await asyncio.sleep(0)
        seen.append(n)
        return n + 1

    assert await LensAgent(store, ID, "n").modify(note) == 1
    assert seen == [0]


async def test_l_o3_what_fails_leaves_the_content_byte_for_byte(store: DgentProtocol) -> None:
    before = await store.get(ID)

    def fail(_: Any) -> Any:
        raise ZeroDivisionError

    attempts: list[tuple[Any, type[Exception]]] = [
        (lambda: LensAgent(store, ID, "n").modify(fail), ZeroDivisionError),
        (lambda: LensAgent(store, ID, "n").modify(7), InvalidFocus),  # type: ignore[arg-type]
        (lambda: LensAgent(store, ID, "body").set({"when": object()}), InvalidDatum),
        (lambda: LensAgent(store, ID, "body").set({"much": 2**70}), InvalidDatum),
        (lambda: LensAgent(store, ID, "absent.deeper").set(1), FocusNotFound),
        (lambda: LensAgent(store, ID, "absent").get(), FocusNotFound),
        (lambda: LensAgent(store, ID, "absent").modify(fail), FocusNotFound),
        (lambda: LensAgent(store, ID, "body.deep[2]").set(1), FocusNotFound),
        (lambda: LensAgent(store, ID, "body[0]").set(1), InvalidFocus),
    ]
    for attempt, error in attempts:
        with pytest.raises(error):
            await attempt()
    assert await store.get(ID) == before


async def test_l_o3_nothing_is_made_where_nothing_is(store: DgentProtocol) -> None:
    absent = LensAgent(store, "other", "n")
    for attempt in (absent.get(), absent.set(1), absent.modify(lambda n: n)):
        with pytest.raises(DatumNotFound, match="'other'"):
            await attempt
    assert not await store.exists("other")


async def test_l_o3_what_is_there_already_is_not_written(store: DgentProtocol) -> None:
    before = await store.get(ID)
    await LensAgent(store, ID, "n").set(0)
    assert await LensAgent(store, ID, "body").modify(lambda body: body) == CONTENT["body"]
    after = await store.get(ID)
    assert (after, after and after.version) == (before, before and before.version)


async def test_l_o3_a_prism_and_a_traversal_can_be_the_focus(store: DgentProtocol) -> None:
    numbers = LensAgent(store, ID, path("body.deep") >> each() >> key("x"))
    assert await numbers.get() == [1, 2]
    assert await numbers.modify(lambda x: x * 10) == [10, 20]
    await LensAgent(store, ID, path("tags") >> each() >> filtered(lambda tag: tag == "a")).set("z")
    assert (await content(store))["tags"] == ["z", "b"]
    assert await LensAgent(store, ID, instance(list)).get() is MISSING
    whole = LensAgent(store, ID, instance(dict))
    assert (await whole.get())["n"] == 0
    await whole.modify(lambda it: {**it, "n": it["n"] + 5, "m": it["m"] + 6})
    assert [(await content(store))[name] for name in "nm"] == [5, 6]


async def test_l_o3_a_focus_that_looks_at_more_than_it_writes_sees_one_state(store: DgentProtocol) -> None:
    """It moves what `n` says into `m`, while others raise `n`: a stale `n` would be counted twice or never."""
    move = Lens[Any, Any](lambda it: (it["n"], it["m"]), lambda it, pair: {**it, "n": pair[0], "m": pair[1]})
    mover, adder = LensAgent(store, ID, move), LensAgent(store, ID, "n")

    async def moving() -> None:
        for _ in range(6):
            await mover.modify(lambda pair: (0, pair[0] + pair[1]))

    await asyncio.gather(moving(), *(add_one(adder, 4) for _ in range(3)))
    assert sum(await mover.get()) == 12


async def test_a_focus_is_a_path_or_an_optic(store: DgentProtocol) -> None:
    with pytest.raises(InvalidFocus, match="int is no focus"):
        LensAgent(store, ID, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidFocus, match="is not a path"):
        LensAgent(store, ID, "a..b")
    with pytest.raises(InvalidDatum, match="id"):
        LensAgent(store, "", "n")
    assert repr(LensAgent(store, ID, "body.deep[0]")) == "LensAgent('it', Lens(body.deep[0]))"


async def test_l_o3_a_row_says_which_column_does_not_take_a_value(rows: TableAdapter) -> None:
    before = await rows.get(ID)
    for focus, value, field in (("n", "many", "n"), ("n", None, "n"), ("tags", [1], "tags"), ("colour", 1, "colour")):
        with pytest.raises(InvalidRow) as caught:
            await LensAgent(rows, ID, focus).set(value)
        assert (caught.value.table, caught.value.field) == (rows.table, field)
    with pytest.raises(InvalidRow, match="is the id"):
        await LensAgent(rows, ID, "id").set("other")
    for focus, value in ((at("m"), MISSING), (identity(), [])):
        with pytest.raises(InvalidFocus, match="keeps all of its columns"):
            await LensAgent(rows, ID, focus).set(value)
    assert await rows.get(ID) == before


async def test_l_o3_inside_of_a_transaction_it_is_part_of_it(rows: TableAdapter) -> None:
    async with unit_of_work(rows._runner, MemoryBackend("m")) as tx:  # type: ignore[arg-type]
        row = await tx.session.get(rows.model, ID)
        row.m = 4
        await LensAgent(tx.table(rows.model), ID, "n").modify(lambda n: n + 1)
        assert (row.n, row.m) == (1, 4)
    assert [(await content(rows))[name] for name in "nm"] == [1, 4]


async def test_l_o3_what_is_spelled_otherwise_and_says_the_same_stays(tmp_path: Path) -> None:
    async with memory("memory", tmp_path) as store:
        raw = b'{"n" : 0}'
        await store.put(Datum.create(raw, id=ID))
        await LensAgent(store, ID, "n").set(0)
        found = await store.get(ID)
        assert found is not None
        assert (found.content, found.version) == (raw, 1)


async def test_integers_that_a_decoder_would_round_are_refused_not_rounded(tmp_path: Path) -> None:
    async with memory("memory", tmp_path) as store:
        raw = b'{"long": 123456789012345678901234567890, "n": 0}'
        await store.put(Datum.create(raw, id=ID))
        assert await LensAgent(store, ID, "n").get() == 0
        with pytest.raises(InvalidDatum, match=r"the content of 'it'\.long is an integer over 64 bits"):
            await LensAgent(store, ID, "n").set(1)
        assert (await store.get(ID)).content == raw  # type: ignore[union-attr]
        await store.put(Datum.create(b"no json", id=ID))
        with pytest.raises(InvalidDatum, match="not JSON"):
            await LensAgent(store, ID, as_json()).get()


class Raced(MemoryBackend):
    """Somebody else writes after each read."""

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        found = await super().get(id, version=version)
        if found is not None and version is None:
            await super().put(Datum.create(data={"n": 0, "m": found.version}, id=id, created_at=found.created_at))
        return found


async def test_who_is_never_first_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgent.compare_and_swap._LONGEST_PAUSE", 0.0)
    store = Raced("raced")
    await MemoryBackend.put(store, Datum.create(data={"n": 0}, id=ID))
    with pytest.raises(StateConflict) as caught:
        await LensAgent(store, ID, "n").set(1)
    assert caught.value.actual == caught.value.expected + 1


steps = st.lists(
    st.tuples(st.sampled_from(["n", "m", "body", "body.a", "tags[0]", "tags[5]"]), st.integers(-5, 5)), max_size=8
)


@examples(2)
@given(steps=steps)
async def test_l_o3_a_run_of_writes_is_the_run_of_pure_ones(steps: list[tuple[str, int]]) -> None:
    store, model = MemoryBackend("model"), orjson.loads(orjson.dumps(CONTENT))
    await store.put(Datum.create(data=model, id=ID))
    for focus, value in steps:
        try:
            model = path(focus).modify(model, lambda _, value=value: value)
        except (InvalidFocus, FocusNotFound) as error:
            with pytest.raises(type(error)):
                await LensAgent(store, ID, focus).modify(lambda _, value=value: value)
        else:
            assert await LensAgent(store, ID, focus).modify(lambda _, value=value: value) == value
        assert await content(store) == model


@asynccontextmanager
async def shared(kind: str, folder: Path) -> AsyncIterator[DgentProtocol]:
    """Open a store that other processes have open, too."""
    async with (
        memory(kind, folder) if kind in {"jsonl", "sqlite"} else table(kind, f"sqlite:///{folder}/rows.db") as it
    ):
        yield it


def add(pipe: Connection, number: int, kind: str, folder: Path, foci: list[str], times: int) -> None:
    async def main(focus: str) -> None:
        async with shared(kind, folder) as store:
            agents = [LensAgent(store, ID, focus), LensAgent(store, ID, "body.deep[0].x")]
            for _ in range(times):
                for agent in agents:
                    await agent.modify(lambda n: n + 1)

    asyncio.run(main(foci[number]))
    pipe.send("done")


@pytest.mark.parametrize("kind", ["jsonl", "sqlite", "versioned", "plain"])
async def test_l_o3_four_processes_lose_nothing(kind: str, tmp_path: Path, full_size: bool) -> None:
    times = 100 if full_size else 10
    async with shared(kind, tmp_path) as store:
        await store.put(Datum.create(data=CONTENT, id=ID))
        with started(4, add, kind, tmp_path, ["n", "n", "m", "m"], times) as children:
            assert [await asyncio.to_thread(child.answer) for child in children] == ["done"] * 4
        found = await content(store)
    assert (found["n"], found["m"], found["body"]["deep"][0]["x"]) == (2 * times, 2 * times, 1 + 4 * times)
