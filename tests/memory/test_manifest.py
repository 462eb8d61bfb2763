"""The manifest is whole at every moment, whoever writes it, and its loss crashes nobody."""

from __future__ import annotations

import multiprocessing
import stat
import threading
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgent.exceptions import Corrupt, ReadOnly, SchemaTooNew
from dgent.memory.jsonl import JSONLBackend
from dgent.memory.manifest import Known, Manifest, ManifestFile, key_of
from dgent.memory.sqlite import SQLiteBackend
from dgent.memory.volatile import MemoryBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> ManifestFile:
    return ManifestFile(tmp_path / "data" / "manifest.json")


def fill(known: Manifest) -> None:
    known.first, known.stores["sqlite:/x"] = "sqlite:/x", Known("id", filled=True)
    known.spills, known.volatile = [("jsonl:/y", "sqlite:/x")], True


def test_it_says_what_it_was_told_and_is_private(file: ManifestFile) -> None:
    assert file.read() == Manifest()
    assert not file.path.parent.exists()
    file.update(fill)
    wanted = Manifest()
    fill(wanted)
    assert ManifestFile(file.path).read() == wanted
    for path in file.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_what_changes_nothing_writes_nothing(file: ManifestFile) -> None:
    file.update(fill)
    before = file.path.stat()
    file.update(fill)
    file.save(volatile=True)
    assert file.path.stat().st_ino == before.st_ino


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_a_damaged_file_is_kept_aside_and_rebuilt(file: ManifestFile, data: st.DataObject) -> None:
    file.update(fill)
    whole = file.path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = orjson.dumps(data.draw(st.sampled_from([[], 1, None, {}, {"format": 1}, {"format": "1"}, {"stores": []}])))
    damaged = data.draw(st.sampled_from([whole[:at], whole[:at] + b"\xff" + whole[at + 1 :], b"", other]))
    file.path.write_bytes(damaged)
    assert file.read() == Manifest(rebuilt=True)
    file.save(volatile=False)
    assert file.read() == Manifest()
    assert file.path.with_name("manifest.json.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    "change",
    [
        {"first": 1},
        {"stores": []},
        {"stores": {"a": {"id": 1, "filled": True}}},
        {"spills": [["a"]]},
        {"spills": [[1, "b"]]},
    ],
)
def test_a_field_of_another_type_is_damage(file: ManifestFile, change: dict[str, object]) -> None:
    file.update(fill)
    file.path.write_bytes(orjson.dumps({**orjson.loads(file.path.read_bytes()), **change}))
    assert file.read().rebuilt


def test_a_newer_format_is_refused_and_left_alone(file: ManifestFile) -> None:
    file.update(fill)
    newer = orjson.dumps({**orjson.loads(file.path.read_bytes()), "format": 2})
    file.path.write_bytes(newer)
    with pytest.raises(SchemaTooNew):
        file.read()
    with pytest.raises(SchemaTooNew):
        file.save(volatile=False)
    assert file.path.read_bytes() == newer


def _add(path: Path, name: str, count: int) -> None:
    for n in range(count):
        ManifestFile(path).add_spill(f"{name}{n}", "target")


def test_processes_take_turns_and_readers_see_whole_files(file: ManifestFile) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(file.path, f"p{n}-", 20)) for n in range(3)]
    for worker in workers:
        worker.start()
    sizes = []
    while any(worker.is_alive() for worker in workers):
        known = file.read()
        assert not known.rebuilt
        sizes.append(len(known.spills))
    for worker in workers:
        worker.join()
    assert sizes == sorted(sizes)
    assert {store for store, _ in file.read().spills} == {f"p{n}-{k}" for n in range(3) for k in range(20)}


def test_threads_take_turns(file: ManifestFile) -> None:
    threads = [threading.Thread(target=_add, args=(file.path, f"t{n}-", 10)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read().spills) == 40


async def test_a_folder_that_cannot_be_written_is_said_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file where the folder should be")
    file = ManifestFile(tmp_path / "data" / "manifest.json")
    with pytest.warns(UserWarning, match="cannot be written"):
        file.save(volatile=True)
    with pytest.raises(ReadOnly):
        file.add_spill("a", "b")


async def test_a_store_is_known_by_its_id(file: ManifestFile, tmp_path: Path) -> None:
    for kind in (SQLiteBackend, JSONLBackend):
        store = kind(tmp_path / kind.name)
        assert await file.admit(store, order=[]) is False
        file.fill(store)
        known = file.read()
        assert known.first == key_of(store) == f"{kind.name}:{tmp_path / kind.name}"
        assert known.stores[key_of(store)] == Known(await store.prepare(), filled=True)
        known.check(store, await store.prepare())
        with pytest.raises(Corrupt, match="was here"):
            known.check(store, "another")
        await store.close()
    memory = MemoryBackend()
    assert await file.admit(memory, order=[]) is True
    assert key_of(memory) not in file.read().stores
