"""Tables outside Alembic: made on first use, numbered, upgraded in place; and the frozen ones of each format."""

from __future__ import annotations

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert, inspect, select, text, update
from tests.assets.freeze_tables import answers, fill_tables
from tests.faults.stores import sync_engine

from dgent.bridge import Outbox
from dgent.causal import log_tables as causal
from dgent.causal.async_log import AsyncLog
from dgent.datum import Datum
from dgent.delivery import Deliverer, Queue
from dgent.exceptions import Corrupt, DgentError, SchemaOutdated, SchemaTooNew
from dgent.memory.datum_index import TABLES as MEMORY_TABLES
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.sql import datum_tables as memory
from dgent.memory.sql.backend import SqlBackend
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.table_set import TableSet, meta
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from dgent.sql import Database

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FROZEN = sorted(ASSETS.glob("tables-*.db")) + sorted(ASSETS.glob("tables-*.sql"))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    found: str = f"sqlite:///{sqlite_path}"
    return found if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = sync_engine(url.removeprefix("sqlite:///"))
    yield engine
    engine.dispose()


def opened(url: str) -> Database:
    return open_database(Settings(database_url=url))


# The frozen files


@pytest.mark.parametrize("frozen", FROZEN, ids=[path.name for path in FROZEN])
async def test_every_verb_answers_over_each_format_that_landed_as_it_did_then(
    frozen: Path, sqlite_path: Path, request: pytest.FixtureRequest
) -> None:
    if frozen.suffix == ".db":
        shutil.copy(frozen, sqlite_path)
        sqlite_path.chmod(0o600)
        url = f"sqlite:///{sqlite_path}"
    else:
        url = request.getfixturevalue("postgres_url")
        await run_script(url, frozen.read_text())
    then = json.loads(frozen.with_name(f"{frozen.stem}-{frozen.suffix[1:]}.json").read_text())
    database = opened(url)
    try:
        assert json.loads(json.dumps(await answers(database))) == then
        assert await database.read(numbers) == {
            "format": str(memory.FORMAT),
            "format.index.metadata": "1",
            "format.log": str(causal.FORMAT),
        }
        await SqlBackend(database).delete("root")  # and it can be written
        await AsyncLog(database).append("audit", "ada", b"after the upgrade")
        assert await SqlBackend(database).get("root") is None
        assert (await AsyncLog(database).verify("audit", "ada")).seq == then["dgent/1"]["streams"][
            "head of ada in audit"
        ][0] + 1
    finally:
        await database.close()


@pytest.mark.parametrize("frozen", FROZEN, ids=[path.name for path in FROZEN])
async def test_what_waited_in_each_format_that_landed_is_delivered_in_its_order(
    frozen: Path, sqlite_path: Path, request: pytest.FixtureRequest
) -> None:
    if frozen.suffix == ".db":
        shutil.copy(frozen, sqlite_path)
        sqlite_path.chmod(0o600)
        url = f"sqlite:///{sqlite_path}"
    else:
        url = request.getfixturevalue("postgres_url")
        await run_script(url, frozen.read_text())
    database, elsewhere = opened(url), MemoryBackend()
    try:
        report = await Outbox(database, elsewhere).reconcile()
        assert (report.delivered, report.set_aside) == (4, ())
        history = [each.datum for each in await elsewhere.history("a")]
        assert history == [Datum("a", b"waits", 7.0, metadata={"tags": ["x"]}), None]
        assert not await database.read(lambda connection: inspect(connection).has_table("dgent_outbox"))
        queue, first = Queue(SqlBackend(database), "postgres:frozen"), MemoryBackend()
        await queue.prepare()
        await Deliverer(queue, first).run()
        assert await first.within("agents/ada").get("x") == Datum("x", b"elsewhere", 12.0)
        assert (await queue.count())[0] == 0
    finally:
        await database.close()


async def run_script(url: str, script: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url, timeout=patience(30))
    try:
        await connection.execute(script)
    finally:
        await connection.close()


def test_each_database_has_a_frozen_file_of_every_format() -> None:
    names = {f"tables-{number}{kind}" for number in range(1, memory.FORMAT + 1) for kind in (".db", ".sql")}
    assert {path.name for path in FROZEN} == names


async def test_every_table_outside_alembic_belongs_to_a_numbered_set(url: str) -> None:
    database = opened(url)
    try:
        await fill_tables(database)
        await Outbox(database, MemoryBackend()).reconcile()
        ours = {meta.name, *MEMORY_TABLES.names, *causal.metadata.tables}
        assert await database.read(lambda connection: set(inspect(connection).get_table_names())) == ours
    finally:
        await database.close()


def numbers(connection: Connection) -> dict[str, str]:
    return {key: value for key, value in connection.execute(select(meta.c.key, meta.c.value)) if key != "store_id"}


# The mechanism, over tables that have come to their third format


def tables_of(format: int) -> MetaData:
    """Return how the notes look in a format: in the second they get a mood, in the third their text is called body."""
    metadata = MetaData()
    words = Column("body" if format == 3 else "words", Text)
    moods = [Column("mood", Text)] if format > 1 else []
    Table("notes", metadata, Column("id", Integer, primary_key=True), words, *moods)
    return metadata


