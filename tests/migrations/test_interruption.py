"""An upgrade that is stopped anywhere leaves the schema and the data as they were; upgrades take turns."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, Engine, event, inspect, text
from tests.faults.processes import ready, started, together
from tests.migrations.inspection import execute, look, rows, schema, schema_of_models

from dgent import migrations
from dgent.exceptions import BackendUnavailable, StorageTimeout
from dgent.migrations.connection import connection_to
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection as Pipe

ROOT = Path(__file__).resolve().parents[2]
CHANGES = ("CREATE", "INSERT", "UPDATE", "DROP", "ALTER")
LAST = 34
"""The number of the last changing statement from 001 to the head: Alembic's own note of the revision."""
UPGRADE = "import asyncio, sys; from dgent import migrations; print(asyncio.run(migrations.upgrade(sys.argv[1])))"
KILL = f"""
import os, signal, sys
from sqlalchemy import Engine, event
left = int(sys.argv[2])
def before(connection, cursor, statement, *rest):
    global left
    if statement.lstrip().startswith({CHANGES}):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
event.listen(Engine, "before_cursor_execute", before)
{UPGRADE}
"""


class Stopped(Exception):
    """What the tests raise in the middle of an upgrade."""


@contextmanager
def stopping_before(number: int) -> Iterator[None]:
    """Raise before the changing statement of that number, counted from 0."""
    left = number

    def before(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal left
        if statement.lstrip().startswith(CHANGES):
            left -= 1
            if left < 0:
                raise Stopped

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", before)


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=patience(60))
    return process.returncode, out.strip(), err


async def seed(url: str) -> None:
    """Bring a database to 001, with one row in it."""
    await migrations.upgrade(url, "001")
    execute(
        url,
        "INSERT INTO self_grow_budget (id, allowance, created_at, updated_at)"
        " VALUES ('b', 1.5, '2026-01-31T08:15:00.000000Z', '2026-01-31T08:15:00.000000Z')",
    )


def state(url: str) -> tuple[object, ...]:
    """Return what must not change, cheaply: the revision, the tables and the row."""

    def work(connection: Connection) -> tuple[object, ...]:
        revision = connection.scalars(text("SELECT version_num FROM schema_version")).all()
        tables = sorted(inspect(connection).get_table_names())
        return tuple(revision), tuple(tables), connection.execute(text("SELECT * FROM self_grow_budget")).all()

    return look(url, work)


async def test_an_upgrade_stopped_before_any_statement_leaves_the_previous_schema(url: str, full_size: bool) -> None:
    await seed(url)
    before, full, data = state(url), schema(url), rows(url)
    for number in range(LAST + 1) if full_size or url.startswith("sqlite") else (0, 9, 19, LAST):
        with stopping_before(number), pytest.raises(Stopped):
            await migrations.upgrade(url)
        assert state(url) == before, f"stopped before statement {number}"
    assert schema(url) == full
    with stopping_before(LAST + 1):
        assert await migrations.upgrade(url) == "004"
    assert schema(url) == schema_of_models(url)
    assert rows(url) == data


async def test_an_upgrade_from_empty_stopped_before_any_statement_leaves_nothing(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    for number in range(30):
        with stopping_before(number), pytest.raises(Stopped):
            await migrations.upgrade(url)
        assert schema(url) == {}
        assert await migrations.current(url) is None
    assert await migrations.upgrade(url) == "004"


async def test_an_upgrade_killed_leaves_the_previous_schema(url: str, full_size: bool) -> None:
    await seed(url)
    before, data = state(url), rows(url)
    for number in range(LAST + 1) if full_size else (1, LAST):
        returncode, out, err = finish(child(KILL, url, str(number)))
        assert (returncode, out) == (-signal.SIGKILL, ""), err
        assert state(url) == before, f"killed before statement {number}"
    assert finish(child(UPGRADE, url))[:2] == (0, "004")
    assert schema(url) == schema_of_models(url)
    assert rows(url) == data


async def test_an_upgrade_whose_connection_is_cut_leaves_the_previous_schema(postgres_url: str) -> None:
    await seed(postgres_url)
    before = state(postgres_url)
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def cut(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith("CREATE TABLE conversation_turns"):
            look(postgres_url, lambda other: other.execute(text(others)).all())

    event.listen(Engine, "before_cursor_execute", cut)
    try:
        with pytest.raises(BackendUnavailable):
            await migrations.upgrade(postgres_url)
    finally:
        event.remove(Engine, "before_cursor_execute", cut)
    assert state(postgres_url) == before
    assert await migrations.upgrade(postgres_url) == "004"


def upgrade_beside_others(pipe: Pipe, number: int, url: str) -> None:
    ready(pipe)
    pipe.send(asyncio.run(migrations.upgrade(url)))


async def test_upgrades_of_four_processes_take_turns(url: str, full_size: bool) -> None:
    settings = Settings.load(database_url=url, environment="development")
    for _ in range(10 if full_size else 2):
        with started(4, upgrade_beside_others, url) as children:
            await asyncio.to_thread(together, children)
            assert [await asyncio.to_thread(child.answer) for child in children] == ["004"] * 4
        assert schema(url) == schema_of_models(url)
        await migrations.downgrade(settings, "base")


async def test_upgrades_of_four_databases_in_one_loop_do_not_mix(tmp_path: Path, postgres_url: str) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("a.db", "b.db", "c.db")] + [postgres_url]
    wanted = ["001", "002", "004", "003"]
    assert await asyncio.gather(*(migrations.upgrade(*pair) for pair in zip(urls, wanted, strict=True))) == wanted
    assert [await migrations.current(url) for url in urls] == wanted
    assert await asyncio.gather(*(migrations.upgrade(url) for url in urls)) == ["004"] * 4
    assert all(schema(url) == schema_of_models(url) for url in urls)


async def test_a_cancelled_upgrade_has_ended_when_its_caller_hears_of_it(url: str) -> None:
    await seed(url)
    before = state(url)
    for delay in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
        task = asyncio.create_task(migrations.upgrade(url))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await migrations.current(url) in {"001", "004"}
        if await migrations.current(url) == "001":
            assert state(url) == before
    assert await migrations.upgrade(url) == "004"
    assert schema(url) == schema_of_models(url)


async def test_the_wait_for_another_upgrade_is_bounded(url: str) -> None:
    await migrations.upgrade(url, "001")
    settings = Settings.load(database_url=url, busy_timeout=0.2)
    holding, done = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        holding.set()
        done.wait(patience(30))

    def elsewhere() -> None:  # a migration of another process has the lock of the database, not that of this process
        connection_to(settings).write(settings, hold)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        assert holding.wait(patience(30))
        with pytest.raises(StorageTimeout):
            await migrations.upgrade(settings)
    finally:
        done.set()
        thread.join()
    assert await migrations.upgrade(settings) == "004"
