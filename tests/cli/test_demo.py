"""The demo runs from an empty directory, twice, and what it tells people to type works."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from tests.cli.run_kg import Runner

REAL = sorted(Path(__file__).resolve().parents[3].glob("shared/data/locomo/*.json"))


def demo(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "dgent.cli.demo", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(120))
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


def test_it_shows_both_tracks_and_imports_nothing_twice(
    kg: Runner, monkeypatch: pytest.MonkeyPatch, clean_room: Path
) -> None:
    monkeypatch.setenv("KGENTS_DATA_DIR", ".demo")
    monkeypatch.setenv("COLUMNS", "100")
    shown = demo()
    for each in ("3 sessions, 24 turns, 12 crystals", "self.data.table.brain_crystals.list", "causal_chain(", "#Iris"):
        assert each in shown
    assert '"source": "alembic"' in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) <= 90
    again = demo()
    assert "all 3 sessions, 24 turns, 12 crystals were there already" in again
    assert "nothing was imported twice" in again
    typed = [line.partition("  #")[0] for line in shown.splitlines() if "--data-dir .demo" in line]
    assert len(typed) == 5
    for line in typed:
        words = shlex.split(line)
        kg(*words[words.index("--data-dir") :])
    assert (clean_room / "memory.jsonl").is_file()
    found = kg.json("--data-dir", ".demo", "crystal", "query", "--limit", 100)
    assert (len(found["crystals"]), found["unreadable"], found["damaged"]) == (37, [], [])


@pytest.mark.skipif(not REAL, reason="no real conversations beside this checkout")
def test_it_shows_a_conversation_of_ones_own() -> None:
    assert "19 sessions" in demo(REAL[0])


def test_a_file_that_is_none_ends_it_in_one_line(clean_room: Path) -> None:
    (clean_room / "x.json").write_text("[]")
    assert demo("x.json", code=1) == "kg: x.json: the file is a list, not an object\n"
    assert demo("nowhere.json", code=3) == "kg: nowhere.json: there is no such file\n"
