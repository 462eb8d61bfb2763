"""The `alembic` command in a checkout, scripts of later revisions, and what goes wrong with the file or the server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.processes import run_module
from tests.migrations.inspection import execute, rows, schema, schema_of_models

from dgent import migrations
from dgent.exceptions import BackendUnavailable, Corrupt, MigrationError, ReadOnly
from dgent.migrations import commands
from dgent.settings import Settings
from dgent.testing.contract_base import patience

ROOT = Path(__file__).resolve().parents[2]
NOW = "2026-01-31T08:15:00.000000Z"
HEADER = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "005", "004", None, None
"""
REBUILD = f"""{HEADER}
def upgrade():
    with op.batch_alter_table("citizen_conversations", recreate="always") as batch:
        batch.add_column(sa.Column("mood", sa.Text(), nullable=True))
"""
ORPHAN = f"""{HEADER}
def upgrade():
    op.execute("CREATE TABLE half_done (id TEXT)")
    op.execute("DELETE FROM citizen_conversations")
"""
BROKEN = f"""{HEADER}
def upgrade():
    op.execute("CREATE TABLE half_done (id TEXT)")
    op.execute("INSERT INTO citizens (id, name) VALUES ('secret-id', 'secret-name')")
"""


def alembic(folder: Path, url: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    return run_module(folder, {"KGENTS_DATABASE_URL": url, **environment}, "alembic", *arguments)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a deployment's checkout has."""
    folder = tmp_path / "checkout"
    for name in ("alembic", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", folder)
    return folder


@pytest.fixture
def scripts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of scripts that the program uses, open for another revision."""
    monkeypatch.setattr(commands, "script_location", lambda: checkout / "alembic")
    return checkout / "alembic" / "versions"


async def conversation(url: str) -> None:
    await migrations.upgrade(url, "004")
    execute(
        url,
        "INSERT INTO citizen_conversations (id, citizen_name, created_at, updated_at)"
        f" VALUES ('v', 'Ada', '{NOW}', '{NOW}')",
        "INSERT INTO conversation_turns (id, conversation_id, turn_number, role, content, created_at, updated_at)"
        f" VALUES ('t', 'v', 0, 'user', 'Hello', '{NOW}', '{NOW}')",
    )


def test_the_command_upgrades_checks_and_refuses_a_downgrade(url: str) -> None:
    code, out, err = alembic(ROOT, url, "check")
    assert code != 0
    assert "not up to date" in out + err
    assert alembic(ROOT, url, "upgrade", "head")[0] == 0
    assert schema(url) == schema_of_models(url)
    execute(url, "CREATE TABLE dgent_datums (id TEXT)", "CREATE TABLE users (id TEXT)")
    assert "No new upgrade operations" in alembic(ROOT, url, "check")[1]
    execute(url, "DROP TABLE dgent_datums", "DROP TABLE users")
    assert alembic(ROOT, url, "current")[1].startswith("004 (head)")
    code, out, err = alembic(ROOT, url, "downgrade", "base")
    assert (code, "Traceback" in out + err) == (255, False)
    assert "refused in production" in out + err
    assert schema(url) == schema_of_models(url)
    assert alembic(ROOT, url, "downgrade", "base", KGENTS_ENVIRONMENT="development")[0] == 0
    assert schema(url) == {}


def test_the_command_writes_sql_without_a_database(url: str) -> None:
    code, out, _ = alembic(ROOT, url, "upgrade", "head", "--sql")
    assert code == 0
    assert out.count("CREATE TABLE") == 14
    assert schema(url) == {}


def test_the_command_refuses_a_newer_database_in_one_line(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    alembic(ROOT, url, "upgrade", "head")
    execute(url, "UPDATE schema_version SET version_num = '099'")
    code, out, err = alembic(ROOT, url, "upgrade", "head")
    assert (code, "Traceback" in out + err) == (255, False)
    assert "schema is at 099, this version knows up to 004" in out + err


def test_a_deployment_adds_a_table_of_its_own(checkout: Path, sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    (checkout / "models" / "shop.py").write_text(
        "from sqlalchemy.orm import Mapped, mapped_column\n"
        "from dgent.models.base import Base, IdMixin, JSONList, TimestampMixin\n"
        "class Order(IdMixin, TimestampMixin, Base):\n"
        "    __tablename__ = 'orders'\n"
        "    note: Mapped[str | None]\n"
        "    lines: Mapped[list[str]] = mapped_column(JSONList)\n"
    )
    with (checkout / "models" / "__init__.py").open("a") as file:
        file.write("\nfrom models import shop\n")
    assert alembic(checkout, url, "upgrade", "head")[0] == 0
    code, _, err = alembic(checkout, url, "revision", "--autogenerate", "-m", "orders", "--rev-id", "005")
    assert code == 0, err
    script = (checkout / "alembic" / "versions" / "005_orders.py").read_text()
    assert script.count("op.create_table") == 1
    assert "types.UTCDateTime(" in script
    code, _, err = alembic(checkout, url, "upgrade", "head")
    assert code == 0, err
    assert "orders" in schema(url)
    code, _, err = alembic(checkout, url, "check")
    assert code == 0, err


async def test_a_revision_is_written_with_the_next_number(
    scripts: Path, checkout: Path, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{sqlite_path}"
    assert await migrations.revision("by hand", target=url) == scripts / "005_by_hand.py"
    await migrations.upgrade(url)
    written = await migrations.revision("by comparison", autogenerate=True, target=url)
    assert written == scripts / "006_by_comparison.py"
    assert "pass" in written.read_text()
    (checkout / "alembic.ini").unlink()
    with pytest.raises(MigrationError, match="installed package"):
        await migrations.revision("nowhere", target=url)


async def test_scripts_lie_in_a_folder_of_any_name(
    checkout: Path, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout.rename(checkout.with_name("100% of it"))  # a percent sign means something to Alembic's config
    monkeypatch.setattr(commands, "script_location", lambda: folder / "alembic")
    assert await migrations.upgrade(f"sqlite:///{sqlite_path}") == "004"


async def test_rebuilding_a_table_keeps_the_rows_that_point_to_it(sqlite_path: Path, scripts: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    await conversation(url)
    before = rows(url)["conversation_turns"]
    (scripts / "005_rebuild.py").write_text(REBUILD)
    assert await migrations.upgrade(url) == "005"
    assert "mood" in schema(url)["citizen_conversations"]["columns"]
    assert rows(url)["conversation_turns"] == before


async def test_a_migration_that_leaves_rows_dangling_is_rolled_back(sqlite_path: Path, scripts: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    await conversation(url)
    before, data = schema(url), rows(url)
    (scripts / "005_orphan.py").write_text(ORPHAN)
    with pytest.raises(MigrationError, match="rows of conversation_turns point to rows that are not there"):
        await migrations.upgrade(url)
    assert (await migrations.current(url), schema(url), rows(url)) == ("004", before, data)


async def test_a_migration_that_fails_half_way_is_rolled_back_and_quotes_no_values(url: str, scripts: Path) -> None:
    await conversation(url)
    before, data = schema(url), rows(url)
    (scripts / "005_broken.py").write_text(BROKEN)
    with pytest.raises(MigrationError, match="rolled back") as caught:
        await migrations.upgrade(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (await migrations.current(url), schema(url), rows(url)) == ("004", before, data)


async def test_a_table_of_somebody_else_in_the_way_is_named(url: str) -> None:
    await migrations.upgrade(url, "001")
    execute(url, "CREATE TABLE citizens (id TEXT)")
    before = schema(url)
    with pytest.raises(MigrationError, match=r"citizens.* already exists"):
        await migrations.upgrade(url)
    assert await migrations.current(url) == "001"
    assert schema(url) == before


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(sqlite_path: Path) -> None:
    content = b"not a database, but somebody's letter\n" * 100
    sqlite_path.write_bytes(content)
    sqlite_path.chmod(0o600)
    for verb in (migrations.upgrade, migrations.current, migrations.check):
        with pytest.raises(Corrupt, match=str(sqlite_path)):
            await verb(f"sqlite:///{sqlite_path}")
    assert sqlite_path.read_bytes() == content


async def test_an_unreachable_server_is_a_typed_error_without_the_password() -> None:
    for verb in (migrations.upgrade, migrations.current, migrations.check):
        with pytest.raises(BackendUnavailable) as caught:
            await verb("postgresql://ada:hunter2@127.0.0.1:1/none")
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)
        assert caught.value.__cause__ is None


async def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReadOnly):
        await migrations.upgrade(f"sqlite:///{tmp_path}/file/membrane.db")
    (tmp_path / "elsewhere.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(ReadOnly, match="is a link"):
        await migrations.upgrade(f"sqlite:///{tmp_path}/link.db")
    assert not (tmp_path / "elsewhere.db").read_bytes()


async def test_a_full_disk_leaves_the_previous_schema(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    await migrations.upgrade(url, "001")
    before = schema(url)
    program = (
        "import asyncio, resource, signal, sys\n"
        "from dgent import exceptions, migrations\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))\n"
        "try:\n"
        "    print(asyncio.run(migrations.upgrade(sys.argv[1])))\n"
        "except exceptions.DgentError as error:\n"
        "    print(type(error).__name__)\n"
    )
    size = sqlite_path.stat().st_size + 4096
    done = subprocess.run(
        [sys.executable, "-c", program, url, str(size)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.stdout.strip() == "DiskFull", done.stderr
    assert (await migrations.current(url), schema(url)) == ("001", before)
    assert await migrations.upgrade(url) == "004"


async def test_an_open_reader_and_a_half_done_writer_do_not_stop_an_upgrade_for_good(sqlite_path: Path) -> None:
    settings = Settings.load(database_url=f"sqlite:///{sqlite_path}")
    await migrations.upgrade(settings, "001")
    reader = sqlite3.connect(sqlite_path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM self_grow_proposals").fetchone() == (0,)
    assert await migrations.upgrade(settings) == "004"
    assert reader.execute("SELECT version_num FROM schema_version").fetchone() == ("001",), "a reader keeps its view"
    reader.close()
    assert await migrations.current(settings) == "004"
