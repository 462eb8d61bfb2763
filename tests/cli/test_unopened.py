"""Where the store cannot be opened, every command says so: nothing is acknowledged, and "nothing" is no answer."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.run_kg import SAMPLE, Runner
from tests.cli.test_exit_codes import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "of-the-datum"
WORDS = {
    "status": "",
    "db upgrade": "",
    "db downgrade": "",
    "db current": "",
    "db check": "",
    "memory put": f"secret --id {ID}",
    "memory get": ID,
    "memory list": "",
    "memory history": ID,
    "memory changes": "",
    "memory chain": ID,
    "memory delete": ID,
    "memory purge": f"{ID} --yes",
    "memory export": "",
    "memory import": "-",
    "memory set-aside": "",
    "memory retry": ID,
    "memory discard": f"{ID} --yes",
    "data": "self.data.list",
    "memory keys": "",
    "memory segments": "",
    "memory erase": "--everything --yes",
    "town import": str(SAMPLE),
    "brain capture": "secret",
    "brain search": "",
    "crystal show": ID,
    "crystal query": "",
    "crystal upgrade": "brain.crystal",
    "crystal backfill": "brain.crystal --table brain_crystals",
    "crystal demote": "brain.crystal --table brain_crystals",
    "log append": "audit secret --writer ada",
    "log show": "",
    "log verify": "",
    "log follow": "audit",
    "log checkpoint": "audit --key key",
}
NO_STORE = {"db history", "db revision", "crystal schemas", "crystal promote", "log keygen", "functor list"} | {
    "functor verify",
    "config show",
    "config trust",
    "config untrust",
    "stores list",
    "stores forget",
}


def test_every_command_is_here() -> None:
    assert {f"kg {path}" for path in {*WORDS, *NO_STORE}} == set(COMMANDS)


def refused(kg: Runner, path: str, *options: str) -> None:
    done = kg(*options, *path.split(), *WORDS[path].split(), stdin=b"{}\n", code=None)
    assert done.code in {1, 6}, done
    assert done.out == b"" or (path == "status" and done.code == 6)  # which says what the manifest knows
    assert "a bug of ours" not in done.err
    assert done.err.splitlines()[-1].startswith("kg: ")


@pytest.fixture
def key(kg: Runner) -> None:
    """A key to sign with, lest the lack of it is what is refused."""
    kg("log", "keygen", "key")


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("path", WORDS)
def test_a_place_where_nothing_can_be_is_an_error(kg: Runner, path: str, clean_room: Path) -> None:
    (clean_room / "file").touch()
    refused(kg, path, "--data-dir", "file/data")
    assert (clean_room / "file").stat().st_size == 0


ANEW = {"memory put", "memory import", "town import", "brain capture", "log append"}


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("path", sorted(WORDS))
def test_only_a_command_that_stores_something_makes_the_place_that_it_names(
    kg: Runner, path: str, clean_room: Path
) -> None:
    if path in {"db downgrade", "db current", "db check"}:
        kg("--data-dir", "typo/deep", *path.split(), code=None)
    elif path == "db upgrade" or path in ANEW:
        return
    else:
        for place in (("--data-dir", "typo/deep"), ("--database-url", "sqlite:///typo/x.db")):
            done = kg(*place, *path.split(), *WORDS[path].split(), code=3)
            assert "there is no" in done.err
            assert done.out == b""
    assert not (clean_room / "typo").exists()


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("path", sorted({*WORDS} - {"db upgrade", "db downgrade", "db current", "db check"}))
def test_a_server_that_does_not_answer_is_an_error(kg: Runner, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", "postgresql://me@127.0.0.1:1/x")
    monkeypatch.setenv("KGENTS_CONNECT_TIMEOUT", "1")
    refused(kg, path)


def test_memory_serves_who_asks_for_it_by_name(kg: Runner, clean_room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_CHAIN", "memory")
    assert ID in kg("memory", "put", "x", "--id", ID).text
    monkeypatch.setenv("KGENTS_CHAIN", "sqlite,memory")
    (clean_room / "file").touch()
    refused(kg, "memory put", "--data-dir", "file/data")


@pytest.mark.parametrize("path", ["memory put", "memory list", "db upgrade", "status"])
def test_a_database_in_memory_is_no_place_for_a_command(kg: Runner, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", "sqlite:////x?vfs=memdb")
    refused(kg, path)


# As another user, since root writes everywhere

NOBODY = 65534


@contextmanager
def nobody() -> Iterator[None]:
    """Be somebody who may do little, in this process: what is not imported by then cannot be."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a home that anybody may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.chdir(folder)
    for name in ("HOME", *(f"XDG_{each}_HOME" for each in ("CONFIG", "DATA", "CACHE", "STATE"))):
        monkeypatch.setenv(name, str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [0o500, 0o000])
@pytest.mark.parametrize("path", WORDS)
def test_a_folder_that_cannot_be_written_acknowledges_nothing(kg: Runner, path: str, mode: int, room: Path) -> None:
    kg("log", "keygen", "key")
    os.chown("key", NOBODY, NOBODY)
    Path("file").touch()
    refused(kg, path, "--data-dir", "file/data")  # imports what it needs
    data = room / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    data.chmod(mode)
    with nobody():
        if path in {"db current", "db check"} and mode == 0o500:  # there is no database, which can be seen
            assert kg("--data-dir", "data", *path.split(), code=None).code in {0, 1}
        else:
            refused(kg, path, "--data-dir", "data")
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("path", ["memory get", "memory list", "memory export", "memory history"])
def test_a_full_store_that_cannot_be_written_is_never_empty(kg: Runner, path: str, room: Path) -> None:
    kg("--data-dir", "data", "memory", "put", "kept", "--id", ID)
    kg("--data-dir", "data", *path.split(), *WORDS[path].split())
    for file in (room / "data").iterdir():
        file.chmod(0o400)
        os.chown(file, NOBODY, NOBODY)
    (room / "data").chmod(0o500)
    os.chown(room / "data", NOBODY, NOBODY)
    with nobody():
        done = kg("--data-dir", "data", *path.split(), *WORDS[path].split(), code=None)
        assert "kept" in done.text if done.code == 0 else done.code in {1, 6}, done
        refused(kg, "memory put", "--data-dir", "data")
