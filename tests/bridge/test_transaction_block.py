"""Whatever is done to the session of a transaction, the block is kept whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from dgent.bridge import TableAdapter, UnitOfWork, unit_of_work
from dgent.datum import Datum
from dgent.exceptions import DgentError, IntegrityViolation, InvalidQuery, RolledBack, StorageTimeout, TransactionOpen
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.transaction_block import control_in

from .conftest import opened

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from dgent.sql import Database
    from dgent.store import Backend

Verb = Callable[[UnitOfWork], Awaitable[Any]]


class Fault(Exception):  # what a test throws is a fault
    pass


def crystal(id: str, **values: Any) -> Crystal:
    return Crystal(id=id, content_hash="h", summary="s", **{"tags": [], "datum_id": id, **values})


@pytest.fixture(params=["same database", "elsewhere"])
def memory(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Backend:
    if request.param == "elsewhere":
        return JSONLBackend(tmp_path / "memory.jsonl", namespace="block")
    return SqlBackend(database, "block")


async def write(tx: UnitOfWork, id: str) -> None:
    """Write to both tracks: an ORM object, a datum, a row."""
    tx.session.add(crystal(f"{id} orm"))
    await tx.memory.put(Datum.create(b"x", id=id))
    await tx.session.execute(
        insert(Crystal).values(id=f"{id} sql", content_hash="h", summary="s", tags=[], datum_id=id),
    )


async def kept(database: Database, memory: Backend) -> set[str]:
    rows = {datum.id for datum in await TableAdapter(Crystal, database).list(limit=100)}
    return rows | {datum.id for datum in await memory.list()}


def whole(*ids: str) -> set[str]:
    return {each for id in ids for each in (id, f"{id} orm", f"{id} sql")}


async def begin(tx: UnitOfWork) -> None:
    async with tx.session.begin():
        tx.session.add(crystal("begun"))


async def begin_nested(tx: UnitOfWork) -> None:
    async with tx.session.begin_nested():
        tx.session.add(crystal("begun"))
        await tx.session.commit()


async def as_context(tx: UnitOfWork) -> None:
    async with tx.session as session:
        session.add(crystal("begun"))
        await session.commit()


async def run_sync(tx: UnitOfWork) -> None:
    await tx.session.run_sync(lambda session: session.commit())


async def connection(tx: UnitOfWork) -> Any:
    return await tx.session.connection()


async def raw(tx: UnitOfWork) -> Any:
    return (await (await tx.session.connection()).get_raw_connection()).dbapi_connection.driver_connection


async def raw_commit(tx: UnitOfWork) -> None:
    driver = await raw(tx)
    if hasattr(driver, "in_transaction"):
        driver.commit()
    else:
        await driver.execute("SELECT 1; COMMIT; BEGIN")


async def raw_rollback(tx: UnitOfWork) -> None:
    driver = await raw(tx)
    if hasattr(driver, "in_transaction"):
        driver.rollback()
    else:
        await driver.fetch("ROLLBACK")


async def raw_statement(tx: UnitOfWork) -> None:
    driver = await raw(tx)
    if hasattr(driver, "in_transaction"):
        driver.execute("COMMIT")
    else:
        await driver.prepare("/* now */ COMMIT")


async def raw_script(tx: UnitOfWork) -> None:
    driver = await raw(tx)
    if hasattr(driver, "in_transaction"):
        driver.executescript("SELECT 1")  # which commits before
    else:
        await driver.execute("END")


async def failing_flush(tx: UnitOfWork) -> None:
    tx.session.add(crystal("refused", access_count=-1))
    await tx.session.flush()


async def failing_put(tx: UnitOfWork) -> None:
    tx.session.add(crystal("refused", access_count=-1))
    await tx.memory.put(Datum.create(b"x", id="with it"))


async def recovered_flush(tx: UnitOfWork) -> None:
    with suppress(SQLAlchemyError):
        await failing_flush(tx)
    await tx.session.rollback()


async def close_unflushed(tx: UnitOfWork) -> None:
    tx.session.add(crystal("unflushed"))
    await tx.session.close()


def sql(statement: str) -> Verb:
    async def run(tx: UnitOfWork) -> None:
        await tx.session.execute(text(statement))

    return run


def driver_sql(statement: str) -> Verb:
    async def run(tx: UnitOfWork) -> None:
        await (await tx.session.connection()).exec_driver_sql(statement)

    return run


def unit(statement: str) -> Verb:
    async def run(tx: UnitOfWork) -> None:
        await tx._transaction.write(lambda connection: connection.exec_driver_sql(statement).rowcount)

    return run


COMPOSE: dict[str, Verb] = {
    "session.commit": lambda tx: tx.session.commit(),
    "sync_session.commit": run_sync,
    "session.begin": begin,
    "session.begin_nested, and commit in it": begin_nested,
    "session as a context": as_context,
    "session.close": lambda tx: tx.session.close(),
    "session.reset": lambda tx: tx.session.reset(),
}
REFUSE: dict[str, Verb] = {
    **{
        f"text {each}": sql(each)
        for each in ("COMMIT", "commit;", "/* c */ END", "-- c\nROLLBACK", "BEGIN", "; COMMIT")
    },
    **{f"driver {each}": driver_sql(each) for each in ("COMMIT", "ROLLBACK", "BEGIN", "END TRANSACTION")},
    **{f"unit {each}": unit(each) for each in ("COMMIT", "ROLLBACK", "BEGIN")},
    "raw commit": raw_commit,
    "raw rollback": raw_rollback,
    "raw statement": raw_statement,
    "raw script": raw_script,
}
UNDO: dict[str, Verb] = {
    "session.rollback": lambda tx: tx.session.rollback(),
    "sync_session.rollback": lambda tx: tx.session.run_sync(lambda session: session.rollback()),
    "connection.commit": lambda tx: _then(connection(tx), lambda found: found.commit()),
    "connection.rollback": lambda tx: _then(connection(tx), lambda found: found.rollback()),
    "connection.close": lambda tx: _then(connection(tx), lambda found: found.close()),
    "connection.invalidate": lambda tx: _then(connection(tx), lambda found: found.invalidate()),
    "get_transaction.commit": lambda tx: tx.session.get_transaction().commit(),  # type: ignore[union-attr]
    "get_transaction.rollback": lambda tx: tx.session.get_transaction().rollback(),  # type: ignore[union-attr]
    "session.invalidate": lambda tx: tx.session.invalidate(),
    "a flush that fails": failing_flush,
    "a put whose flush fails": failing_put,
    "a flush that fails, and rollback": recovered_flush,
    "close with changes": close_unflushed,
}


async def _then(first: Awaitable[Any], then: Callable[[Any], Awaitable[Any]]) -> None:
    await then(await first)


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("verb", COMPOSE)
async def test_what_a_repository_does_by_itself_leaves_the_end_to_the_block(
    database: Database, memory: Backend, verb: str, fails: bool
) -> None:
    with suppress(Fault):
        async with unit_of_work(database, memory) as tx:
            await write(tx, "first")
            await COMPOSE[verb](tx)
            assert await kept_by_others(database, memory) == set()
            await write(tx, "second")
            if fails:
                raise Fault
    extra = {"begun"} if "begin" in verb or "context" in verb else set()
    assert await kept(database, memory) == (set() if fails else whole("first", "second") | extra)
    await memory.close()


async def kept_by_others(database: Database, memory: Backend) -> set[str]:
    """Look beside the open transaction, as a task of somebody else does."""
    return await asyncio.create_task(kept(database, memory), context=Context())


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("verb", REFUSE)
async def test_a_statement_that_would_end_the_transaction_is_refused_and_changes_nothing(
    database: Database, memory: Backend, verb: str, fails: bool
) -> None:
    with suppress(Fault):
        async with unit_of_work(database, memory) as tx:
            await write(tx, "first")
            with pytest.raises(
                (InvalidQuery, sqlite3.DatabaseError), match=r"leave the block to commit|not authorized"
            ):
                await REFUSE[verb](tx)
            await write(tx, "second")
            if fails:
                raise Fault
    assert await kept(database, memory) == (set() if fails else whole("first", "second"))
    await memory.close()


@pytest.mark.parametrize("end", ["at once", "after more", "with an error"])
@pytest.mark.parametrize("verb", UNDO)
async def test_what_undoes_the_transaction_undoes_all_of_the_block_which_says_so(
    database: Database, memory: Backend, verb: str, end: str
) -> None:
    heard: list[str] = []
    with pytest.raises((RolledBack, Fault)) as caught:  # noqa: PT012  # the transaction is what fails
        async with unit_of_work(database, memory) as tx:
            await write(tx, "first")
            tx._transaction.after_commit(lambda: heard.append("committed"))
            with suppress(DgentError, SQLAlchemyError):
                await UNDO[verb](tx)
            if end == "with an error":
                raise Fault
            if end == "after more":
                for more in (write_datum, write_row, write_sql):
                    with pytest.raises((RolledBack, SQLAlchemyError)):
                        await more(tx)
    assert caught.type is (Fault if end == "with an error" else RolledBack)
    assert await kept(database, memory) == set()
    assert heard == []
    async with unit_of_work(database, memory) as tx:  # and the next is none the worse
        await write(tx, "next")
    assert await kept(database, memory) == whole("next")
    await memory.close()


async def write_datum(tx: UnitOfWork) -> None:
    await tx.memory.put(Datum.create(b"x", id="more"))


async def write_row(tx: UnitOfWork) -> None:
    await tx.table(Crystal).put(
        Datum.create(id="more", data={"content_hash": "h", "summary": "s", "tags": [], "datum_id": "more"})
    )


async def write_sql(tx: UnitOfWork) -> None:
    await tx.session.execute(text("DELETE FROM brain_crystals"))


@pytest.mark.parametrize("verb", ["session.rollback", "sync_session.rollback", "a flush that fails, and rollback"])
@pytest.mark.parametrize("end", ["well", "with an error"])
async def test_a_rollback_in_a_nested_transaction_undoes_that_one(
    database: Database, memory: Backend, verb: str, end: str
) -> None:
    async with unit_of_work(database, memory) as outer:
        await write(outer, "first")
        with pytest.raises((RolledBack, Fault)) as caught:  # noqa: PT012  # the nested one is what fails
            async with unit_of_work(database, memory) as inner:
                await write(inner, "inner")
                await UNDO[verb](inner)
                with pytest.raises(RolledBack):
                    await inner.memory.put(Datum.create(b"x", id="late"))
                if end != "well":
                    raise Fault
        assert caught.type is (RolledBack if end == "well" else Fault)
        await write(outer, "second")
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


@pytest.mark.parametrize("verb", [*COMPOSE, *REFUSE])
async def test_a_nested_transaction_that_fails_leaves_nothing_whatever_was_called_in_it(
    database: Database, memory: Backend, verb: str
) -> None:
    async with unit_of_work(database, memory) as outer:
        await write(outer, "first")
        with suppress(Fault):
            async with unit_of_work(database, memory) as inner:
                await write(inner, "inner")
                with suppress(InvalidQuery, sqlite3.DatabaseError):
                    await {**COMPOSE, **REFUSE}[verb](inner)
                await write(inner, "later")
                raise Fault
        await write(outer, "second")
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


@pytest.mark.parametrize("begin", ["begin", "begin_nested"])
async def test_a_savepoint_of_the_session_fails_alone(database: Database, memory: Backend, begin: str) -> None:
    async with unit_of_work(database, memory) as tx:
        await write(tx, "first")
        with suppress(Fault):
            async with getattr(tx.session, begin)():
                await write(tx, "gone")
                raise Fault
        with pytest.raises(IntegrityError):  # noqa: PT012  # the savepoint is what fails
            async with getattr(tx.session, begin)():
                await write(tx, "gone too")
                tx.session.add(crystal("refused", access_count=-1))
        await tx.session.execute(text("SAVEPOINT mine"))
        await tx.session.execute(text("DELETE FROM brain_crystals"))
        await tx.session.execute(text("ROLLBACK TO SAVEPOINT mine"))
        await tx.session.execute(text("RELEASE SAVEPOINT mine"))
        kept_one = await tx.session.begin_nested()
        await write(tx, "second")
        await kept_one.commit()
        gone = await tx.session.begin_nested()
        await write(tx, "gone again")
        await gone.rollback()
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


async def test_a_connection_from_before_a_nested_transaction_writes_within_it(
    database: Database, memory: Backend
) -> None:
    async with unit_of_work(database, memory) as outer:
        await write(outer, "first")
        before = await outer.session.connection()
        with suppress(Fault):
            async with unit_of_work(database, memory):
                await before.execute(text("DELETE FROM brain_crystals"))
                raise Fault
    assert await kept(database, memory) == whole("first")
    await memory.close()


async def test_a_table_over_a_session_that_its_owner_has_open_decides_nothing_about_it(database: Database) -> None:
    async with unit_of_work(database, SqlBackend(database, "block")) as tx:
        tx.session.add(crystal("first"))
        await tx.session.flush()
        table = TableAdapter(Crystal, lambda: tx.session)
        for call in (table.get("first"), table.list(), table.delete("first")):
            with pytest.raises(TransactionOpen, match="async_sessionmaker"):
                await call
    assert await TableAdapter(Crystal, database).exists("first")


async def test_a_session_may_be_asked_for_ddl(database: Database, memory: Backend) -> None:
    with suppress(Fault):
        async with unit_of_work(database, memory) as tx:
            await write(tx, "first")
            await tx.session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
            await tx.session.commit()
            await tx.session.execute(text("INSERT INTO notes VALUES (1)"))
            raise Fault
    assert await kept(database, memory) == set()
    async with unit_of_work(database, memory) as tx:
        await tx.session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
        await tx.session.commit()
    assert await database.read(lambda c: c.execute(text("SELECT count(*) FROM notes")).scalar()) == 0
    await memory.close()


async def test_a_row_refused_by_one_statement_is_caught_and_the_rest_is_whole(
    database: Database, memory: Backend
) -> None:
    async with unit_of_work(database, memory) as tx:
        await write(tx, "first")
        with pytest.raises(IntegrityViolation):
            await tx.table(Crystal).put(
                Datum.create(id="refused", data={"content_hash": "h", "summary": "s", "access_count": -1})
            )
        await write(tx, "second")
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


@pytest.mark.parametrize("moment", ["after_commit", "before_commit"])
async def test_a_listener_of_the_session_hides_no_commit(
    database: Database, memory: Backend, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(session: object) -> None:
        heard.append(moment)
        raise Fault

    stays = moment == "after_commit"
    with caplog.at_level(logging.CRITICAL if not stays else logging.ERROR):
        with suppress(Fault):
            async with unit_of_work(database, memory) as tx:
                await write(tx, "first")
                await tx.session.commit()
                event.listen(tx.session.sync_session, moment, fail)
                await tx.session.commit()
                assert heard == []
                tx._transaction.after_commit(lambda: heard.append("told"))
        assert heard == ([moment, "told"] if stays else [moment])
    assert await kept(database, memory) == (whole("first") if stays else set())
    assert ("which stands" in caplog.text) is stays
    await memory.close()


@pytest.mark.parametrize("end", ["kept", "undone", "all undone"])
async def test_the_first_use_may_be_within_a_transaction_of_the_database(
    database: Database, memory: Backend, end: str
) -> None:
    with suppress(Fault):
        async with database.transaction():
            with suppress(Fault):
                async with unit_of_work(database, memory) as tx:
                    await write(tx, "first")
                    if end == "undone":
                        raise Fault
            if end == "all undone":
                raise Fault
    for id in ("second", "third"):  # one of them may have to make the tables again
        async with unit_of_work(database, memory) as tx:
            await write(tx, id)
    assert await kept(database, memory) == whole("second", "third", *(["first"] if end == "kept" else []))
    await memory.close()


@pytest.mark.parametrize("by", ["inner", "outer"])
async def test_a_nested_transaction_that_fails_beside_a_unit_of_its_task_is_undone_alone(
    database: Database, memory: Backend, by: str
) -> None:
    begun, begin = asyncio.Event(), asyncio.get_running_loop().call_soon_threadsafe
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n"

    def slow(connection: Connection) -> Any:
        begin(begun.set)
        return connection.execute(text(count)).scalar()

    async with unit_of_work(database, memory) as outer:
        await write(outer, "first")
        with suppress(Fault):
            async with unit_of_work(database, memory) as inner:
                await write(inner, "inner")
                unit = asyncio.create_task({"inner": inner, "outer": outer}[by]._transaction.write(slow))
                await begun.wait()
                raise Fault
        await write(outer, "second")
        assert await unit == 1_000_000
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


async def test_a_unit_of_a_block_that_takes_too_long_says_so(url: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    database = open_database(Settings.load(database_url=url, synchronous="NORMAL", command_timeout=0.2))
    with pytest.raises(StorageTimeout, match="command_timeout"):
        async with database.transaction() as tx:
            await tx.read(lambda connection: connection.execute(text(endless)).scalar())
    await database.close()


@pytest.mark.parametrize("what", ["session", "connection"])
async def test_what_was_kept_of_a_block_writes_nothing_after_its_end(
    database: Database, memory: Backend, what: str
) -> None:
    async with unit_of_work(database, memory) as tx:
        late = tx.session if what == "session" else await tx.session.connection()
        await write(tx, "first")
    with pytest.raises(SQLAlchemyError):
        await late.execute(text("DELETE FROM brain_crystals"))
    async with unit_of_work(database, memory) as tx:  # on the same connection
        await write(tx, "second")
        with pytest.raises(SQLAlchemyError):
            await late.execute(text("DELETE FROM brain_crystals"))
    assert await kept(database, memory) == whole("first", "second")
    await memory.close()


async def test_a_session_that_is_over_may_be_closed(database: Database, memory: Backend) -> None:
    async with unit_of_work(database, memory) as tx:
        await write(tx, "first")
        session = tx.session
    await session.close()
    assert await kept(database, memory) == whole("first")
    await memory.close()


@pytest.mark.parametrize(
    ("sql", "several", "word"),
    [
        ("COMMIT", False, "COMMIT"),
        ("  commit work", False, "COMMIT"),
        ("-- a\n /* b */ ;; END", False, "END"),
        ("START TRANSACTION READ ONLY", False, "START TRANSACTION"),
        ("prepare transaction 'x'", False, "PREPARE TRANSACTION"),
        ("ROLLBACK TO a", False, None),
        ("rollback work to savepoint a", False, None),
        ("ROLLBACK AND CHAIN", False, "ROLLBACK"),
        ("SAVEPOINT a", False, None),
        ("RELEASE a", False, None),
        ("SELECT 'COMMIT'; -- COMMIT", True, None),
        ("SELECT 1; COMMIT", True, "COMMIT"),
        ("SELECT 1; COMMIT", False, None),
        ("SELECT $a$; COMMIT; $a$, E'\\'; COMMIT;', \"; COMMIT\"", True, None),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END", True, None),
        ("CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END", False, None),
        ("COMMITTED", False, None),
        ("", True, None),
    ],
)
def test_the_words_that_end_a_transaction_are_known(sql: str, several: bool, word: str | None) -> None:
    assert control_in(sql, several=several) == word


async def test_a_session_of_an_empty_block_may_be_committed(sqlite_path: Path) -> None:
    async with opened(f"sqlite:///{sqlite_path}") as database, database.transaction() as tx:
        await tx.session.commit()
