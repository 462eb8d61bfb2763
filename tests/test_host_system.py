"""What the system around a program may do to it: each is told by an error of ours that says what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command

from dgent import Datum, JSONLBackend, Settings, SQLiteBackend, StorageProvider, migrations
from dgent.exceptions import (
    BackendUnavailable,
    DiskError,
    InvalidSettings,
    NoEventLoop,
    ReadOnly,
    ResourceExhausted,
    StorageError,
)
from dgent.runtime.durable_files import storage_error
from dgent.sql.errors import translate

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave nothing to open, as a program does that leaks sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open(os.devnull, os.O_RDONLY)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first, hard))
    held: list[int] = []
    try:
        for _ in range(first + 1):
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


@pytest.mark.parametrize("kind", [SQLiteBackend, JSONLBackend])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
async def test_no_file_descriptors_left_is_neither_an_outage_nor_a_matter_of_rights(
    tmp_path: Path, kind: Any, there: bool
) -> None:
    path = tmp_path / "memory"
    if there:
        store = kind(path)
        await store.put(Datum.create("x"))
        await store.close()
    store = kind(path)
    with no_descriptors(), pytest.raises(StorageError, match="descriptors") as caught:
        await store.put(Datum.create("y"))
    assert not isinstance(caught.value, BackendUnavailable | ReadOnly)
    await store.put(Datum.create("z"))
    await store.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EMFILE, ResourceExhausted), (errno.ENFILE, ResourceExhausted), (errno.EIO, DiskError)],
)
def test_what_a_retry_may_help_against_is_no_outage(code: int, kind: type[StorageError]) -> None:
    for error in (translate(OSError(code, "said"), "the store"), storage_error(Path("store"), OSError(code, "said"))):
        assert type(error) is kind
        assert "owner" not in str(error)


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a working directory that is gone."""
    here = tmp_path / "gone"
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.rmtree(here)
    return here


async def test_a_deleted_working_directory_hurts_only_what_is_relative(deleted: Path, tmp_path: Path) -> None:
    assert Settings.load().namespace == "default"
    async with await StorageProvider.from_config(data_dir=tmp_path / "data") as storage:
        await storage.memory.put(Datum.create("x"))
    for relative in (
        lambda: SQLiteBackend("m.db"),
        lambda: JSONLBackend("m.jsonl"),
        lambda: Settings.load(data_dir="data"),
    ):
        with pytest.raises(InvalidSettings, match="working directory is gone"):
            relative()


def test_another_kind_of_event_loop_is_told_to_use_asyncio(tmp_path: Path) -> None:
    """Driven by hand, as trio would."""
    store = SQLiteBackend(tmp_path / "m.db")
    for call in (store.put(Datum.create("x")), store.get("x"), StorageProvider.from_config(data_dir=tmp_path / "data")):
        with pytest.raises(NoEventLoop, match=r"asyncio\.run"):
            call.send(None)
        call.close()
    asyncio.run(store.close())


async def test_alembic_runs_inside_of_a_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    url = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("KGENTS_DATABASE_URL", url)
    from alembic.config import Config

    root = Path(__file__).resolve().parent.parent
    command.upgrade(Config(str(root / "alembic.ini")), "head")
    assert await migrations.current(Settings.load()) == migrations.head()
