"""Each error of a driver becomes one of ours, and none of ours quotes a value."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
import traceback
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    QueuePool,
    Table,
    Text,
    create_engine,
    insert,
    select,
    text,
)
from sqlalchemy.exc import NoResultFound
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.exceptions import (
    BackendUnavailable,
    Corrupt,
    DgentError,
    DiskFull,
    IntegrityViolation,
    InvalidQuery,
    LimitExceeded,
    ReadOnly,
    SchemaOutdated,
    StorageError,
    StorageTimeout,
    VersionConflict,
)
from dgent.sql.errors import sqlstate, translate, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHAT = "the store"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@contextmanager
def file(path: Path, **named: Any) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path / "plain.db", isolation_level=None, **named)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, u TEXT UNIQUE, n TEXT NOT NULL, b BLOB)"
        )
        yield connection


def full(path: Path) -> None:
    with file(path) as connection:
        connection.execute("PRAGMA max_page_count=20")
        connection.execute("INSERT INTO t (n, b) VALUES ('', zeroblob(1000000))")


def read_only(path: Path) -> None:
    with file(path) as connection:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("INSERT INTO t (n) VALUES ('')")


def not_there(path: Path) -> None:
    sqlite3.connect(f"file:{path}/nothing.db?mode=rw", uri=True)


def no_database(path: Path) -> None:
    (path / "plain.db").write_bytes(b"hello" * 1000)
    with file(path):
        pass


def malformed(path: Path) -> None:
    with file(path) as connection:
        connection.execute("INSERT INTO t (n, b) VALUES ('', zeroblob(100000))")
    content = (path / "plain.db").read_bytes()
    (path / "plain.db").write_bytes(content[:8192])
    with closing(sqlite3.connect(path / "plain.db")) as connection:
        connection.execute("SELECT sum(length(b)) FROM t").fetchall()


def no_text(path: Path) -> None:
    with file(path) as connection:
        connection.execute("INSERT INTO t (n) VALUES (CAST(x'ff' AS TEXT))")
        connection.execute("SELECT n FROM t").fetchall()


def busy(path: Path) -> None:
    with file(path) as one, file(path, timeout=0) as two:
        one.execute("BEGIN IMMEDIATE")
        two.execute("BEGIN IMMEDIATE")


def locked(path: Path) -> None:
    with file(path) as connection:
        connection.executemany("INSERT INTO t (n) VALUES (?)", [("",)] * 3)
        unread = connection.execute("SELECT * FROM t")
        try:
            connection.execute("DROP TABLE t")
        finally:
            unread.close()


def interrupted(path: Path) -> None:
    with file(path) as connection:
        connection.set_progress_handler(lambda: True, 100)
        connection.execute(ENDLESS).fetchall()


def too_big(path: Path) -> None:
    with file(path) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100)
        connection.execute("INSERT INTO t (n, b) VALUES ('', ?)", (bytes(1000),))


def not_unique(path: Path) -> None:
    with file(path) as connection:
        connection.executemany("INSERT INTO t (n, u) VALUES ('', ?)", [("same",)] * 2)


def null(path: Path) -> None:
    with file(path) as connection:
        connection.execute("INSERT INTO t (n) VALUES (NULL)")


def mismatched(path: Path) -> None:
    with file(path) as connection:
        connection.execute("INSERT INTO t (id, n) VALUES ('text', '')")


def no_table(path: Path) -> None:
    with file(path) as connection:
        connection.execute("SELECT * FROM dgent_missing")


def no_column(path: Path) -> None:
    with file(path) as connection:
        connection.execute("SELECT t.missing FROM t")


def closed(path: Path) -> None:
    with file(path) as connection:
        pass
    connection.execute("SELECT 1")


def no_such_table(path: Path) -> None:
    with file(path) as connection:
        connection.execute("SELECT * FROM acounts")


def not_said(path: Path) -> None:
    """Its text quotes a value."""
    with file(path) as connection:
        connection.execute("SELECT json_extract('{}', ?)", ("secret",))


def nonsense(path: Path) -> None:
    with file(path) as connection:
        connection.execute("SELEC 1")


def no_pool(path: Path) -> None:
    engine = create_engine(
        f"sqlite:///{path}/x.db", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    try:
        with engine.connect():
            engine.connect()
    finally:
        engine.dispose()


def device_full(path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")


def is_directory(path: Path) -> None:
    path.open("wb")


def no_folder(path: Path) -> None:
    (path / "none" / "x").open("wb")


def too_late(path: Path) -> None:
    raise TimeoutError


def refused(path: Path) -> None:
    raise ConnectionRefusedError(111, "refused")


def of_sqlalchemy(path: Path) -> None:
    raise NoResultFound("No row was found")


PROVOKED: list[tuple[Callable[[Path], None], type[DgentError], str]] = [
    (full, DiskFull, "free some"),
    (read_only, ReadOnly, "owner and the mode"),
    (not_there, ReadOnly, "owner and the mode"),
    (no_database, Corrupt, "restore a backup"),
    (malformed, Corrupt, "restore a backup"),
    (no_text, Corrupt, "restore a backup"),
    (busy, StorageTimeout, "busy_timeout"),
    (locked, StorageTimeout, "busy_timeout"),
    (interrupted, StorageTimeout, "command_timeout"),
    (too_big, LimitExceeded, "larger than"),
    (not_unique, IntegrityViolation, r"a unique constraint of t \(u\) refused"),
    (null, IntegrityViolation, r"a not null constraint of t \(n\) refused"),
    (mismatched, IntegrityViolation, "a type constraint"),
    (no_table, SchemaOutdated, r"run `kg db upgrade`, or `await storage\.run_migrations\(\)`"),
    (no_such_table, InvalidQuery, "no such table: acounts"),
    (no_column, InvalidQuery, "no such column: t.missing"),
    (closed, BackendUnavailable, "does not answer"),
    (nonsense, InvalidQuery, 'near "SELEC": syntax error'),
    (not_said, StorageError, "SQLITE_ERROR"),
    (no_pool, StorageTimeout, "pool_size"),
    (device_full, DiskFull, "free some"),
    (no_folder, ReadOnly, "a folder on its way"),
    (too_late, StorageTimeout, "command_timeout"),
    (refused, BackendUnavailable, "does not answer"),
    (of_sqlalchemy, StorageError, "NoResultFound"),
]


@pytest.mark.parametrize(("provoke", "kind", "words"), PROVOKED, ids=[row[0].__name__ for row in PROVOKED])
def test_what_drivers_raise_becomes_ours(
    tmp_path: Path, provoke: Callable[[Path], None], kind: type[DgentError], words: str
) -> None:
    with pytest.raises(DgentError, match=words) as caught, translated(WHAT):
        provoke(tmp_path)
    assert type(caught.value) is kind
    assert (WHAT in str(caught.value)) is not isinstance(caught.value, IntegrityViolation)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [KeyError("k"), ValueError("v"), ZeroDivisionError(), VersionConflict("a", 1, 2)])
def test_what_is_no_drivers_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated(WHAT):
        raise error
    assert caught.value is error
    assert translate(error, WHAT) is (error if isinstance(error, DgentError) else None)


def test_around_code_that_is_not_ours_only_the_drivers_errors_are() -> None:
    for error in (FileNotFoundError(2, "mine"), TimeoutError("mine"), ConnectionError("mine")):
        with pytest.raises(type(error), match="mine") as caught, translated(WHAT, only_sql=True):
            raise error
        assert caught.value is error
    engine = create_engine("sqlite://")
    with pytest.raises(InvalidQuery), translated(WHAT, only_sql=True), engine.connect() as connection:
        connection.execute(text("SELECT * FROM missing"))
    engine.dispose()


def test_an_sqlstate_is_found_however_it_is_wrapped() -> None:
    class Driver(Exception):
        sqlstate = "40001"

    wrapped = RuntimeError()
    wrapped.__cause__ = ValueError()
    wrapped.__cause__.__cause__ = Driver()
    assert sqlstate(wrapped) == "40001"
    assert sqlstate(ValueError()) is None


SECRET = "s3cret-value"
table = Table(
    "kept",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", Text, unique=True, nullable=False),
    Column("parent", Integer),
)
DDL = (
    "CREATE TABLE kept (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL CHECK (length(name) < 20), "
    "parent INTEGER REFERENCES kept (id) DEFERRABLE INITIALLY DEFERRED)"
)
FAILING: dict[str, Callable[[Connection], Any]] = {
    "unique": lambda c: c.execute(insert(table), [{"name": SECRET}, {"name": SECRET}]),
    "check": lambda c: c.execute(insert(table).values(name=SECRET * 9)),
    "null": lambda c: c.execute(insert(table).values(id=1, name=None, parent=SECRET)),
    "foreign key": lambda c: c.execute(insert(table).values(name=SECRET, parent=99)),
    "mismatch": lambda c: c.execute(text("INSERT INTO kept (id, name) VALUES (:id, '')"), {"id": SECRET}),
    "type": lambda c: c.execute(text("SELECT :x"), {"x": {SECRET}}),
    "json": lambda c: c.execute(text("SELECT json_extract(:x, '$')"), {"x": SECRET}),
    "decoding": lambda c: c.execute(text(f"SELECT CAST('{SECRET}' || x'ff' AS TEXT)")).all(),
    "missing": lambda c: c.execute(select(table).where(text("nothing = :x")), {"x": SECRET}),
    "driver": lambda c: c.exec_driver_sql("INSERT INTO kept (name) VALUES (?)", (SECRET * 9,)),
    "own": lambda c: fail_after(c),  # noqa: PLW0108  # it stands below
}


def fail_after(connection: Connection) -> None:
    """Raise an error of our own that the driver's is printed with."""
    try:
        connection.execute(insert(table).values(name=SECRET * 9))
    except Exception:
        raise LookupError  # noqa: B904  # the chain is what is looked at


