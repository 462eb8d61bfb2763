"""Plain SQL, alike on both databases: what comes back, and what is said of a mistake."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from dgent import StorageProvider
from dgent.exceptions import IntegrityViolation, InvalidQuery, SchemaOutdated
from dgent.models.brain import Crystal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "s3cret-value"


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageProvider]:
    place: dict[str, Any] = {"data_dir": tmp_path / "data"}
    if request.param == "postgres":
        place["database_url"] = request.getfixturevalue("postgres_url")
    async with await StorageProvider.from_config(**place) as storage:
        await storage.relational.execute(
            "CREATE TABLE accounts (name VARCHAR(40) PRIMARY KEY, plan VARCHAR(40) NOT NULL, "
            "seats INTEGER CONSTRAINT enough CHECK (seats > 0), owner VARCHAR(40) REFERENCES accounts (name), "
            "team VARCHAR(40), UNIQUE (plan, team))"
        )
        yield storage


async def test_execute_tells_how_many_rows_it_wrote(storage: StorageProvider) -> None:
    run = storage.relational.execute
    insert = "INSERT INTO accounts (name, plan) VALUES ('a', 'x'), ('b', 'x'), ('c', 'y')"
    assert await run(insert) == 3
    assert await run("UPDATE accounts SET seats = :n WHERE plan = :plan", {"n": 2, "plan": "x"}) == 2
    assert await run("UPDATE accounts SET seats = 1 WHERE plan = 'nobody'") == 0
    assert await run("DELETE FROM accounts") == 3
    assert await run("CREATE INDEX by_seats ON accounts (seats)") == 0


async def test_returning_is_fetched_and_committed(storage: StorageProvider) -> None:
    relational = storage.relational
    rows = await relational.fetch_all(
        "INSERT INTO accounts (name, plan) VALUES (:a, 'x'), (:b, 'x') RETURNING name, seats", {"a": "ada", "b": "bob"}
    )
    assert rows == [{"name": "ada", "seats": None}, {"name": "bob", "seats": None}]
    assert await relational.fetch_one("/* one */ UPDATE accounts SET seats = 5 WHERE name = 'ada' RETURNING seats") == {
        "seats": 5
    }
    assert await relational.fetch_one("DELETE FROM accounts WHERE name = 'nobody' RETURNING name") is None
    assert await relational.fetch_all("-- all\nSELECT name, seats FROM accounts ORDER BY name") == [
        {"name": "ada", "seats": 5},
        {"name": "bob", "seats": None},
    ]
    with_rows = "WITH them AS (SELECT name FROM accounts) SELECT count(*) AS n FROM them"
    assert await relational.fetch_one(with_rows) == {"n": 2}


VIOLATIONS: list[tuple[str, str, tuple[str, ...], str | None]] = [
    (f"INSERT INTO accounts (name, plan) VALUES ('{SECRET}', 'x')", "unique", ("name",), None),
    (f"INSERT INTO accounts (name, plan, team) VALUES ('n', '{SECRET}', 't')", "unique", ("plan", "team"), None),
    ("INSERT INTO accounts (name, plan) VALUES ('n', NULL)", "not null", ("plan",), None),
    ("INSERT INTO accounts (name, plan, seats) VALUES ('n', 'x', -77)", "check", (), "enough"),
    (f"INSERT INTO accounts (name, plan, owner) VALUES ('n', 'x', '{SECRET} 2')", "foreign key", ("owner",), None),
]


@pytest.mark.parametrize("door", ["execute", "fetch_all", "session", "nested"])
@pytest.mark.parametrize(
    ("sql", "kind", "columns", "constraint"), VIOLATIONS, ids=[row[1] + row[0][:0] for row in VIOLATIONS]
)
async def test_a_refused_row_says_the_table_the_columns_and_the_kind(
    storage: StorageProvider, door: str, sql: str, kind: str, columns: tuple[str, ...], constraint: str | None
) -> None:
    await storage.relational.execute(f"INSERT INTO accounts (name, plan, team) VALUES ('{SECRET}', '{SECRET}', 't')")
    with pytest.raises(IntegrityViolation) as caught:
        await _through(door, storage, sql)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # noqa: S301  # our own bytes
        assert error.kind == kind
        if kind == "foreign key" and storage.settings.url.get_backend_name() == "sqlite":  # it does not say
            assert (error.table, error.columns) == (None, ())
        elif kind == "check":
            assert (error.constraint, error.columns) == (constraint, ())
        else:
            assert (error.table, error.columns) == ("accounts", columns)
        said = f"{error} {error!r}"
        assert f"a {kind} constraint" in said
        for kept_back in (SECRET, "-77", str(storage.settings.data_dir), storage.database.what):
            assert kept_back not in said


MISTAKES: list[tuple[str, str]] = [
    ("SELECT * FROM acounts", "acounts"),
    ("SELECT plam FROM accounts", "plam"),
    ("INSERT INTO accounts (name, plam) VALUES ('a', 'b')", "plam"),
    ("UPDATE accounts SET plam = 1", "plam"),
    ("SELECT a.plam FROM accounts a", "plam"),
    ("SELECT summary FROM accounts", "summary"),  # a column of a table of ours, which this is not about
    ("SELEC * FROM accounts", "SELEC"),
    ("SELECT nosuch(name) FROM accounts", "nosuch"),
    ("SELECT name FROM accounts, (SELECT 'x' AS name) AS other", "name"),
    ("CREATE TABLE accounts (name TEXT)", "accounts"),
    ("SELECT name FROM accounts WHERE plan = :plan", "plan"),
]


@pytest.mark.parametrize("door", ["fetch_all", "execute", "session", "nested"])
@pytest.mark.parametrize(("sql", "name"), MISTAKES, ids=[sql for sql, _ in MISTAKES])
async def test_a_mistake_in_somebodys_own_sql_names_it(
    storage: StorageProvider, door: str, sql: str, name: str
) -> None:
    with pytest.raises(InvalidQuery, match=name) as caught:
        await _through(door, storage, sql)
    assert "alembic" not in str(caught.value)


async def test_what_the_code_needs_and_is_not_there_asks_for_a_migration(storage: StorageProvider) -> None:
    with pytest.raises(SchemaOutdated, match="run `kg db upgrade`"):
        await storage.table(Crystal).list()
    with pytest.raises(SchemaOutdated, match="run `kg db upgrade`"):
        await storage.relational.fetch_all("SELECT * FROM brain_crystals")
    await storage.relational.execute("CREATE TABLE brain_crystals (id VARCHAR(40) PRIMARY KEY)")
    with pytest.raises(SchemaOutdated, match="run `kg db upgrade`"):
        await storage.table(Crystal).list()


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "BEGIN", "/* c */ END"])
@pytest.mark.parametrize("door", ["execute", "fetch_all", "fetch_one"])
async def test_one_statement_ends_no_transaction_of_others(storage: StorageProvider, door: str, sql: str) -> None:
    with pytest.raises(InvalidQuery, match="ends with its block"):
        await _through(door, storage, sql)


@pytest.mark.parametrize("wrong", [None, 7, "", b"SELECT 1", text("SELECT 1"), ["SELECT 1"]])
async def test_what_is_no_sql_is_refused(storage: StorageProvider, wrong: Any) -> None:
    for door in ("execute", "fetch_all", "fetch_one"):
        with pytest.raises(InvalidQuery, match="SQL text"):
            await getattr(storage.relational, door)(wrong)
        with pytest.raises(InvalidQuery, match="pass a dict"):
            await getattr(storage.relational, door)("SELECT 1", [1])


async def _through(door: str, storage: StorageProvider, sql: str) -> None:
    if door in {"execute", "fetch_all", "fetch_one"}:
        await getattr(storage.relational, door)(sql)
        return
    async with storage.transaction() as tx:
        if door == "session":
            await tx.session.execute(text(sql))
            return
        async with storage.transaction() as inner:
            await inner.session.execute(text(sql))
