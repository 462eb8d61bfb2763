"""One object over both tracks."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dgent import Datum, Settings, StorageProvider, migrations
from dgent.exceptions import (
    BackendUnavailable,
    Corrupt,
    IntegrityViolation,
    InvalidQuery,
    InvalidSettings,
    PermissionDenied,
    SchemaOutdated,
    StoreClosed,
    TableNotFound,
)
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.models.brain import Crystal
from dgent.models.self_grow import GrowthProposal
from dgent.testing.contract_base import patience
from dgent.warnings import DegradedWarning, PrivacyWarning


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return what to open a storage with, on either database."""
    if request.param == "sqlite":
        return {"data_dir": tmp_path / "data"}
    return {"data_dir": tmp_path / "data", "database_url": request.getfixturevalue("postgres_url")}


def crystal(id: str, datum_id: str) -> Crystal:
    return Crystal(id=id, content_hash=datum_id, summary="a summary", tags=["maps"], datum_id=datum_id)


async def test_both_tracks_are_written_in_one_transaction(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        assert await storage.run_migrations() == "004"
        datum = Datum.create("The map is not the territory.", tags=["maps"])
        async with storage.transaction() as tx:
            await tx.memory.put(datum)
            tx.session.add(crystal("c", datum.id))
            row = await tx.table(Crystal).get("c")
            assert row is not None
            assert row.data["datum_id"] == datum.id
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the whole block is what fails
            async with storage.transaction() as tx:
                await tx.memory.put(datum.replace(id="lost"))
                tx.session.add(crystal("lost", "lost"))
                await tx.session.flush()
                1 / 0  # noqa: B018
        assert [one.id for one in await storage.memory.list()] == [datum.id]
        assert [one.id for one in await storage.table(Crystal).list()] == ["c"]


@pytest.mark.parametrize("tables", ["migrated", "migrated beside it", "its own"])
@pytest.mark.parametrize("harm", ["removed", "emptied", "replaced"])
async def test_a_file_that_held_typed_rows_only_is_not_taken_for_a_new_one(
    tmp_path: Path, tables: str, harm: str
) -> None:
    settings = Settings.load(data_dir=tmp_path)
    async with await StorageProvider.from_config(settings) as storage:
        if tables == "migrated":
            await storage.run_migrations()
            async with storage.transaction() as tx:
                tx.session.add(crystal("c", "d"))
        elif tables == "its own":
            await storage.relational.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY)")
    if tables == "migrated beside it":
        await migrations.upgrade(settings)
    if tables != "migrated":
        await (await StorageProvider.from_config(settings)).close()  # sees that there is something now
    kept = settings.sqlite_path.rename(tmp_path / "kept.db")
    if harm == "emptied":
        settings.sqlite_path.touch(0o600)
    elif harm == "replaced":
        await (await StorageProvider.from_config(data_dir=tmp_path / "other")).close()
        (tmp_path / "other" / settings.sqlite_path.name).rename(settings.sqlite_path)
    with pytest.raises(Corrupt, match="was here" if harm == "replaced" else "held data"):
        await StorageProvider.from_config(settings)
    settings.sqlite_path.unlink(missing_ok=True)
    kept.rename(settings.sqlite_path)
    async with await StorageProvider.from_config(settings) as storage:
        assert await storage.memory.count() == 0


