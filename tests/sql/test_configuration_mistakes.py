"""A mistake is named with what is missing, shows no password, and lets nothing take the store's place."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import ssl
import traceback
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy.engine import URL, make_url

from dgent import Datum, DgentRouter, PostgresBackend, StorageProvider, migrations
from dgent.exceptions import (
    AccessRefused,
    BackendUnavailable,
    DgentError,
    DiskError,
    DiskFull,
    InvalidInput,
    InvalidSettings,
    ReadOnly,
    ResourceExhausted,
    StorageTimeout,
)
from dgent.settings import Settings
from dgent.sql.errors import OUTAGE, refusal, translate
from dgent.testing.contract_base import patience

SECRET = "s3cr3t-h0rse"
_numbers = itertools.count()


class Mistake(NamedTuple):
    """A URL that differs from the right one, the error that it is, and the words that name what is wrong."""

    kind: type[DgentError]
    words: tuple[str, ...]
    options: Mapping[str, str | tuple[str, ...]] = MappingProxyType({})
    change: Mapping[str, Any] = MappingProxyType({})


def option(name: str, value: str | tuple[str, ...], *words: str) -> Mistake:
    return Mistake(InvalidSettings, (name, *words), {name: value})


MISTAKES = {
    "a setting of SQLAlchemy's pool": option("pool_size", "5", "KGENTS_POOL_SIZE"),
    "another of it": option("max_overflow", "5", "KGENTS_POOL_SIZE"),
    "Prisma's pool": option("connection_limit", "5", "KGENTS_POOL_SIZE"),
    "a pool's wait": option("pool_timeout", "5", "KGENTS_POOL_TIMEOUT"),
    "asyncpg's wait": option("timeout", "5", "KGENTS_CONNECT_TIMEOUT"),
    "asyncpg's limit": option("command_timeout", "5", "KGENTS_COMMAND_TIMEOUT"),
    "a setting of the server": option("statement_timeout", "5", "KGENTS_COMMAND_TIMEOUT"),
    "Prisma's schema": option("schema", "mine", "KGENTS_DATABASE_SCHEMA"),
    "JDBC's schema": option("currentSchema", "mine", "KGENTS_DATABASE_SCHEMA"),
    "the server's schema": option("search_path", "mine", "KGENTS_DATABASE_SCHEMA"),
    "an option that nobody has": option("nonsense", "1", "unknown", "options="),
    "an option misspelt": option("sslmod", "require", "is sslmode meant"),
    "an option in capitals": option("SSLMODE", "require", "unknown"),
    "a password for a name": Mistake(InvalidSettings, ("with a name that none can have",), {f"{SECRET}!": "1"}),
    "an option twice": option("sslmode", ("prefer", "require"), "twice"),
    "a truth that is none": option("pgbouncer", "perhaps", "true or false"),
    "a size that is none": option("statement_cache_size", "-1", "whole number"),
    "another size that is none": option("prepared_statement_cache_size", "many", "whole number"),
    "a time that is none": option("connect_timeout", "soon", "whole number"),
    "a port that is none": option("port", "https", "number"),
    "TLS of no mode": option("sslmode", "nonsense", "verify-full"),
    "TLS by SQLAlchemy's name": Mistake(InvalidSettings, ("sslmode",), {"ssl": "true"}),
    "a certificate that is not there": option("sslrootcert", "/nowhere/ca.pem", "whole path"),
    "a root that is not named": option("sslmode", "verify-full", "sslrootcert"),
    "TLS where there is none": option("sslmode", "require", "offers no TLS"),
    "servers of no kind": option("target_session_attrs", "master", "read-write"),
    "a binding that the driver has not": option("channel_binding", "require", "prefer"),
    "an authentication that the driver cannot demand": option("require_auth", "scram-sha-256", "leave it out"),
    "an encoding that is not ours": option("client_encoding", "latin1", "utf8"),
    "a setting that the server has not": option("options", "-c nonsense=1", "nonsense"),
    "a value that the server does not take": Mistake(InvalidSettings, ("work_mem",), {"options": "-c work_mem=lots"}),
    "a search path of no schema": option("options", "-c search_path=missing", "search_path", "CREATE SCHEMA"),
    "a database that is not there": Mistake(InvalidSettings, ("CREATE DATABASE missing",), {}, {"database": "missing"}),
    "a host that cannot be": Mistake(InvalidSettings, ("host",), {}, {"host": "a" * 70 + ".example"}),
    "a port that cannot be": Mistake(InvalidSettings, ("port",), {}, {"port": 99999}),
    "a socket in no folder": Mistake(InvalidSettings, ("host", "folder"), {"host": "/nowhere/at/all"}, {"host": None}),
    "a role that is not there": Mistake(
        AccessRefused, ("ALTER ROLE nobody_here LOGIN",), {}, {"username": "nobody_here"}
    ),
}


async def opened(url: str | URL, folder: Path, **more: Any) -> None:
    """Open everything that a program may begin with; each must refuse alike, and nothing else may serve."""
    settings = Settings.load(database_url=url, data_dir=folder, connect_timeout=patience(3), **more)
    router = DgentRouter(settings)
    try:
        await router.open()
        await router.put(Datum.create("kept where?"))
    finally:
        await router.close()


async def refused(url: str | URL, folder: Path, kind: type[DgentError], *words: str) -> None:
    """Check that opening this is refused so, by the router, the storage and the migrations, without a fallback."""

    async def stored() -> None:
        settings = Settings.load(database_url=url, data_dir=folder, connect_timeout=patience(3))
        await (await StorageProvider.from_config(settings)).close()

    async def migrated() -> None:
        await migrations.upgrade(Settings.load(database_url=url, data_dir=folder, connect_timeout=patience(3)))

    attempts = (lambda: opened(url, folder), lambda: opened(url, folder, spill=True), stored, migrated)
    for attempt in attempts:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a fallback warns
            with pytest.raises(DgentError) as caught:
                await attempt()
        said = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert type(caught.value) is kind, said
        assert not isinstance(caught.value, OUTAGE)
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
        assert SECRET not in said
        assert "owner and the mode of the file" not in said, "a server is no file"
    left = [path.name for path in folder.rglob("*") if path.name.startswith(("membrane", "memory"))]
    assert left == [], "another store was opened"


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_in_a_url_is_named_and_nothing_falls_back(name: str, postgres_url: str, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    url = make_url(postgres_url).set(password=SECRET)
    url = url.update_query_dict(mistake.options)
    await refused(
        url.set(**mistake.change) if mistake.change.get("host", "") is not None else _by_socket(url),
        tmp_path,
        mistake.kind,
        *mistake.words,
    )


def _by_socket(url: URL) -> URL:
    return URL.create(url.drivername, url.username, url.password, database=url.database, query=url.query)


class Role:
    """A role of the server, with a database of its own kind of refusal."""

    def __init__(self, admin: str, url: str) -> None:
        self.admin, self.database = admin, make_url(url).database
        self.name = f"role_{os.getpid()}_{next(_numbers)}"
        self.url = make_url(url).set(username=self.name, password=SECRET)

    async def run(self, *commands: str) -> None:
        """Run commands as the owner of the server; `{role}` and `{database}` are named in them."""
        connection = await asyncpg.connect(make_url(self.admin).set(database=self.database).render_as_string(False))
        try:
            for command in commands:
                await connection.execute(command.format(role=self.name, database=self.database))
        finally:
            await connection.close()


@pytest.fixture
async def role(postgres_admin_url: str, postgres_url: str) -> AsyncIterator[Role]:
    made = Role(postgres_admin_url, postgres_url)
    await made.run("CREATE ROLE {role} LOGIN")
    yield made
    await made.run("DROP OWNED BY {role}", "DROP ROLE {role}")


async def test_a_role_that_may_make_no_tables_hears_which_grant_is_missing(role: Role, tmp_path: Path) -> None:
    grant = f"GRANT USAGE, CREATE ON SCHEMA public TO {role.name}"
    await refused(role.url, tmp_path, AccessRefused, grant, "PostgreSQL 15")
    await role.run(grant)
    await opened(role.url, tmp_path)


async def test_a_role_that_may_not_connect_hears_which_grant_is_missing(role: Role, tmp_path: Path) -> None:
    await role.run("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    await refused(role.url, tmp_path, AccessRefused, f"ON DATABASE {role.database} TO {role.name}", "CONNECT")


async def test_a_role_that_may_not_log_in_is_named(role: Role, tmp_path: Path) -> None:
    await role.run("ALTER ROLE {role} NOLOGIN")
    await refused(role.url, tmp_path, AccessRefused, f"ALTER ROLE {role.name} LOGIN", "pg_hba.conf")


async def test_a_role_whose_tables_are_anothers_hears_which_grant_is_missing(role: Role, tmp_path: Path) -> None:
    owner = make_url(role.admin).set(database=role.database)
    await opened(owner, tmp_path / "owner")
    await migrations.upgrade(Settings.load(database_url=owner))
    await refused(role.url, tmp_path / "other", AccessRefused, "GRANT SELECT ON ", f"TO {role.name}")


async def test_a_role_that_may_make_no_schema_hears_which_grant_is_missing(
    role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_SCHEMA", "of_its_own")
    await refused(role.url, tmp_path, AccessRefused, f"CREATE ON DATABASE {role.database} TO {role.name}")
    await role.run("CREATE SCHEMA of_its_own AUTHORIZATION {role}")
    await opened(role.url, tmp_path)


async def test_a_role_with_a_name_that_needs_quotes_gets_a_grant_that_runs(role: Role, tmp_path: Path) -> None:
    odd = f'Odd "role" {role.name}'
    quoted = '"' + odd.replace('"', '""') + '"'
    await role.run(f"CREATE ROLE {quoted} LOGIN")
    try:
        with pytest.raises(AccessRefused) as caught:
            await opened(role.url.set(username=odd), tmp_path)
        await role.run(str(caught.value).split("`")[1])
        await opened(role.url.set(username=odd), tmp_path)
    finally:
        await role.run(f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")


async def test_a_wrong_password_is_named_and_nothing_falls_back(postgres_server: Any, tmp_path: Path) -> None:
    server = postgres_server
    connection = await asyncpg.connect(server.url())
    await connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    rules = server._cluster.pgdata / "pg_hba.conf"
    rules.write_text(
        "host all locked 127.0.0.1/32 scram-sha-256\nhost all barred 127.0.0.1/32 reject\n" + rules.read_text()
    )
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    url = make_url(server.url()).set(username="locked", password=SECRET)
    await refused(url, tmp_path, AccessRefused, "password of locked")
    await refused(url.set(password=None), tmp_path, AccessRefused, "password of locked")
    await refused(url.set(username="barred"), tmp_path, AccessRefused, "pg_hba.conf")


# The border, where a server cannot be made to say it


GONE = (BackendUnavailable, "does not answer")
SYSTEM: list[tuple[OSError, type[DgentError], str]] = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), *GONE),
    (ConnectionResetError(errno.ECONNRESET, "reset"), *GONE),
    (BrokenPipeError(errno.EPIPE, "broken"), *GONE),
    (OSError(errno.EHOSTUNREACH, "no route"), *GONE),
    (OSError(errno.ENETUNREACH, "no network"), *GONE),
    (OSError("Multiple exceptions: [Errno 111] ..., [Errno 101] ..."), *GONE),
    (socket.gaierror(socket.EAI_AGAIN, "later"), BackendUnavailable, "DNS"),
    (socket.gaierror(socket.EAI_NONAME, "never"), InvalidSettings, "host"),
    (ssl.SSLEOFError(8, "EOF"), BackendUnavailable, "TLS"),
    (ssl.SSLCertVerificationError(1, "self-signed"), InvalidSettings, "sslrootcert"),
    (PermissionError(errno.EACCES, "denied"), AccessRefused, "socket"),
    (OSError(errno.EMFILE, "too many"), ResourceExhausted, "file descriptor"),
]
OF_FILES: list[tuple[int, type[DgentError]]] = [
    *((code, ReadOnly) for code in (errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)),
    *((code, DiskFull) for code in (errno.ENOSPC, errno.EDQUOT)),
    (errno.EIO, DiskError),
    (errno.ENAMETOOLONG, InvalidInput),
    *((code, ResourceExhausted) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
]


@pytest.mark.parametrize(("error", "kind", "words"), SYSTEM, ids=[repr(row[0])[:50] for row in SYSTEM])
def test_what_the_way_to_a_server_says_is_an_outage_or_a_mistake(
    error: OSError, kind: type[DgentError], words: str
) -> None:
    ours = refusal(error, "postgresql://u@h/d")
    assert type(ours) is kind
    assert words in str(ours)
    assert isinstance(ours, OUTAGE) is (kind is BackendUnavailable)


@pytest.mark.parametrize(("code", "kind"), OF_FILES, ids=[errno.errorcode[row[0]] for row in OF_FILES])
def test_what_the_system_says_of_a_file_is_never_an_outage(code: int, kind: type[DgentError]) -> None:
    ours = translate(OSError(code, os.strerror(code)), "the file")
    assert type(ours) is kind
    assert not isinstance(ours, OUTAGE)


@pytest.mark.parametrize("state", ["08000", "08003", "08006", "53300", "57P01", "57P02", "57P03", "55P03", "57014"])
def test_what_a_server_says_in_passing_is_an_outage(state: str) -> None:
    ours = translate(_of(state), "the server")
    assert isinstance(ours, BackendUnavailable | StorageTimeout)
    assert isinstance(ours, OUTAGE)


@pytest.mark.parametrize(
    "state", ["28000", "28P01", "3D000", "42501", "25006", "57P04", "53100", "53200", "58030", "XX001", "42P01"]
)
def test_what_somebody_has_to_mend_is_no_outage(state: str) -> None:
    for ours in (translate(_of(state), "the server"), refusal(_of(state), "the server")):
        assert isinstance(ours, DgentError)
        assert not isinstance(ours, OUTAGE)


def _of(state: str) -> Exception:
    error: Exception = asyncpg.PostgresError.new({"C": state, "M": "Nachricht", "S": "FATAL"})
    return error


@pytest.mark.parametrize("kind", ["a port that nobody listens at", "a socket that is gone"])
async def test_an_outage_still_falls_back_aloud(kind: str, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    url = f"postgresql://me@127.0.0.1:{port}/db" if "port" in kind else f"postgresql://me@/db?host={tmp_path}"
    with pytest.warns(UserWarning, match="out of reach"):
        await opened(url, tmp_path)
    assert (tmp_path / "membrane.db").exists()


async def test_a_file_in_no_folder_is_a_mistake_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("/proc/none/membrane.db", f"{tmp_path}/file/membrane.db"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ReadOnly) as caught:
                await opened(f"sqlite:///{path}", tmp_path / "data")
        assert path.rpartition("/")[0] in str(caught.value)
        assert not list(tmp_path.rglob("memory.jsonl"))


UNDERSTOOD: list[dict[str, str | tuple[str, ...]]] = [
    {"sslmode": "prefer", "connect_timeout": "3", "keepalives": "1", "tcp_user_timeout": "5000"},
    {"application_name": "mine", "options": "-c work_mem=5MB -c statement_timeout=5000"},
    {"target_session_attrs": "read-write"},
    {"prepared_statement_cache_size": "500", "statement_cache_size": "50"},
    {"pgbouncer": "false", "channel_binding": "prefer", "gssencmode": "disable", "client_encoding": "utf8"},
    {"connect_timeout": "0", "sslsni": "1", "fallback_application_name": "x"},
]


@pytest.mark.parametrize("options", UNDERSTOOD, ids=" ".join)
async def test_the_options_of_other_tools_are_understood(
    options: dict[str, str], postgres_url: str, tmp_path: Path
) -> None:
    url = make_url(postgres_url).update_query_dict(options)
    await opened(url, tmp_path)
    await migrations.upgrade(Settings.load(database_url=url, data_dir=tmp_path))
    assert not (tmp_path / "membrane.db").exists()


async def test_what_the_url_says_of_a_session_holds(postgres_url: str, tmp_path: Path) -> None:
    url = make_url(postgres_url).update_query_dict(UNDERSTOOD[1]).update_query_dict({"connect_timeout": "7"})
    async with await StorageProvider.from_config(Settings.load(database_url=url, data_dir=tmp_path)) as storage:
        for name, value in (("application_name", "mine"), ("work_mem", "5MB"), ("statement_timeout", "5s")):
            assert await storage.relational.fetch_one(f"SELECT current_setting('{name}') AS found") == {"found": value}
        assert storage.database.settings.connect_timeout == 7


async def test_several_servers_may_be_named(postgres_url: str, tmp_path: Path) -> None:
    url = make_url(postgres_url)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        closed = free.getsockname()[1]
    hosts = {"host": ("127.0.0.1", "127.0.0.1"), "port": (str(closed), str(url.port))}
    named = URL.create(url.drivername, url.username, database=url.database, query=hosts)
    await opened(named, tmp_path)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("read-only", "takes writes, are the standbys down"), ("standby", "is a primary, are the standbys down")],
)
async def test_a_server_that_is_not_as_asked_says_what_was_asked_for_and_what_was_found(
    asked: str, found: str, postgres_url: str
) -> None:
    url = make_url(postgres_url).update_query_dict({"target_session_attrs": asked})
    store = PostgresBackend(url)
    with pytest.raises(BackendUnavailable, match=f"target_session_attrs={asked} asks for: .* {found}"):
        await store.put(Datum.create("x"))
    await store.close()


async def test_a_primary_that_was_asked_for_and_takes_no_writes_says_so(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict(
        {"target_session_attrs": "read-write", "options": "-c default_transaction_read_only=on"}
    )
    store = PostgresBackend(url)
    with pytest.raises(BackendUnavailable, match=r"=read-write asks for: .* can only be read"):
        await store.put(Datum.create("x"))
    await store.close()
