"""Law L-B3: from every revision and from empty, the schema becomes that of the models, and the data stays."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.migrations.inspection import execute, look, rows, schema, schema_of_models, without_a_value

from dgent import migrations
from dgent.exceptions import (
    DowngradeRefused,
    InvalidSettings,
    MigrationError,
    SchemaOutdated,
    SchemaTooNew,
)
from dgent.models import TABLES, Base
from dgent.settings import Settings

ASSETS = Path(__file__).resolve().parent.parent / "assets"
REVISIONS = ["001", "002", "003", "004"]


def development(url: str) -> Settings:
    return Settings.load(database_url=url, environment="development")


def differences(url: str) -> list[object]:
    def work(connection: object) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True, "version_table": migrations.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)  # type: ignore[arg-type]
        return list(compare_metadata(context, Base.metadata))

    return look(url, work)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_there_is_one_head_and_the_revisions_form_one_line() -> None:
    assert migrations.head() == REVISIONS[-1]
    assert [(step.previous, step.revision) for step in migrations.history()] == [
        (None, "001"), ("001", "002"), ("002", "003"), ("003", "004")
    ]  # fmt: skip
    assert all(step.message for step in migrations.history())


@pytest.mark.parametrize("start", [None, *REVISIONS])
async def test_l_b3_schema_equals_the_models_from_every_revision_and_from_empty(url: str, start: str | None) -> None:
    if start is not None:
        assert await migrations.upgrade(url, start) == start
        assert await migrations.current(url) == start
    assert await migrations.upgrade(url) == "004"
    assert await migrations.current(url) == "004"
    assert schema(url) == schema_of_models(url)
    assert differences(url) == []


async def test_a_column_that_a_table_gains_is_nullable_or_has_a_default(url: str) -> None:
    """On a table with rows it could not be added otherwise, and a program that does not know it could write no more."""
    before: dict[str, dict[str, Any]] = {}
    for revision in REVISIONS:
        await migrations.upgrade(url, revision)
        after = schema(url)
        assert without_a_value(before, after) == [], f"revision {revision}"
        before = after


def test_a_column_that_nobody_gives_a_value_is_found() -> None:
    before = {"old": {"columns": {"id": ("TEXT", False, None)}}}
    gained = {"may": ("TEXT", True, None), "has": ("TEXT", False, "'x'"), "must": ("TEXT", False, None)}
    after = {"old": {"columns": before["old"]["columns"] | gained}, "new": {"columns": gained}}
    assert without_a_value(before, after) == ["old.must"]


async def test_l_b3_upgrading_twice_changes_nothing(url: str, sqlite_path: Path) -> None:
    await migrations.upgrade(url)
    before, bytes_before = schema(url), digest(sqlite_path) if sqlite_path.exists() else None
    assert await migrations.upgrade(url) == "004"
    assert schema(url) == before
    assert (digest(sqlite_path) if sqlite_path.exists() else None) == bytes_before


async def test_l_b3_up_down_up(url: str) -> None:
    settings = development(url)
    await migrations.upgrade(settings)
    full = schema(url)
    for revision in ["003", "002", "001"]:
        assert await migrations.downgrade(settings) == revision
    assert await migrations.downgrade(settings, "base") is None
    assert schema(url) == {}
    assert await migrations.current(url) is None
    await migrations.upgrade(settings)
    assert schema(url) == full


async def test_l_b3_data_is_preserved_and_a_host_application_is_left_alone(url: str) -> None:
    await migrations.upgrade(url, "001")
    execute(
        url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('host')",
        "CREATE TABLE dgent_datums (id TEXT)",
        "INSERT INTO dgent_datums VALUES ('x')",
    )
    await migrations.upgrade(url, "002")
    execute(
        url,
        "INSERT INTO brain_crystals (id, content_hash, summary, tags, created_at, updated_at)"
        " VALUES ('a', 'h', 's', '[\"t\"]', '2026-01-31T08:15:00.000000Z', '2026-01-31T08:15:00.000000Z')",
        "INSERT INTO brain_crystal_tags VALUES ('a', 't')",
    )
    before = rows(url)
    await migrations.upgrade(url)
    assert rows(url) == before
    assert before["alembic_version"] == [("host",)]
    assert len(before["brain_crystals"]) == 1


@pytest.mark.parametrize("revision", REVISIONS)
async def test_l_b3_a_frozen_file_of_each_released_revision_upgrades(revision: str, sqlite_path: Path) -> None:
    shutil.copyfile(ASSETS / f"schema-{revision}.db", sqlite_path)
    sqlite_path.chmod(0o600)
    url = f"sqlite:///{sqlite_path}"
    before = rows(url)
    assert sum(map(len, before.values())) >= 3
    assert await migrations.current(url) == revision
    await migrations.upgrade(url)
    assert schema(url) == schema_of_models(url)
    assert rows(url) == before


def test_a_frozen_file_exists_for_every_revision() -> None:
    assert sorted(path.stem for path in ASSETS.glob("schema-*.db")) == [f"schema-{name}" for name in REVISIONS]


async def test_a_downgrade_is_refused_outside_of_development(url: str) -> None:
    await migrations.upgrade(url)
    before = schema(url)
    with pytest.raises(DowngradeRefused, match="KGENTS_ENVIRONMENT=development"):
        await migrations.downgrade(url)
    assert await migrations.current(url) == "004"
    assert schema(url) == before


async def test_a_newer_database_is_refused_and_nothing_is_written(url: str, sqlite_path: Path) -> None:
    await migrations.upgrade(url, "003")
    execute(url, "UPDATE schema_version SET version_num = '099'")
    before, bytes_before = schema(url), digest(sqlite_path) if sqlite_path.exists() else None
    for verb in (migrations.upgrade, migrations.check):
        with pytest.raises(SchemaTooNew, match=r"at 099, this version knows up to 004"):
            await verb(url)
    with pytest.raises(SchemaTooNew):
        await migrations.downgrade(development(url))
    assert schema(url) == before
    assert (digest(sqlite_path) if sqlite_path.exists() else None) == bytes_before
    assert await migrations.current(url) == "099"


async def test_check_says_what_to_do(url: str) -> None:
    with pytest.raises(SchemaOutdated, match="schema is at no revision, this version needs 004"):
        await migrations.check(url)
    await migrations.upgrade(url, "002")
    wanted = "schema is at 002, this version needs 004: run `kg db upgrade`"
    with pytest.raises(SchemaOutdated, match=wanted):
        await migrations.check(url)
    await migrations.upgrade(url)
    await migrations.check(url)


async def test_looking_creates_nothing(sqlite_path: Path) -> None:
    assert await migrations.current(f"sqlite:///{sqlite_path}") is None
    assert not list(sqlite_path.parent.iterdir())


async def test_an_unknown_revision_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(MigrationError, match="nonsense"):
        await migrations.upgrade(url, "nonsense")
    assert schema(url) == {}


@pytest.mark.parametrize("memory", ["sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory_is_refused(memory: str) -> None:
    with pytest.raises(InvalidSettings, match="name a file"):
        await migrations.upgrade(memory)


async def test_the_file_and_its_folder_are_private(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path / "deep" / "data")
    await migrations.upgrade(settings)
    folder = settings.sqlite_path.parent
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_include_name_leaves_the_tables_of_dgent_to_dgent() -> None:
    for name in [*TABLES, "schema_version", "dgent_datums"]:
        assert not migrations.include_name(name, "table", {})
    for name, kind in [("users", "table"), ("citizens_of_mine", "table"), ("citizens", "index"), (None, "schema")]:
        assert migrations.include_name(name, kind, {})
