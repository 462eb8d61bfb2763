"""`kg data`, `kg town` and `kg brain`: both tracks, within what was granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.run_kg import SAMPLE, Runner

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ready(kg: Runner) -> Runner:
    """Return a `kg` whose tables are there."""
    kg("db", "upgrade")
    return kg


def test_a_path_lists_what_is_there(ready: Runner) -> None:
    assert {"get", "list", "table"} <= set(ready.json("data", "self.data"))
    assert "brain_crystals" in ready.json("data", "self.data.table")
    assert "put" not in ready.json("data", "self.data.table.crystal")
    assert "put" in ready.json("data", "self.data.table.crystal", "--write")
    assert "brain_crystals\n" in ready("data", "self.data.table").text


def test_a_reader_writes_nothing(ready: Runner) -> None:
    record = '{"datum": {"id": "a", "text": "x"}}'
    assert "--write or --purge" in ready("data", "self.data.put", record, code=5).err
    assert ready.json("data", "self.data.put", record, "--write", "--as", "me")["version"] == 1
    assert ready.json("data", "self.data.get", "id=a")["text"] == "x"
    assert "'me' may not purge" in ready("data", "self.data.purge", "id=a", "--write", "--as", "me", code=5).err
    assert ready.json("data", "self.data.purge", "id=a", "--purge") == 1
    assert ready.json("data", "self.data.get", "id=a") is None


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("self.data.gett", 3, "did you mean get"),
        ("self.data.table.crystl.list", 3, "did you mean brain_crystals"),
        ("self.data.table.crystal.drop", 3, "has no 'drop'"),
        ("self..data", 1, "is no path"),
        ("x'; DROP TABLE brain_crystals; --", 1, "is no path"),
        ("self.data.get", 2, "needs the argument 'id'"),
        ("self.data.get id=a colour=red", 2, "has no argument 'colour'"),
        ("self.data.get path=x", 2, "self.data.get has no argument 'path'"),
        ("self.data.list limit=-1", 2, "limit is -1"),
        ("self.data.list limit", 2, "neither key=value nor a JSON object"),
        ("self.data.table.crystal.history id=a", 1, "keeps one version of each row"),
    ],
)
def test_a_path_that_leads_nowhere_says_so(ready: Runner, words: str, code: int, told: str) -> None:
    path, *arguments = [words] if "DROP" in words else words.split()
    assert told in ready("data", path, *arguments, code=code).err


def test_a_conversation_goes_into_both_tracks_once(ready: Runner) -> None:
    first = ready.json("town", "import", SAMPLE)
    assert first == {
        "conversation": "iris-mateo",
        "new": {"sessions": 3, "turns": 24, "crystals": 12},
        "known": {"sessions": 0, "turns": 0, "crystals": 0},
    }
    assert ready.json("town", "import", SAMPLE)["known"] == first["new"]
    assert "were there already" in ready("town", "import", SAMPLE).text
    tables = {"citizens": 1, "citizen_conversations": 3, "conversation_turns": 24, "brain_crystals": 12}
    assert {name: ready.json("data", f"self.data.table.{name}.count") for name in tables} == tables
    assert ready.json("data", "self.data.count", "prefix=iris-mateo/") == 36


@pytest.mark.parametrize(
    ("source", "told"), [(b'{\n"speaker_a" 1}', "line 2, column 13"), (b'{"speaker_a": 1}', "speaker_a is a number")]
)
def test_a_file_that_is_no_conversation_is_refused(ready: Runner, tmp_path: Path, source: bytes, told: str) -> None:
    file = tmp_path / "evil\x1b[2J.json"
    file.write_bytes(source)
    done = ready("town", "import", file, code=1)
    assert told in done.err
    assert "\x1b" not in done.err
    assert ready.json("data", "self.data.count") == 0
    ready("town", "import", tmp_path / "nowhere.json", code=3)


def test_a_crystal_is_captured_and_found(ready: Runner) -> None:
    crystal = ready.json("brain", "capture", "The map is not the territory.", "--tag", "maps", "--id", "m")
    assert (crystal["id"], crystal["tags"], crystal["datum_id"]) == ("m", ["maps"], "m")
    ready("brain", "capture", "-", stdin="Grüße".encode())
    assert "not UTF-8" in ready("brain", "capture", "-", stdin=b"\xff", code=1).err
    assert "holds other content" in ready("brain", "capture", "other", "--id", "m", code=4).err
    for words in (["MAP"], ["--tag", "maps"], ["territory", "--tag", "maps", "--since", "2020-01-01"]):
        assert [each["id"] for each in ready.json("brain", "search", *words)["crystals"]] == ["m"]
    assert ready.json("brain", "search", "%")["crystals"] == []
    page = ready.json("brain", "search", "--limit", 1)
    rest = ready.json("brain", "search", "--limit", 1, "--cursor", page["cursor"])
    assert {each["summary"] for each in page["crystals"] + rest["crystals"]} == {
        "Grüße",
        "The map is not the territory.",
    }
    assert "#maps" in ready("brain", "search", "map").text
