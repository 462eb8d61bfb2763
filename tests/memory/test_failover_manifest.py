"""The manifest is whole at every moment, whoever writes it, and its loss crashes nobody."""

from __future__ import annotations

import multiprocessing
import stat
import threading
import warnings
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from dgent.datum import Datum
from dgent.exceptions import Corrupt, ReadOnly, SchemaTooNew, StorageError
from dgent.memory.failover.manifest import KnownStore, Manifest, ManifestFile, old_places_of, place_of
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.postgres_backend import PostgresBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.memory.sql.backend import SqlBackend


@pytest.fixture
def file(tmp_path: Path) -> ManifestFile:
    return ManifestFile(tmp_path / "data" / "manifest.json")


def fill(known: Manifest) -> None:
    known.first, known.stores["sqlite:/x"] = "sqlite:/x", KnownStore("id", filled=True)
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
    newer = orjson.dumps({**orjson.loads(file.path.read_bytes()), "format": 3})
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
    with pytest.warns(UserWarning, match="cannot be read or written"):
        file.save(volatile=True)
    with pytest.raises(ReadOnly):
        file.add_spill("a", "b")


async def test_a_store_is_known_by_its_id(file: ManifestFile, tmp_path: Path) -> None:
    for kind in (SQLiteBackend, JSONLBackend):
        store = kind(tmp_path / kind.name)
        assert await file.admit(store, order=[]) is False
        file.fill(store)
        known = file.read()
        assert known.first == place_of(store) == f"{kind.name}:{tmp_path / kind.name}"
        assert known.stores[place_of(store)] == KnownStore(await store.prepare(), filled=True)
        known.check(store, await store.prepare())
        with pytest.raises(Corrupt, match="was here"):
            known.check(store, "another")
        await store.close()
    memory = MemoryBackend()
    assert await file.admit(memory, order=[]) is True
    assert place_of(memory) not in file.read().stores


# Places and ids