def to_second(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE notes ADD COLUMN mood TEXT"))
    connection.execute(text("UPDATE notes SET mood = 'calm'"))


def to_third(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE notes RENAME COLUMN words TO body"))


UPGRADES = {1: to_second, 2: to_third}


def notes(format: int, upgrades: dict[int, Callable[[Connection], None]] = UPGRADES) -> TableSet:
    return TableSet("the notes", "format.notes", tables_of(format), format, upgrades)


def filled(engine: Engine, format: int, *, numbered: bool = True) -> None:
    """Make the tables of a format with two rows in it."""
    with engine.begin() as connection:
        notes(format).prepare(connection)
        table = tables_of(format).tables["notes"]
        rows = [{"id": 1, table.c[1].name: "first"}, {"id": 2, table.c[1].name: "second"}]
        connection.execute(insert(table), rows)
        if not numbered:
            connection.execute(text("DELETE FROM dgent_meta WHERE key = 'format.notes'"))


def held(engine: Engine) -> tuple[list[str], list[tuple[Any, ...]], str | None]:
    """Return the columns, the rows and the number."""
    with engine.begin() as connection:
        columns = [column["name"] for column in inspect(connection).get_columns("notes")]
        rows = connection.execute(text("SELECT * FROM notes ORDER BY id"))
        return columns, [tuple(row) for row in rows], numbers(connection).get("format.notes")


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("written", [1, 2, 3])
def test_an_older_format_is_upgraded_in_place(engine: Engine, written: int, numbered: bool) -> None:
    if written > 1 and not numbered:
        pytest.skip("only the first format was ever without a number")
    filled(engine, written, numbered=numbered)
    with engine.begin() as connection:
        notes(3).prepare(connection)
    moods = {1: ("calm", "calm"), 2: (None, None), 3: (None, None)}[written]
    assert held(engine) == (["id", "body", "mood"], [(1, "first", moods[0]), (2, "second", moods[1])], "3")


def test_the_id_of_the_store_outlives_an_upgrade(engine: Engine) -> None:
    with engine.begin() as connection:
        first = notes(1).prepare(connection)
    with engine.begin() as connection:
        assert (notes(3).prepare(connection), MEMORY_TABLES.prepare(connection)) == (first, first)


def fail(connection: Connection) -> None:
    to_third(connection)
    raise ZeroDivisionError


def test_an_upgrade_that_fails_half_way_leaves_everything_as_it_was(engine: Engine) -> None:
    filled(engine, 1, numbered=False)
    before = held(engine)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        notes(3, {1: to_second, 2: fail}).prepare(connection)
    assert held(engine) == before


def test_processes_that_open_at_once_upgrade_once(engine: Engine) -> None:
    filled(engine, 1)

    def open_one(_: int) -> None:
        with engine.begin() as connection:
            notes(3).prepare(connection)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(open_one, range(4)))
    assert held(engine) == (["id", "body", "mood"], [(1, "first", "calm"), (2, "second", "calm")], "3")


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        ("4", SchemaTooNew, r"the notes have format 4, this version of dgent knows 3: upgrade dgent"),
        (
            "0",
            SchemaOutdated,
            r"the notes have format 0, and no upgrade leads from it to 3: open them with the version",
        ),
        ("x", Corrupt, r"the format of the notes is 'x', which is no number"),
        ("", Corrupt, r"no number"),
        ("-1", Corrupt, r"no number"),
        ("１", Corrupt, r"no number"),  # noqa: RUF001  # a digit that is not ASCII
    ],
)
def test_a_format_that_cannot_be_used_is_named_and_nothing_is_written(
    engine: Engine, number: str, error: type[DgentError], says: str
) -> None:
    filled(engine, 2)
    with engine.begin() as connection:
        connection.execute(update(meta).where(meta.c.key == "format.notes").values(value=number))
    before = held(engine)
    for use in (notes(3).prepare, notes(3).check):
        expected = SchemaOutdated if error is SchemaOutdated else error
        with pytest.raises(expected, match=says if use.__name__ == "prepare" else None), engine.begin() as connection:
            use(connection)
    assert held(engine) == before


def test_no_step_is_taken_where_a_later_one_is_missing(engine: Engine) -> None:
    filled(engine, 1)
    before = held(engine)
    with (
        pytest.raises(SchemaOutdated, match="format 2, and no upgrade leads from it to 3"),
        engine.begin() as connection,
    ):
        notes(3, {1: to_second}).prepare(connection)
    assert held(engine) == before


def test_a_check_reads_and_makes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(
            SchemaOutdated, match="the notes: the tables are not there: open the database once where it can be written"
        ):
            notes(3).check(connection)
        assert inspect(connection).get_table_names() == []
    filled(engine, 2)
    with engine.begin() as connection:
        with pytest.raises(SchemaOutdated, match="the notes: the tables are of format 2, and this version reads 3"):
            notes(3).check(connection)
        store = notes(3).prepare(connection)
        assert notes(3).check(connection) == store


async def test_a_database_of_older_memory_tables_is_not_called_newer(sqlite_path: Path) -> None:
    database = opened(f"sqlite:///{sqlite_path}")
    await SqlBackend(database).prepare()
    await database.close()
    with sqlite3.connect(sqlite_path) as connection:
        connection.execute("UPDATE dgent_meta SET value = '0' WHERE key = 'format'")
    connection.close()
    database = opened(f"sqlite:///{sqlite_path}")
    try:
        with pytest.raises(SchemaOutdated, match="the memory tables have format 0"):
            await SqlBackend(database).get("x")
    finally:
        await database.close()
