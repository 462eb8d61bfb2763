"""The whole road as a user goes it: old crystals, a promotion, a migration, a backfill, the path of the table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgent.testing.contract_base import patience

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


class Checkout:
    """A checkout of its own, whose `kg` is that of its own source."""

    def __init__(self, folder: Path, url: str) -> None:
        for name in ("src/dgent", "alembic", "models"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("alembic.ini", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "src"),
            "KGENTS_DATABASE_URL": url,
            "KGENTS_DATA_DIR": str(folder / "data"),
        }

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=patience(120),
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def kg(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run("dgent.cli", *words, "--json", code=code))


def test_the_road_from_memory_to_a_table_and_back(url: str, tmp_path: Path) -> None:
    there = Checkout(tmp_path / "checkout", url)
    there.kg("db", "upgrade")
    for number in range(3):
        data = json.dumps({"action": f"act {number}", "reasoning": "because", "author": "Ada"})
        parent = ["--parent", f"mark-{number - 1}"] if number else []
        said = ("schema=witness.mark", "schema_version=1", "source=test")
        there.kg("memory", "put", data, *said, "--id", f"mark-{number}", *parent)

    written = there.kg("crystal", "promote", "witness.mark", "--table", "witness_marks", "--index", "author")
    assert [Path(each["file"]).relative_to(there.folder) for each in written] == [
        Path("models/witness_marks.py"),
        Path("alembic/versions/005_witness_marks.py"),
    ]
    too_soon = there.run("dgent.cli", "crystal", "backfill", "witness.mark", "--table", "witness_marks", code=1)
    assert too_soon == ""
    there.kg("db", "upgrade")
    assert "No new upgrade operations" in there.run("alembic", "check")

    done = there.kg("crystal", "backfill", "witness.mark", "--table", "witness_marks")
    assert (done["found"], done["written"], done["verified"]) == (3, 3, 3)
    rows = there.kg("data", "self.data.table.witness_marks.list")
    memory = there.kg("data", "self.data.list")
    for row, datum in zip(rows, memory, strict=True):
        assert (row["id"], row["causal_parent"]) == (datum["id"], datum["causal_parent"])
        assert row["created_at"] == pytest.approx(datum["created_at"], abs=1e-6)  # a table keeps microseconds
        assert json.loads(row["text"])["action"] == json.loads(datum["text"])["action"]
    chain = there.kg("data", "self.data.table.witness_marks.causal_chain", "id=mark-2")
    assert [row["id"] for row in chain] == ["mark-0", "mark-1", "mark-2"]

    changed = {"datum": {"id": "mark-0", "text": json.dumps({**json.loads(rows[-1]["text"]), "reasoning": "no more"})}}
    changed["datum"]["created_at"] = rows[-1]["created_at"]
    there.kg("data", "self.data.table.witness_marks.put", json.dumps(changed), "--write")
    assert there.kg("crystal", "backfill", "witness.mark", "--table", "witness_marks", code=1)["differing"] == [
        "mark-0"
    ]
    assert there.kg("crystal", "demote", "witness.mark", "--table", "witness_marks")["written"] == 1
    assert there.kg("crystal", "show", "mark-0")["value"]["reasoning"] == "no more"
    assert [each["version"] for each in there.kg("memory", "history", "mark-0")] == [1, 2]
