"""TLS to PostgreSQL as the URL asks for it. The server of the tests has none: a proxy before it ends it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from tests.sql.entry_table import opened

from dgent import StorageProvider, migrations
from dgent.exceptions import BackendUnavailable, InvalidSettings
from dgent.settings import Settings
from dgent.sql.postgres import engine as postgres_engine
from dgent.sql.postgres.database import PostgresDatabase
from dgent.testing.contract_base import patience

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def with_options(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


async def answer(url: str, **settings: float) -> object:
    """Return what the server says of the connection over this URL."""
    database: PostgresDatabase = opened(url, connect_timeout=patience(5), **settings)
    try:
        return await database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    finally:
        await database.close()


def make_certificate(folder: Path) -> Path:
    """Make a certificate of 127.0.0.1 that signs itself, in one file with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs the command openssl")
    key, made = folder / "key.pem", folder / "made.pem"
    options = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", made, *options]
    subprocess.run(command, check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + key.read_bytes())
    return made


@pytest.fixture(params=[False, True], ids=["", "no home"], autouse=True)
def closed_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes mean the same where the home of the user cannot be entered."""
    if request.param:
        monkeypatch.setattr(postgres_engine, "home_is_closed", lambda: True)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
async def tls_url(postgres_url: str, certificate: Path) -> AsyncIterator[str]:
    """The URL of a server that takes nothing but TLS."""
    target = make_url(postgres_url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) != SSL_REQUEST:
                writer.transport.abort()
                return
            writer.write(b"S")
            await writer.start_tls(context)
            theirs, ours = await asyncio.open_connection(target.host, target.port)
            for one in (pump(reader, ours), pump(theirs, writer)):
                task = asyncio.create_task(one)
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("name", ["sslmode", "ssl"])
async def test_a_server_without_tls_serves_who_does_not_insist(postgres_url: str, name: str) -> None:
    for mode in ("disable", "allow", "prefer"):
        assert await answer(with_options(postgres_url, **{name: mode})) == 1
    with pytest.raises(InvalidSettings, match="offers no TLS, which sslmode in the URL asks for"):
        await answer(with_options(postgres_url, **{name: "require"}))


async def test_migrations_and_storage_say_the_same(postgres_url: str, tmp_path: Path) -> None:
    wrong = [
        ({"sslmode": "require"}, InvalidSettings, "offers no TLS"),
        ({"ssl": "nonsense"}, InvalidSettings, "sslmode in the database URL is disable, "),
        ({"sslrootcert": "gone.pem"}, InvalidSettings, "sslrootcert in the database URL"),
    ]
    for options, error, reason in wrong:
        url = with_options(postgres_url, **options)
        settings = Settings.load(data_dir=tmp_path, database_url=url)
        for attempt in (migrations.upgrade(settings), StorageProvider.from_config(settings)):
            with pytest.raises(error, match=reason):
                await attempt
    assert not settings.sqlite_path.exists(), "a setting that is wrong is no reason to fall back"


async def test_tls_is_spoken_where_the_url_asks_for_it(tls_url: str, certificate: Path) -> None:
    for mode in ("prefer", "require"):
        assert await answer(with_options(tls_url, sslmode=mode)) == 1
        assert await answer(with_options(tls_url, ssl=mode)) == 1
    for mode in ("verify-ca", "verify-full"):
        assert await answer(with_options(tls_url, sslmode=mode, sslrootcert=str(certificate))) == 1
    with pytest.raises(BackendUnavailable):
        await answer(with_options(tls_url, sslmode="disable"))


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    tls_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_certificate(tmp_path_factory.mktemp("other"))
    for mode in ("require", "verify-ca", "verify-full"):  # require looks at it as well where there is a root
        with pytest.raises(InvalidSettings, match="CERTIFICATE_VERIFY_FAILED"):
            await answer(with_options(tls_url, sslmode=mode, sslrootcert=str(other)))


async def test_wrong_options_are_errors_of_the_settings(postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    wrong = [
        ({"sslmode": "nonsense"}, InvalidSettings, "sslmode in the database URL is disable, "),
        ({"ssl": "true"}, InvalidSettings, "sslmode in the database URL is disable, "),
        ({"sslmode": "verify-full"}, InvalidSettings, "sslrootcert"),
        ({"sslmode": "require", "sslrootcert": str(tmp_path / "gone.pem")}, InvalidSettings, "sslrootcert in the data"),
        ({"sslmode": "require", "sslrootcert": str(tmp_path / "empty.pem")}, InvalidSettings, "no TLS with"),
    ]
    for options, error, reason in wrong:
        with pytest.raises(error, match=reason) as caught:
            await answer(with_options(postgres_url, **options))
        assert str(tmp_path) not in str(caught.value)