def test_two_servers_by_socket_are_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs in the URL, the settings or the environment and leads elsewhere is another place."""
    urls = [
        f"postgresql://me@/db?host={tmp_path}/a",
        f"postgresql://me@/db?host={tmp_path}/b",
        f"postgresql://me@/db?host={tmp_path}/b&port=5433",
        "postgresql://me@h/db",
        "postgresql://me@h:5433/db",
        "postgresql://me@h/other",
        "postgresql://you@h/db",
        "postgresql://me@/db",
        "postgresql://me@h/db?options=-csearch_path%3Dx",
        "postgresql://me@h/db?service=one",
    ]
    keys = [place_of(PostgresBackend(url)) for url in urls]
    keys.append(place_of(PostgresBackend(urls[3], settings=Settings.load(database_url=urls[3], database_schema="s"))))
    monkeypatch.setenv("PGHOST", "elsewhere")
    keys.append(place_of(PostgresBackend("postgresql://me@/db")))
    assert len(set(keys)) == len(keys)


def test_one_server_by_two_texts_is_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "me")
    for urls in (
        ["postgresql://me@h/db", "postgresql://me:s3cr3t@h:5432/db?sslmode=prefer", "postgresql://h/db?user=me"],
        ["postgresql://me@/db?host=/a", "postgresql:///db?host=/a&port=5432&application_name=x"],
    ):
        (key,) = {place_of(PostgresBackend(url)) for url in urls}
        assert "s3cr3t" not in key


def test_one_file_by_two_paths_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    for kind in (SQLiteBackend, JSONLBackend):
        paths = [tmp_path / "real" / "x", tmp_path / "link" / "x", tmp_path / "link" / ".." / "real" / "x", "x"]
        assert len({place_of(kind(path)) for path in paths}) == 1


async def test_one_store_at_two_places_is_one_store(file: ManifestFile, postgres_url: str) -> None:
    """It held something wherever it is met; writes for it wait for it under each of its names."""
    one, two = PostgresBackend(postgres_url), PostgresBackend(postgres_url.replace("127.0.0.1", "localhost"))
    await one.put(Datum.create("x"))
    assert await file.admit(one, order=[])
    await file.admit(two, order=[])
    known = file.read()
    assert known.stores[place_of(one)] == known.stores[place_of(two)]
    assert known.same_as(place_of(one)) == known.same_as(place_of(two)) == {place_of(one), place_of(two)}
    await one.close()
    await two.close()


OF_FORMAT_1 = """{"format": 1, "first": "%s", "stores": {"%s": {"id": "%s", "filled": true}},
    "spills": [["jsonl:/y", "%s"]], "volatile": false}"""


@pytest.mark.parametrize("kind", ["a password", "options", "a socket", "a link"])
async def test_a_manifest_of_format_1_is_read_and_upgraded(
    kind: str, file: ManifestFile, tmp_path: Path, postgres_url: str, postgres_admin_url: str
) -> None:
    text = {
        "a password": postgres_url.replace("postgres@", "postgres:secret@"),
        "options": f"{postgres_url}?application_name=x&sslmode=prefer",
        "a socket": f"postgresql://postgres@/{make_url(postgres_url).database}?host=127.0.0.1"
        f"&port={make_url(postgres_url).port}",
        "a link": "",
    }[kind]
    if text:
        store: SqlBackend = PostgresBackend(text)
        old = f"postgres:postgresql+asyncpg://{text.partition('://')[2]}".replace(":secret@", ":***@")
        for option in ("sslmode=prefer", "application_name=x", "host=127.0.0.1", f"port={make_url(postgres_url).port}"):
            old = old.replace(f"?{option}", f"?{option.partition('=')[0]}=...")
            old = old.replace(f"&{option}", f"&{option.partition('=')[0]}=...")
    else:
        (tmp_path / "link").symlink_to(tmp_path)
        store = SQLiteBackend(tmp_path / "link" / "x.db")
        old = f"sqlite:{tmp_path}/link/x.db"
    id = await store.prepare()
    file.path.parent.mkdir()
    file.path.write_text(OF_FORMAT_1 % (old, old, id, old))
    assert old_places_of(store) == [old]
    await file.admit(store, order=[])
    known = file.read()
    assert (known.first, known.stores) == (place_of(store), {place_of(store): KnownStore(id, filled=True)})
    assert orjson.loads(file.path.read_bytes())["format"] == 2
    assert known.spills == [("jsonl:/y", old)], "a queue lies under the name that it was given"
    await store.close()


async def test_format_1_still_knows_a_store_that_was_replaced(file: ManifestFile, postgres_url: str) -> None:
    url = postgres_url.replace("postgres@", "postgres:secret@")
    store = PostgresBackend(url)
    (old,) = old_places_of(store)
    file.path.parent.mkdir()
    file.path.write_text(OF_FORMAT_1 % (old, old, "another", old))
    with pytest.raises(Corrupt, match="kg stores forget"):
        await file.admit(store)
    await store.close()


async def test_two_sockets_of_which_format_1_made_one_do_not_accuse_each_other(
    file: ManifestFile, postgres_url: str
) -> None:
    url = make_url(postgres_url)
    store = PostgresBackend(f"postgresql://postgres@/{url.database}?host=127.0.0.1&port={url.port}")
    (old,) = old_places_of(store)
    file.path.parent.mkdir()
    file.path.write_text(OF_FORMAT_1 % (old, old, "the other server", old))
    await file.admit(store)
    assert file.read().stores[old] == KnownStore("the other server", filled=True)
    await store.close()


async def test_what_cannot_be_read_or_written_is_said_once(file: ManifestFile, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file.path.mkdir()  # nobody, not even root, reads or replaces it
    store = JSONLBackend(tmp_path / "x.jsonl")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            await file.admit(store, order=[])
            file.fill(store)
            assert file.read() == Manifest()
    assert len(told) == 1
    with pytest.raises(StorageError):
        file.add_spill("a", "b")
    await store.close()


def test_what_is_forgotten_leaves_no_trace(file: ManifestFile) -> None:
    file.update(fill)
    file.update(lambda known: known.forget("sqlite:/x"))
    assert file.read() == Manifest(volatile=True)