async def test_a_file_that_held_nothing_may_go(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    await (await StorageProvider.from_config(settings)).close()
    settings.sqlite_path.unlink()
    async with await StorageProvider.from_config(settings) as storage:
        assert await storage.memory.count() == 0


async def test_it_answers_the_same_after_it_was_reopened(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        await storage.run_migrations()
        await storage.memory.put(Datum.create("kept", id="k"))
    async with await StorageProvider.from_config(**place) as storage:
        found = await storage.memory.get("k")
        assert found is not None
        assert found.content == b"kept"


async def test_relational_binds_what_it_is_given(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        await storage.run_migrations()
        await storage.relational.execute("CREATE TABLE shapes (name TEXT PRIMARY KEY, n INTEGER)")
        hostile = "x'); DROP TABLE shapes; --"
        await storage.relational.execute("INSERT INTO shapes VALUES (:name, :n)", {"name": hostile, "n": 1})
        assert await storage.relational.fetch_all("SELECT * FROM shapes") == [{"name": hostile, "n": 1}]
        assert await storage.relational.fetch_one("SELECT n FROM shapes WHERE name = :name", {"name": "no"}) is None
        with pytest.raises(IntegrityViolation) as refused:
            await storage.relational.execute("INSERT INTO shapes VALUES (:name, 2)", {"name": hostile})
        assert hostile not in str(refused.value)
        with pytest.raises(InvalidQuery):
            await storage.relational.fetch_all(" ")


async def test_a_foreign_key_is_enforced_on_both_databases(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        await storage.run_migrations()
        with pytest.raises(IntegrityViolation):
            await storage.relational.execute(
                "INSERT INTO brain_crystal_tags (crystal_id, tag) VALUES (:id, :tag)", {"id": "nobody", "tag": "t"}
            )


async def test_without_migrations_the_error_says_what_to_type(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        with pytest.raises(SchemaOutdated, match=r"run_migrations\(\)"):
            await storage.table(Crystal).list()
        await storage.memory.put(Datum.create("agent memory needs none"))


async def test_agents_reach_registered_tables_and_only_those(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        await storage.run_migrations()
        assert await storage.resolve("self.data.table.brain_crystals.list") == []
        assert await storage.table(GrowthProposal).list() == []
        with pytest.raises(TableNotFound):
            await storage.resolve("self.data.table.self_grow_proposals.list")
        with pytest.raises(PermissionDenied):
            await storage.resolve("self.data.table.brain_crystals.delete", id="c")


async def test_status_shows_no_password(place: dict[str, Any]) -> None:
    async with await StorageProvider.from_config(**place) as storage:
        before = await storage.status()
        await storage.run_migrations()
        after = await storage.status()
    assert (before["schema"], after["schema"], after["schema_needed"]) == (None, "004", "004")
    assert "secret" not in str(after)


async def test_after_close_it_says_so(place: dict[str, Any]) -> None:
    storage = await StorageProvider.from_config(**place)
    await storage.memory.put(Datum.create("x"))
    await storage.close()
    await storage.close()
    with pytest.raises(StoreClosed):
        await storage.memory.list()
    with pytest.raises(StoreClosed):
        await storage.relational.fetch_all("SELECT 1")


async def test_strict_refuses_a_fallback(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable) as refused:
        await StorageProvider.from_config(
            data_dir=tmp_path,
            database_url="postgresql://user:secret@127.0.0.1:1/none",
            strict=True,
            connect_timeout=patience(2.0),
        )
    assert "secret" not in str(refused.value)


async def test_files_are_private(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with await StorageProvider.from_config(data_dir=tmp_path / "data") as storage:
            await storage.run_migrations()
            await storage.memory.put(Datum.create("x"))
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(mask)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777])
async def test_a_data_folder_that_others_can_enter_warns(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.warns(PrivacyWarning, match=f"chmod 700 {folder}"):
        storage = await StorageProvider.from_config(data_dir=folder)
    await storage.close()
    assert folder.stat().st_mode & 0o777 == mode  # whose it is decides
    folder.chmod(0o700)
    await (await StorageProvider.from_config(data_dir=folder)).close()


async def test_options_in_the_url_are_the_drivers(postgres_url: str, tmp_path: Path) -> None:
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}sslmode=disable&connect_timeout=5"
    async with await StorageProvider.from_config(data_dir=tmp_path, database_url=url) as storage:
        assert await storage.run_migrations() == "004"
        assert (await storage.status())["schema"] == "004"


async def test_settings_beside_overrides_are_refused_not_ignored(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path / "data")
    with pytest.raises(InvalidSettings, match="strict must be in them"):
        await StorageProvider.from_config(settings, strict=True)
    assert not (tmp_path / "data").exists()


async def test_what_could_not_be_delivered_is_listed_retried_and_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agent memory lies in a file beside the tables, does not answer for a while, and somebody writes it meanwhile."""
    async with await StorageProvider.from_config(data_dir=tmp_path, chain=("jsonl",)) as storage:
        put = JSONLBackend.put

        async def gone(self: JSONLBackend, *args: Any, **named: Any) -> Datum:
            raise BackendUnavailable("the file is out of reach")

        monkeypatch.setattr(JSONLBackend, "put", gone)
        for id in ("a", "b", "c"):
            async with storage.transaction() as tx:
                await tx.memory.put(Datum(id, b"ours", 0.0))
        report = await storage.reconcile()
        assert (report.delivered, report.waiting, report.complete) == (0, 3, False)
        assert "out of reach" in report.reason
        monkeypatch.setattr(JSONLBackend, "put", put)
        await storage.memory.put_many([Datum(id, b"theirs", 0.0) for id in "ab"])
        report = await storage.reconcile()
        assert (report.delivered, report.waiting, report.complete) == (1, 0, True)
        first, second = report.set_aside
        assert await storage.set_aside() == [first, second]
        assert await storage.retry(first)
        assert await storage.discard(second)
        assert not await storage.discard(second)
        assert {one.id: one.content for one in await storage.memory.list()} == {
            "a": b"ours",
            "b": b"theirs",
            "c": b"ours",
        }
        assert await storage.set_aside() == []


async def test_a_transaction_says_that_it_needs_the_first_store(tmp_path: Path) -> None:
    path = tmp_path / "membrane.db"
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(DegradedWarning):
            storage = await StorageProvider.from_config(data_dir=tmp_path, busy_timeout=0.2)
        async with storage:
            with pytest.raises(BackendUnavailable, match=r"transactions and reconcile\(\) need it"):
                async with storage.transaction():
                    pass
