"""`kg log`: what it appends and shows, that it finds what was edited, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.run_kg import spawned

from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from tests.cli.run_kg import Runner


def edit(statement: str) -> None:
    """Change the database past the library."""
    connection = sqlite3.connect(Settings.load().sqlite_path)
    with connection:
        assert connection.execute(statement).rowcount
    connection.close()


@pytest.fixture
def filled(kg: Runner) -> Runner:
    for number in range(4):
        kg("log", "append", "talk", f"turn {number}", "--writer", "alice")
    kg("log", "append", "talk", "-", "--writer", "bob", stdin=b"\xff\x00")
    return kg


def test_entries_are_appended_and_shown(filled: Runner) -> None:
    entry = filled.json("log", "append", "talk", "more", "--writer", "alice")
    assert (entry["seq"], entry["text"], entry["format"], len(entry["content_hash"])) == (5, "more", "dgent/1", 64)
    shown = filled.json("log", "show", "talk", "--writer", "alice", "--after", "3")
    assert [(each["seq"], each["text"]) for each in shown] == [(4, "turn 3"), (5, "more")]
    assert shown[1]["prev_hash"] == shown[0]["content_hash"]
    assert [each["writer"] for each in filled.json("log", "show", "talk", "--limit", 3)] == ["alice", "bob", "alice"]
    assert filled.json("log", "show", "talk", "--writer", "bob")[0]["base64"] == "/wA="
    heads = {each["writer"]: each["seq"] for each in filled.json("log", "show")}
    assert heads == {"alice": 5, "bob": 1}
    told = filled("log", "show", "talk").text
    assert "turn 2" in told
    assert "2 bytes" in told
    assert filled.json("log", "show", "talk", "--after", "9") == []
    assert "say who writes" in filled("log", "append", "talk", "x", code=2).err
    assert "no log has the format 'x'" in filled("log", "show", "--format", "x", code=1).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tlak"], "there is no log 'tlak' in the format dgent/1: did you mean talk?"),
        (["talk", "--writer", "alcie"], "there is no log of 'alcie' in 'talk': did you mean alice?"),
        (["tlak", "--writer", "alice"], "did you mean talk?"),
        (["talk", "--format", "agent-store/1"], "in the format agent-store/1: there is none"),
    ],
)
def test_a_log_that_is_not_there_is_not_found_and_never_intact(filled: Runner, words: list[str], said: str) -> None:
    for verb in ("verify", "show"):
        done = filled("log", verb, *words, code=3)
        assert said in done.err
        assert not done.out
    assert "did you mean alice" in filled("log", "verify", "--writer", "alcie", code=3).err


def test_a_log_of_which_nothing_is_left_is_broken_whoever_signed_it(filled: Runner) -> None:
    filled("log", "keygen", "ada.key")
    filled("log", "checkpoint", "talk", "--writer", "alice", "--key", "ada.key", "--out", "kept.json")
    edit("DELETE FROM dgent_log WHERE writer = 'alice'")
    [found] = filled("log", "verify", "talk", "--writer", "alice", "--json", code=7).json
    assert (found["ok"], found["reason"]) == (False, "it was signed, and no entry of it is left")
    elsewhere = ("--against", "kept.json", "--trust", "ada.key.pub")
    edit("DELETE FROM dgent_checkpoints")
    assert "BROKEN" in filled("log", "verify", "talk", "--writer", "alice", *elsewhere, code=7).text


def test_an_edited_entry_is_found(filled: Runner) -> None:
    assert "intact" in filled("log", "verify").text
    edit("UPDATE dgent_log SET payload = x'00' WHERE writer = 'alice' AND seq = 3")
    found = {each["writer"]: each for each in json.loads(filled("log", "verify", "--json", code=7).out)}
    assert (found["alice"]["ok"], found["alice"]["seq"], found["bob"]["ok"]) == (False, 3, True)
    assert "BROKEN at seq 3" in filled("log", "verify", "talk", code=7).text
    done = filled("log", "show", "talk", code=7)
    assert ["turn 1" in done.text, "turn 3" in done.text, "DAMAGED: version 3 of alice" in done.text] == [True] * 3
    shown = filled("log", "show", "talk", "--json", code=7).json
    assert [(each["writer"], each["seq"]) for each in shown if "damaged" in each] == [("alice", 3)]
    assert len(shown) == 5
    assert filled("log", "verify", "talk", "--writer", "bob").code == 0


def test_a_tail_that_was_cut_off_shows_against_a_checkpoint(filled: Runner, clean_room: Path) -> None:
    made = filled.json("log", "keygen", "keys/ada")
    assert Path("keys/ada").stat().st_mode & 0o777 == 0o600
    assert "is there already" in filled("log", "keygen", "keys/ada", code=1).err
    own = filled.json("log", "append", "talk", "mine", "--key", "keys/ada")
    assert own["writer"] == made["fingerprint"]

    for writer in ("alice", None):
        option = ["--writer", writer] if writer else []
        signed = filled.json("log", "checkpoint", "talk", "--key", "keys/ada", "--out", f"{writer}.json", *option)
        assert json.loads(Path(f"{writer}.json").read_text()) == signed
    assert filled("log", "checkpoint", "talk", "--key", "keys/ada", "--out", "-").json == signed
    assert not Path("-").exists()
    assert (
        "not overwritten" in filled("log", "checkpoint", "talk", "--key", "keys/ada", "--out", "None.json", code=2).err
    )

    intact = {each["writer"]: each for each in filled.json("log", "verify", "--trust", "keys/ada.pub")}
    assert (intact["alice"]["checkpoint"], intact[own["writer"]]["checkpoint"], intact["bob"]["checkpoint"]) == (
        4,
        1,
        None,
    )

    edit("DELETE FROM dgent_log WHERE writer = 'alice' AND seq = 4")
    assert filled("log", "verify", "talk", "--writer", "alice").code == 0  # nobody was trusted, so nothing is compared
    cut = filled("log", "verify", "talk", "--writer", "alice", "--trust", made["fingerprint"], code=7)
    assert "BROKEN at seq 4" in cut.text
    elsewhere = ("--against", "alice.json", "--trust", "keys/ada.pub")
    assert "cut off" in filled("log", "verify", "talk", "--writer", "alice", *elsewhere, code=7).text
    assert "nobody said" in filled("log", "verify", "talk", "--writer", "alice", "--against", "alice.json", code=1).err
    assert "of one log" in filled("log", "verify", "talk", "--against", "alice.json", code=2).err

    edit(f"DELETE FROM dgent_log WHERE writer = '{own['writer']}'")
    gone = {each["writer"]: each["ok"] for each in json.loads(filled("log", "verify", "--json", code=7).out)}
    assert gone == {"alice": True, "bob": True, own["writer"]: False}  # a log of which nothing is left


def test_a_follower_shows_what_is_there_and_what_comes(filled: Runner) -> None:
    lines = filled("log", "follow", "talk", "--writer", "alice", "--after", 2, "--limit", 2, "--json").text.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["turn 2", "turn 3"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    try:
        process = spawned("log", "follow", "talk", "--json")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    try:
        seen = [json.loads(process.stdout.readline()) for _ in range(5)]
        assert {(each["writer"], each["seq"]) for each in seen} == {("alice", n) for n in range(1, 5)} | {("bob", 1)}
        filled("log", "append", "talk", "late", "--writer", "carol")
        assert json.loads(process.stdout.readline())["text"] == "late"
        process.send_signal(signal.SIGINT)
        assert process.wait(patience(30)) == 130
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_key_that_others_can_read_is_refused(filled: Runner, clean_room: Path) -> None:
    filled("log", "keygen", "key")
    os.chmod("key", 0o644)  # noqa: PTH101  # as a person does
    assert "chmod 600" in filled("log", "append", "talk", "x", "--key", "key", code=1).err


@pytest.mark.parametrize("after", ["1:00", "one", "-1", f"0:{'0' * 64}"])
def test_a_position_that_is_none_is_code_2_and_says_where_to_get_one(filled: Runner, after: str) -> None:
    done = filled("log", "follow", "talk", "--writer", "alice", f"--after={after}", code=2)
    assert "--after is SEQ, or SEQ:HASH" in done.err
    assert "`kg --json log show STREAM`" in done.err


def test_a_hash_of_show_is_a_position_of_follow(filled: Runner) -> None:
    entry = filled.json("log", "show", "talk", "--writer", "alice")[1]
    seen = f"{entry['seq']}:{entry['content_hash']}"
    assert "turn 2" in filled("log", "follow", "talk", "--writer", "alice", "--after", seen, "--limit", "1").text


def test_a_file_that_is_there_is_seen_before_anything_is_signed(filled: Runner, clean_room: Path) -> None:
    filled("log", "keygen", "ada.key")
    (clean_room / "kept.json").touch()
    words = ("log", "checkpoint", "talk", "--writer", "alice", "--key", "ada.key", "--out", "kept.json")
    assert "not overwritten" in filled(*words, code=2).err
    verified = filled.json("log", "verify", "talk", "--writer", "alice", "--trust", "ada.key.pub")
    assert [each["checkpoint"] for each in verified] == [None]


def test_a_log_that_went_back_is_neither_signed_nor_followed(filled: Runner, clean_room: Path) -> None:
    """An old backup in the place of the database has forgotten the entries, and that they were signed."""
    filled("log", "keygen", "ada.key")
    for number in range(4):
        filled("log", "append", "talk", f"turn {number}", "--key", "ada.key")
    made = filled.json("log", "checkpoint", "talk", "--key", "ada.key", "--out", "kept.json")
    seen = f"{made['seq']}:{made['hash']}"
    shown = filled("log", "follow", "talk", "--writer", made["writer"], "--after", "3", "--limit", "1").text
    assert "turn 3" in shown
    edit("DELETE FROM dgent_checkpoints")
    edit(f"DELETE FROM dgent_log WHERE writer = '{made['writer']}' AND seq > 2")
    for number in range(3):
        filled("log", "append", "talk", f"other {number}", "--key", "ada.key")
    assert "seq 4" in filled("log", "checkpoint", "talk", "--key", "ada.key", "--against", "kept.json", code=7).err
    follow = ("log", "follow", "talk", "--writer", made["writer"], "--limit", "1")
    assert "seq 5" in filled(*follow, "--after", seen, code=7).err
    assert "other 2" in filled(*follow, "--after", "4").text
    assert "SEQ:HASH" in filled("log", "follow", "talk", "--after", seen, code=2).err
    filled("log", "follow", "talk", "--after", "x", code=2)


def test_a_store_that_can_only_be_read_and_has_no_logs_has_nothing(
    kg: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "membrane.db"
    monkeypatch.setenv("KGENTS_DATABASE_URL", f"sqlite:///{database}")
    kg("memory", "put", "x")
    monkeypatch.setenv("KGENTS_DATABASE_URL", f"sqlite:///{database}?mode=ro")
    assert kg.json("log", "show") == []
    assert "there is no log" in kg("log", "verify", code=3).err
    assert "mode=ro" in kg("log", "append", "s", "x", "--writer", "w", code=None).err
