"""The wheel works in somebody else's folder, which has `models/`, `alembic/` and `alembic.ini` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dgent.error_messages import UPGRADE
from dgent.testing.contract_base import patience

ROOT = Path(__file__).resolve().parents[2]
DECOY = "raise RuntimeError('a decoy was imported')\n"
PROGRAM = """
import asyncio, json, sys
from pathlib import Path

import dgent
from dgent import exceptions, migrations
from dgent.models.brain import Crystal

async def main():
    found = {"package": dgent.__file__, "scripts": str(migrations.script_location()), "table": Crystal.__tablename__}
    try:
        await migrations.check()
    except exceptions.SchemaOutdated as error:
        found["before"] = str(error)
    found["upgraded"] = await migrations.upgrade()
    await migrations.check()
    try:
        await migrations.revision("nowhere to write it")
    except exceptions.MigrationError as error:
        found["revision"] = str(error)
    found["models"] = "models" in sys.modules
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120), check=False)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Path:
    """What installing the wheel puts into site-packages: it is pure Python, so that is its content."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The folder of somebody else's program."""
    folder = tmp_path / "stranger"
    for path in ("models/__init__.py", "models/brain.py", "alembic/env.py", "alembic/versions/001_theirs.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(DECOY)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = alembic\nsqlalchemy.url = sqlite:///theirs.db\n")
    (folder / "program.py").write_text(PROGRAM)
    return folder


def test_the_wheel_holds_the_package_and_the_migration_scripts_and_nothing_else(site: Path) -> None:
    assert sorted(path.name.partition("-")[0] for path in site.iterdir()) == ["dgent", "dgent"]
    scripts = site / "dgent" / "_alembic"
    assert sorted(str(path.relative_to(scripts)) for path in scripts.rglob("*") if path.is_file()) == [
        "env.py",
        "script.py.mako",
        *(f"versions/{path.name}" for path in sorted((ROOT / "alembic" / "versions").glob("*.py"))),
    ]
    assert (site / "dgent" / "py.typed").is_file()
    metadata = next(site.glob("*.dist-info"))
    assert "kg = dgent.cli:main" in (metadata / "entry_points.txt").read_text()


def test_the_wheel_migrates_in_a_folder_with_decoys(site: Path, stranger: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site), "KGENTS_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(
        command, cwd=stranger, env=environment, capture_output=True, text=True, timeout=patience(60), check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "package": str(site / "dgent" / "__init__.py"),
        "scripts": str(site / "dgent" / "_alembic"),
        "table": "brain_crystals",
        "before": f"schema is at no revision, this version needs 004: {UPGRADE}",
        "upgraded": "004",
        "revision": found["revision"],
        "models": False,
    }
    assert "installed package" in found["revision"]
    assert (tmp_path / "data" / "membrane.db").is_file()
    assert not (stranger / "theirs.db").exists()
