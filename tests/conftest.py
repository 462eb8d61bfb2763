"""What every test gets: an empty home, a real PostgreSQL, and a look at what it left open."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis.configuration import set_hypothesis_home_dir
from tests.postgres import Databases, MigratedDatabases, PostgresServer, settled
from tests.slow_twins import is_slow_twin

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
POSTGRES_URL = os.environ.get("KGENTS_TEST_POSTGRES_URL")

set_hypothesis_home_dir(ROOT / ".hypothesis")
hypothesis.settings.register_profile(
    "fast", deadline=None, max_examples=30, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis.settings.register_profile("full", hypothesis.settings.get_profile("fast"), max_examples=1000)
hypothesis.settings.load_profile("fast")  # `--hypothesis-profile full` wins: it is read after this file


def is_full(config: pytest.Config) -> bool:
    return bool(config.getoption("--hypothesis-profile") == "full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow twins to the long form."""
    if not is_full(config):
        config.hook.pytest_deselected(items=[item for item in items if is_slow_twin(item.nodeid)])
        items[:] = [item for item in items if not is_slow_twin(item.nodeid)]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through six thousand tests again and again: a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long form (`make faults`), in which a test repeats as often as its promise says."""
    return is_full(request.config)


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
    left = settled(lambda: [*_open_files(tmp_path, home), *(t.name for t in set(threading.enumerate()) - threads)])
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


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Return where a SQLite file can be made; there is none yet."""
    return tmp_path / "membrane.db"


@pytest.fixture(scope="session")
def fresh_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the data of a server that never ran are, from the first server of this process on."""
    return tmp_path_factory.mktemp("postgres") / "data"


@pytest.fixture(scope="session")
def postgres_admin_url(fresh_data: Path) -> Iterator[str]:
    """Return where databases can be made: the server of KGENTS_TEST_POSTGRES_URL, else one of our own per process."""
    if POSTGRES_URL:
        yield POSTGRES_URL
        return
    server = PostgresServer(fresh_data)
    try:
        yield server.url()
    finally:
        server.remove()


@pytest.fixture
def postgres_server(fresh_data: Path) -> Iterator[PostgresServer]:
    """Return a server for one test alone, which may stop, kill and start it."""
    server = PostgresServer(fresh_data)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def databases(postgres_admin_url: str) -> Iterator[Databases]:
    """Return the empty databases of the tests of this process."""
    databases = Databases(postgres_admin_url)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def migrated_databases(postgres_admin_url: str) -> Iterator[MigratedDatabases]:
    """Return those that have the typed tables."""
    databases = MigratedDatabases(postgres_admin_url)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """Return the TCP URL of an empty database for one test, which must have closed what it opened when it ends."""
    yield from lent(databases)


@pytest.fixture
def migrated_postgres_url(migrated_databases: MigratedDatabases) -> Iterator[str]:
    """Return the same with the typed tables in it, for a test that is not about how they came there."""
    yield from lent(migrated_databases)


def lent(databases: Databases) -> Iterator[str]:
    url = databases.lend()
    try:
        yield url
    finally:
        left = databases.take_back(url)
    assert not left, f"the test left {len(left)} connections to PostgreSQL open; their last statements: {left}"
