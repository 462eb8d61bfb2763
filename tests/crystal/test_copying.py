"""Crystals into a table and back: nothing is lost, nothing is doubled, nothing newer is overwritten."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crystal.copied_contract import KNOWN, MARK, WIDE, MarkRow, Narrow, Wide, WideRow, plain, texts, wides
from tests.faults.processes import Child

from dgent import Datum, Query, StorageProvider
from dgent.crystal import Crystal, Schema, Schemas, Universe
from dgent.crystal.contract_codec import comparable
from dgent.crystal.copying import backfill, demote
from dgent.crystal.rows import crystal_of, row_of
from dgent.crystal.default_schemas import BrainCrystal, BrainSettingCrystal, WitnessMark, WitnessTrust
from dgent.exceptions import Conflict, InvalidCrystal, InvalidRow, UpgradeGap
from dgent.models import brain
from dgent.services import Brain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from dgent.bridge import TableAdapter


LABELS = {"tags", "author", "source"}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[StorageProvider]:
    """Open both tracks, with the tables of the tests."""
    async with await StorageProvider.from_config(database_url=url, synchronous="NORMAL") as storage:
        await storage.run_migrations()
        for model in (WideRow, MarkRow):
            await storage.database.write(model.metadata.create_all)
        storage.universe.schemas = KNOWN
        yield storage


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{sqlite_path}"
    return str(request.getfixturevalue("migrated_postgres_url"))


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


async def old_marks(storage: StorageProvider, many: int) -> dict[str, Datum]:
    """Store marks as version 1 wrote them, in a chain of causes, and return them by id."""
    datums: list[Datum] = []
    for number in range(many):
        parent = datums[-1].id if datums and number % 10 else None
        data = {"action": f"act {number}", "reasoning": "because", "author": ("Ada", "Bo")[number % 2]}
        metadata = {"schema": MARK.name, "schema_version": 1, "source": "test", "mood": number}
        datums.append(Datum.create(data=data, causal_parent=parent, metadata=metadata, created_at=1e9 + number / 8))
    await storage.memory.put_many(datums)
    return {datum.id: datum for datum in datums}


async def everything(store: Any, **asked: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page = await store.query(Query(**asked, limit=500, cursor=cursor))
        found += page
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_row_gives_back_the_crystal_that_it_was_made_of(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = sqlite(tmp_path / "a.db") if kind == "sqlite" else request.getfixturevalue("postgres_url")
    loop = asyncio.get_running_loop()
    async with opened(url) as storage:
        adapter = storage.table(WideRow)

        @given(
            value=wides,
            about=st.dictionaries(
                texts.filter(lambda name: name not in {"tags", "author", "source"}), plain, max_size=3
            ),
            source=st.none() | texts,
        )
        @hypothesis.settings(max_examples=hypothesis.settings.default.max_examples)  # type: ignore[union-attr]
        def law(value: Wide, about: dict[str, Any], source: str | None) -> None:
            crystal = Crystal.create(value, WIDE, metadata=about, source=source, parent="a-cause")

            async def stored() -> Datum:
                return await adapter.put(row_of(crystal, adapter.mapping))

            row = asyncio.run_coroutine_threadsafe(stored(), loop).result()
            back = crystal_of(row, WIDE, adapter.mapping)
            assert comparable(back.value) == comparable(value)
            assert dict(back.datum.metadata) == dict(crystal.datum.metadata)
            assert (back.id, back.datum.causal_parent) == (crystal.id, "a-cause")
            assert back.datum.created_at == crystal.datum.created_at

        await asyncio.to_thread(law)


async def test_backfill_copies_every_crystal_upgraded_once(url: str) -> None:
    async with opened(url) as storage:
        old = await old_marks(storage, 300)
        await storage.memory.put(Datum.create(b"no crystal"))
        await storage.universe.store(storage.universe.crystal(WitnessMark("new", "r", "Cy", ("t",), ("p",)), id="new"))
        adapter, seen = storage.table(MarkRow), list[int]()
        tried = await backfill(storage.memory, MARK, adapter, dry_run=True)
        assert (tried.found, tried.written, await adapter.count()) == (301, 0, 0)
        done = await backfill(storage.memory, MARK, adapter, batch=64, progress=seen.append)
        assert (done.found, done.written, done.verified, done.different, done.complete) == (301, 301, 301, 0, True)
        assert sum(seen) == 602  # tried, then copied
        again = await backfill(storage.memory, MARK, adapter)
        assert (again.written, again.verified, again.complete) == (0, 301, True)
        rows = {row.id: row for row in await everything(adapter)}
        assert rows.keys() == old.keys() | {"new"}
        assert all(row.version == 1 for row in rows.values())
        for id, datum in old.items():
            row = rows[id]
            assert (row.causal_parent, row.created_at) == (datum.causal_parent, datum.created_at)
            assert (row.data["action"], row.data["tags"], row.data["principles"]) == (datum.data["action"], [], [])
            assert row.data["about"] == {"source": "test", "mood": datum.metadata["mood"]}
        assert (await storage.memory.get(next(iter(old)))).version == 1  # type: ignore[union-attr]


async def test_the_path_of_the_table_answers_what_the_path_of_memory_answered(url: str) -> None:
    async with opened(url) as storage:
        old = await old_marks(storage, 40)
        marks = storage.universe
        tagged = await marks.remember(WitnessMark("t", "r", "Cy", ("eureka", "b")), parent=next(iter(old)))
        await backfill(storage.memory, MARK, storage.table(MarkRow))
        storage.tables.register(MarkRow)

        async def both(verb: str, **asked: Any) -> tuple[Any, Any]:
            return (
                await storage.resolve(f"self.data.{verb}", **asked),
                await storage.resolve(f"self.data.table.test_marks.{verb}", **asked),
            )

        def told(datums: list[Datum]) -> list[Any]:
            return [(datum.id, datum.causal_parent, datum.created_at, datum.tags) for datum in datums]

        for verb, asked in (
            ("list", {"limit": 100}),
            ("list", {"prefix": tagged.id[:8], "limit": 100}),
            ("causal_chain", {"id": tagged.id}),
            ("causal_chain", {"id": list(old)[7]}),
        ):
            memory, table = await both(verb, **asked)
            assert told(memory) == told(table) != []
        for asked in (
            Query(tags=frozenset(["eureka"])),
            Query(where={"action": "act 7"}),
            Query(where={"author": "Ada"}, since=1e9 + 2, order="oldest"),
        ):
            assert told(await storage.memory.query(asked)) == told(await storage.table(MarkRow).query(asked)) != []
        for id in (tagged.id, list(old)[3]):
            memory, table = await both("get", id=id)
            row = crystal_of(table, MARK, storage.table(MarkRow).mapping)
            assert row.value == Crystal.from_datum(memory, MARK).value


async def test_a_row_that_says_something_else_stays_and_demote_takes_it_back(url: str) -> None:
    async with opened(url) as storage:
        old = await old_marks(storage, 10)
        adapter, first = storage.table(MarkRow), next(iter(old))
        await backfill(storage.memory, MARK, adapter)
        async with storage.transaction() as tx:
            row = await tx.session.get(MarkRow, first)
            assert row is not None
            row.reasoning = "changed in the table"
            row.tags.append("edited")
            tx.session.add(MarkRow(id="born-here", action="a", reasoning="r", author="Di", principles=["p"]))
        done = await backfill(storage.memory, MARK, adapter)
        assert (done.written, done.verified, done.different, done.differing) == (0, 9, 1, [first])
        assert not done.complete
        assert (await adapter.get(first)).data["reasoning"] == "changed in the table"  # type: ignore[union-attr]

        back = await demote(adapter, MARK, storage.memory)
        assert (back.found, back.written, back.verified, back.complete) == (11, 2, 11, True)
        found = await storage.universe.get(first)
        assert isinstance(found, Crystal)
        assert (found.value.reasoning, found.value.tags) == ("changed in the table", ("edited",))
        assert [each.version for each in await storage.memory.history(first)] == [1, 2]
        assert found.datum.causal_parent == old[first].causal_parent
        assert found.datum.metadata["mood"] == 0
        assert [crystal.id for crystal in await storage.universe.query(Query(tags=frozenset(["edited"])))] == [first]
        assert isinstance(await storage.universe.get("born-here"), Crystal)
        assert (await demote(adapter, MARK, storage.memory)).written == 0
        assert (await backfill(storage.memory, MARK, adapter)).complete


async def test_rows_written_during_a_backfill_are_not_overwritten(url: str) -> None:
    async with opened(url) as storage:
        old = await old_marks(storage, 120)
        adapter = storage.table(MarkRow)
        mine = random.Random(7).sample(list(old), 20)

        async def others() -> None:
            for id in mine:
                row = Datum(id, b'{"action":"mine","reasoning":"r","author":"Di","principles":[]}', 1.0)
                await adapter.put(row)

        await asyncio.gather(
            backfill(storage.memory, MARK, adapter, batch=7),
            others(),
            backfill(storage.memory, MARK, adapter, batch=11),
        )
        rows = {row.id: row for row in await everything(adapter)}
        assert rows.keys() == old.keys()
        assert all(rows[id].data["action"] == "mine" for id in mine)


async def test_what_a_table_does_not_take_is_tried_before_anything_is_written(url: str) -> None:
    async with opened(url) as storage:
        await old_marks(storage, 30)
        adapter = storage.table(MarkRow)
        bad = storage.universe.crystal(WitnessMark("a", "a NUL \0 in it", "Cy"), id="bad")
        await storage.universe.store(bad)
        with pytest.raises(InvalidRow, match=r"'bad'.*reasoning.*NUL.*nothing was written"):
            await backfill(storage.memory, MARK, adapter)
        assert await adapter.count() == 0
        tried = await backfill(storage.memory, MARK, adapter, dry_run=True)
        assert (tried.found, tried.failed, list(tried.failures)) == (31, 1, ["bad"])
        gap = Schema("witness.mark", 4, WitnessMark)
        with pytest.raises(UpgradeGap, match="nothing was written"):
            await backfill(storage.memory, gap, adapter)


async def test_nothing_is_dropped_without_a_word(sqlite_path: Path) -> None:
    async with opened(sqlite(sqlite_path)) as storage:
        mapping = storage.table(MarkRow).mapping
        trust = Schema("witness.trust", 1, WitnessTrust)
        with pytest.raises(InvalidRow, match=r"no column, and witness\.trust has that field"):
            row_of(Crystal.create(WitnessTrust("s", 0.5, "r"), trust), mapping)
        row = await storage.table(MarkRow).put(row_of(Crystal.create(WitnessMark("a", "r", "c"), MARK), mapping))
        narrow = Schemas([Schema("witness.mark", 1, Narrow)]).named("witness.mark")
        with pytest.raises(InvalidCrystal, match=r"no field for the column test_marks\.principles"):
            crystal_of(row, narrow, mapping)
        labelled = Crystal.create(BrainCrystal("h", "s"), BrainCrystal.schema, author="Ada")
        with pytest.raises(InvalidRow, match=r"metadata.author.*about"):
            row_of(labelled, storage.table(brain.Crystal).mapping)


async def test_tables_of_the_brain_become_crystals_and_come_back(url: str) -> None:
    async with opened(url) as storage:
        storage.universe.schemas = Schemas([BrainCrystal.schema, BrainSettingCrystal.schema])
        captured = await Brain(storage).capture("The map is not the territory.", ["maps"])
        async with storage.transaction() as tx:
            tx.session.add(brain.BrainSetting(key="depth", value={"most": 3}))
        crystals, settings = storage.table(brain.Crystal), storage.table(brain.BrainSetting)
        apart = storage.memory.within("apart")
        there = Universe(apart, schemas=storage.universe.schemas)
        assert (await demote(crystals, BrainCrystal.schema, apart)).complete
        assert (await demote(settings, BrainSettingCrystal.schema, apart)).complete
        found = await there.get(captured.id)
        assert isinstance(found, Crystal)
        assert (found.value.summary, found.value.tags, found.value.datum_id) == (
            captured.summary,
            ("maps",),
            captured.datum_id,
        )
        assert (await there.get("depth")).value == BrainSettingCrystal("depth", {"most": 3})  # type: ignore[union-attr]
        before = await crystals.get(captured.id)
        await crystals.delete(captured.id)
        await settings.delete("depth")
        assert (await backfill(apart, BrainCrystal.schema, crystals)).complete
        assert (await backfill(apart, BrainSettingCrystal.schema, settings)).complete
        after = await crystals.get(captured.id)
        assert before is not None
        assert after is not None
        changed = {name for name in before.data if before.data[name] != after.data[name]}
        assert changed <= {"updated_at"}
        assert after.tags == {"maps"}
        assert (await settings.get("depth")).data["value"] == {"most": 3}  # type: ignore[union-attr]


async def test_a_row_never_takes_the_place_of_the_content_that_it_is_about(url: str) -> None:
    """The row of a captured text and the text have one id: as its next version the row would hide the text."""
    async with opened(url) as storage:
        captured = await Brain(storage).capture("The map is not the territory.")
        for metadata in (None, {"schema": "brain.crystal"}):  # as older versions stamped it
            if metadata is not None:
                await storage.memory.put(Datum(captured.id, b"The map is not the territory.", 1.0, None, metadata))
            with pytest.raises(Conflict, match=captured.id):
                await demote(storage.table(brain.Crystal), BrainCrystal.schema, storage.memory)
            assert await Brain(storage).content(captured.id) == "The map is not the territory."


def upgrade_and_backfill(pipe: Connection, url: str) -> None:
    """Rewrite the old marks, copy them, and say how far it is."""

    async def main() -> None:
        async with opened(url) as storage:
            pipe.send("begun")
            await storage.universe.upgrade(MARK, batch=20, progress=pipe.send)
            done = await backfill(storage.memory, MARK, storage.table(MarkRow), batch=20, progress=pipe.send)
            pipe.send(("done", done.found, done.verified))

    asyncio.run(main())


async def test_a_promotion_that_is_killed_goes_on(url: str, full_size: bool) -> None:
    """Ten thousand crystals of version 1 (in the long form): upgraded, copied, killed again and again."""
    many, chance, kills = 10_000 if full_size else 240, random.Random(4), 0
    async with opened(url) as storage:
        old = await old_marks(storage, many)
    for patience in range(1, 1000):
        child = Child(upgrade_and_backfill, url)
        heard: list[Any] = []
        while not (heard and isinstance(heard[-1], tuple)) and len(heard) < patience * many // 100:
            heard.append(child.answer())
        if isinstance(heard[-1], tuple):
            assert heard[-1] == ("done", many, many)
            child.close()
            break
        time.sleep(chance.random() * 0.01)
        child.kill()
        kills += 1
    assert kills > 1
    async with opened(url) as storage:
        crystals = {crystal.id: crystal for crystal in await everything(storage.universe, schema=MARK.name)}
        rows = {row.id: row for row in await everything(storage.table(MarkRow))}
        assert crystals.keys() == rows.keys() == old.keys()
        mapping = storage.table(MarkRow).mapping
        for id, crystal in crystals.items():
            assert (crystal.datum.version, rows[id].version) == (2, 1)
            assert crystal.meta.crystallized_from is None
            assert crystal.value.action == old[id].data["action"]
            assert crystal_of(rows[id], MARK, mapping).value == crystal.value
            assert crystal.datum.causal_parent == rows[id].causal_parent == old[id].causal_parent
            assert crystal.datum.created_at == rows[id].created_at == old[id].created_at


def test_a_table_without_its_migration_says_so(sqlite_path: Path) -> None:
    """A model whose table is not there yet is no empty table."""
    from dgent.exceptions import SchemaOutdated

    async def main() -> None:
        async with await StorageProvider.from_config(database_url=sqlite(sqlite_path)) as storage:
            adapter: TableAdapter = storage.table(MarkRow)
            await storage.memory.put(Crystal.create(WitnessMark("a", "r", "c"), MARK).datum)
            with pytest.raises(SchemaOutdated):
                await backfill(storage.memory, MARK, adapter)

    asyncio.run(main())
