"""`kg stores`, and the move between stores as the documentation tells it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.cli.run_kg import Runner

from dgent.memory.failover.manifest import ManifestFile
from dgent.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "keep-and-restore.md"


def moves(url: str) -> list[list[str]]:
    """Return the commands of the page's move, with a real URL in them."""
    section = PAGE.read_text("utf-8").partition("## Move between stores")[2]
    (block, *_) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    found = [shlex.split(line, comments=True) for line in block.replace("postgresql://...", url).splitlines()]
    assert {words[0] for words in found} == {"kg", "export"}
    return found


def follow(kg: Runner, commands: list[list[str]], patch: pytest.MonkeyPatch, *, back: bool = False) -> str:
    """Do what the page says, or the same the other way; return what was said on stderr meanwhile."""
    said = ""
    for words in commands:
        if words[0] == "export" and back:
            patch.delenv("KGENTS_DATABASE_URL")
        elif words[0] == "export":
            patch.setenv(*words[1].split("=", 1))
        else:
            said += kg(*("postgres" if back and word == "sqlite" else word for word in words[1:])).err
    return said


@pytest.mark.parametrize("back", [False, True], ids=["to the server", "to the server and back"])
def test_the_move_of_the_documentation_leaves_no_warning_behind(
    kg: Runner, postgres_url: str, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    kg("memory", "put", "one", "--id", "a")
    assert "warning" not in follow(kg, moves(postgres_url), monkeypatch)
    if back:
        kg("memory", "put", "two", "--id", "b")
        Path("memory.jsonl").unlink()
        assert "warning" not in follow(kg, moves(postgres_url), monkeypatch, back=True)
    for _ in range(2):
        listed = kg("memory", "list")
        assert listed.err == ""
        assert ("b" in listed.text) is back


def test_a_store_that_was_left_is_named_until_it_is_forgotten(
    kg: Runner, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", postgres_url)
    kg("memory", "put", "one", "--id", "a")
    monkeypatch.delenv("KGENTS_DATABASE_URL")
    said = kg("memory", "list").err
    assert "was the first choice" in said
    command = shlex.split(said.partition("`")[2].partition("`")[0])
    assert command[:3] == ["kg", "stores", "forget"]
    kg(*command[1:])
    assert kg("memory", "list").err == ""


def test_a_store_that_was_replaced_can_be_begun_anew(kg: Runner, tmp_path: Path) -> None:
    kg("memory", "put", "one", "--id", "a")
    path = Settings.load().sqlite_path
    for file in path.parent.glob("membrane*"):
        file.unlink()
    refused = kg("memory", "list", code=7).err
    command = shlex.split(refused.partition("`")[2].partition("`")[0])
    assert command[:3] == ["kg", "stores", "forget"]
    kg(*command[1:])
    assert kg.json("memory", "list")["datums"] == []


def test_stores_are_listed_and_forgotten_by_id_place_and_kind(kg: Runner) -> None:
    assert kg.json("stores", "list")["stores"] == []
    for way in ("id", "place", "kind"):
        kg("memory", "put", "one", "--id", "a")
        (found,) = kg.json("stores", "list")["stores"]
        assert found["filled"]
        assert found["first"]
        assert found["place"] == f"sqlite:{Settings.load().sqlite_path}"
        assert found["place"] in kg("stores", "list").text
        assert kg.json("stores", "forget", {**found, "kind": "sqlite"}[way])["forgotten"] == [found["place"]]
        assert kg.json("stores", "list")["stores"] == []
    assert "kg stores list" in kg("stores", "forget", "sqlite", code=3).err


def test_what_waits_is_not_forgotten_by_the_way(kg: Runner) -> None:
    kg("memory", "put", "one", "--id", "a")
    file = ManifestFile(Settings.load().manifest_path)
    file.add_spill("jsonl:/y", "postgres:postgresql://u@h:5432/db")
    for name in ("jsonl:/y", "postgres", "postgres:postgresql://u@h:5432/db"):
        assert "--force" in kg("stores", "forget", name, code=4).err
    assert "kg stores forget --force" in kg("memory", "list").err
    kg("stores", "forget", "postgres", "--force")
    assert file.read().spills == []
    assert kg("memory", "list").err == ""