@pytest.mark.parametrize("how", FAILING)
async def test_no_error_quotes_a_value(
    sqlite_path: Path, how: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in its words, its repr, its traceback with all that is chained to it, nor in what is logged about it."""
    caplog.set_level(logging.INFO)
    async with sqlite(sqlite_path) as store:
        database = store.database
        await database.write(lambda c: c.execute(text(DDL)) and None)

        async def in_transaction(work: Callable[[Connection], Any]) -> None:
            async with database.transaction() as tx:
                await tx.write(work)

        async def in_session(work: Callable[[Connection], Any]) -> None:
            async with database.transaction() as tx:
                await tx.session.run_sync(lambda session: work(session.connection()))

        async def among_others(work: Callable[[Connection], Any]) -> None:
            others = [store.put(Datum(f"k{n}", b"x", 1.0)) for n in range(2)]
            answers = await asyncio.gather(*others, database.write(work), return_exceptions=True)
            raise next(answer for answer in answers if isinstance(answer, BaseException))

        for run in (database.write, in_transaction, in_session, among_others, database.read):
            with suppress(ReadOnly), pytest.raises((DgentError, LookupError)) as caught:
                await run(FAILING[how])
            said = io.StringIO()
            traceback.print_exception(caught.value, file=said)
            for words in (str(caught.value), repr(caught.value), said.getvalue()):
                assert SECRET not in words
            assert not getattr(caught.value, "__notes__", None)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capsys.readouterr())
