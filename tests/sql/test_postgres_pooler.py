"""Behind a pooler each transaction may have another connection: nothing that outlives one is relied upon."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from tests.postgres import free_port

from dgent import Datum, DgentRouter, StorageProvider
from dgent.exceptions import InvalidSettings, VersionConflict
from dgent.memory.sql import reads
from dgent.models.brain import Crystal
from dgent.settings import Settings
from dgent.sql.postgres.sync_engine import create_sync_engine
from dgent.testing.contract_base import patience

PGBOUNCER = os.environ.get("KGENTS_TEST_PGBOUNCER") or shutil.which("pgbouncer")
PATIENCE = patience(20.0)


@pytest.fixture
def pooler(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """Return the URL of the same database through pgbouncer, with two connections for everybody."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    url, port = make_url(postgres_url), free_port()
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={url.host} port={url.port} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\nserver_round_robin = 1\n"
    )
    for path in (configuration, *configuration.parents):
        path.chmod(path.stat().st_mode | 0o055 | (0o004 if path.is_file() else 0))
    options = ["-u", "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen([PGBOUNCER, *options, configuration], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield url.set(port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with closing(socket.socket()) as client:
            client.settimeout(0.1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "pgbouncer did not start"
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("pgbouncer does not listen")


@pytest.fixture(params=["the server itself", "pgbouncer"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Return settings that ask for this, with a schema, so that a setting that gets lost shows."""
    url = request.getfixturevalue("pooler" if request.param == "pgbouncer" else "postgres_url")
    return Settings.load(database_url=f"{url}?pgbouncer=true", database_schema="pooled", data_dir=tmp_path / "data")


async def test_everything_works_in_turns_on_few_connections(settings: Settings) -> None:
    async with await StorageProvider.from_config(settings) as storage:
        await storage.run_migrations()
        memory = storage.memory

        async def one(n: int) -> None:
            for round in range(5):
                datum = await memory.put(Datum.create(f"{n}.{round}", id=f"id{n}"))
                assert (await memory.get(f"id{n}")).text == f"{n}.{round}"  # type: ignore[union-attr]
                assert datum.version == round + 1
                async with storage.transaction() as tx:
                    await tx.memory.put(Datum.create("x", id=f"t{n}.{round}"))
                    tx.session.add(Crystal(id=f"c{n}.{round}", content_hash=f"{n}.{round}", summary="s"))
                    await tx.session.flush()
                    assert await tx.session.scalar(select(Crystal.id).where(Crystal.id == f"c{n}.{round}"))
                assert await memory.count(prefix=f"t{n}.") == round + 1
                assert len(await storage.table(Crystal).list(prefix=f"c{n}.")) == round + 1

        async with asyncio.timeout(PATIENCE * 6):
            await asyncio.gather(*(one(n) for n in range(6)))
        await memory.put_many([Datum.create("x", id=f"m{n}") for n in range(100)])  # by COPY
        assert await memory.count() == 6 + 30 + 100
        with pytest.raises(VersionConflict):
            await memory.put(Datum.create("y", id="id0"), expect=1)
        assert (await storage.status())["schema"] == (await storage.status())["schema_needed"]
        for name, value in (("TimeZone", "UTC"), ("search_path", "pooled"), ("statement_timeout", "1min")):
            found = await storage.relational.fetch_one(f"SELECT current_setting('{name}') AS it")
            assert found == {"it": value}


async def test_nothing_is_left_behind_on_a_connection_that_others_get(settings: Settings, pooler: str) -> None:
    async with await StorageProvider.from_config(settings) as storage:
        await storage.memory.put(Datum.create("x", id="x"))
        await asyncio.gather(*(storage.memory.get("x") for _ in range(20)))
    plain = Settings.load(database_url=f"{pooler}?pgbouncer=true", data_dir=settings.data_dir)
    async with await StorageProvider.from_config(plain) as other:
        for name, value in (("search_path", '"$user", public'), ("jit", "off")):
            found = await other.relational.fetch_one(f"SELECT current_setting('{name}') AS it")
            assert found == {"it": value}
        assert await other.relational.fetch_all("SELECT name FROM pg_prepared_statements") == []


async def test_without_the_option_a_pooler_is_a_mistake_that_names_it(pooler: str, tmp_path: Path) -> None:
    router = DgentRouter(Settings.load(database_url=pooler, data_dir=tmp_path / "data"))
    with pytest.raises(InvalidSettings, match="pgbouncer=true"):
        await router.open()
    await router.close()


@pytest.mark.parametrize("option", ["statement_cache_size=0", "prepared_statement_cache_size=0"])
async def test_no_plans_mean_the_same(option: str, postgres_url: str, tmp_path: Path) -> None:
    settings = Settings.load(database_url=f"{postgres_url}?{option}", data_dir=tmp_path)
    async with await StorageProvider.from_config(settings) as storage:
        await storage.memory.put(Datum.create("x", id="x"))
        assert await storage.relational.fetch_all("SELECT name FROM pg_prepared_statements") == []


async def test_who_follows_behind_a_pooler_polls(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from dgent.sql.postgres.database import PostgresDatabase

    monkeypatch.setattr(PostgresDatabase, "look_every", 0.1)
    async with await StorageProvider.from_config(settings) as storage:
        follower = storage.log.follow("stream")
        await storage.log.append("stream", "writer", b"one")
        async with asyncio.timeout(PATIENCE):
            assert (await anext(follower)).payload == b"one"
            later = asyncio.ensure_future(anext(follower))
            await storage.log.append("stream", "writer", b"two")
            assert (await later).payload == b"two"
        await follower.aclose()


async def test_a_synchronous_program_works_there_too(settings: Settings) -> None:
    async with await StorageProvider.from_config(settings) as storage:
        await storage.memory.put(Datum.create("x", id="x"))
    engine = create_sync_engine(settings)
    try:
        for _ in range(8):  # more often than psycopg waits before it prepares
            with engine.begin() as connection:
                found: Any = reads.get(connection, "default", "x", None, 0.0)
                assert found.text == "x"
                assert connection.execute(text("SHOW search_path")).scalar() == "pooled"
    finally:
        engine.dispose()
