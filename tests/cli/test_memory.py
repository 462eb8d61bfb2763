"""`kg memory`, one verb after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.damaged_datum_rows import execute

from dgent.cli import memory
from dgent.settings import Settings

if TYPE_CHECKING:
    from tests.cli.run_kg import Runner


def test_what_is_put_can_be_got(kg: Runner) -> None:
    stored = kg.json("memory", "put", "The map.", "n=3", 'deep={"a": [1]}', "word=yes", "--tag", "maps", "--id", "a")
    assert stored == kg.json("memory", "get", "a")
    assert (stored["id"], stored["text"], stored["version"]) == ("a", "The map.", 1)
    assert stored["metadata"] == {"n": 3, "deep": {"a": [1]}, "word": "yes", "tags": ["maps"]}
    shown = kg("memory", "get", "a").text
    assert all(each in shown for each in ("The map.", "maps", "version", "parent", "none"))


def test_content_comes_from_anywhere_and_goes_back_byte_for_byte(kg: Runner, tmp_path: Path) -> None:
    data = bytes(range(256))
    (tmp_path / "data.bin").write_bytes(data)
    kg("memory", "put", f"@{tmp_path / 'data.bin'}", "--id", "file")
    kg("memory", "put", "-", "--id", "stdin", stdin=data)
    for id in ("file", "stdin"):
        assert kg("memory", "get", id, "--content").out == data
    assert "bytes that are no text" in kg("memory", "get", "file").text
    assert kg("memory", "put", "@nowhere", code=3).err.startswith("kg: nowhere: there is no such file")


def test_metadata_can_be_one_json_object(kg: Runner) -> None:
    assert kg.json("memory", "put", "x", '{"a": {"b": null}}', "c=1")["metadata"] == {"a": {"b": None}, "c": 1}
    for wrong in ("word", "=1", "{", '{"a"}'):
        assert "neither key=value nor" in (err := kg("memory", "put", "x", wrong, code=2).err) or "starts like" in err


def test_expect_decides_who_wins(kg: Runner) -> None:
    kg("memory", "put", "one", "--id", "a", "--expect", 0)
    kg("memory", "put", "two", "--id", "a", "--expect", 1)
    assert (
        "expected version 1, but version 2 is live" in kg("memory", "put", "x", "--id", "a", "--expect", 1, code=4).err
    )
    kg("memory", "delete", "a", "--expect", 1, code=4)
    assert kg.json("memory", "delete", "a", "--expect", 2) == {"deleted": 1}
    assert "--expect is for one id" in kg("memory", "delete", "a", "b", "--expect", 1, code=2).err


def test_ids_and_segments_are_listed_in_any_order(kg: Runner) -> None:
    for id in ("a/1", "a/b/2", "a/b/3", "b"):
        kg("memory", "put", "x", "--id", id, *(["--parent", "a/1"] if id > "a/1" else []))
    assert kg.json("memory", "keys", "a/", "--order", "-id", "--limit", 2) == {
        "keys": ["a/b/3", "a/b/2"],
        "cursor": kg.json("memory", "list", "a/", "--order", "-id", "--limit", 2)["cursor"],
    }
    assert kg.json("memory", "segments", "a/") == {"segments": ["a/1", "a/b/"], "cursor": None}
    first = kg.json("memory", "segments", "--limit", 1)
    assert first["segments"] == ["a/"]
    assert kg.json("memory", "segments", "--cursor", first["cursor"])["segments"] == ["b"]
    assert kg("memory", "segments", "--depth", 2).text == "a/1\na/b/\nb\n"
    assert kg("memory", "keys", "none").text == "nothing\n"
    shown = kg.json("memory", "list", "--parent", "a/1", "--order", "-seq", "--after-seq", 1, "--before-seq", 4)
    assert [each["id"] for each in shown["datums"]] == ["a/b/3", "a/b/2"]
    assert "order is 'sideways'" in kg("memory", "keys", "--order", "sideways", code=2).err
    assert "delimiter is empty" in kg("memory", "segments", "--delimiter", "", code=2).err


def test_history_shows_what_was_superseded_and_deleted(kg: Runner) -> None:
    kg("memory", "put", "one", "--id", "a")
    kg("memory", "put", "two", "--id", "a")
    kg("memory", "delete", "a")
    history = kg.json("memory", "history", "a")
    assert [(each["version"], (each["datum"] or {}).get("text")) for each in history] == [
        (1, "one"),
        (2, "two"),
        (3, None),
    ]
    assert "deleted" in kg("memory", "history", "a").text
    assert kg.json("memory", "get", "a", "--version", 1)["text"] == "one"
    assert [each["version"] for each in kg.json("memory", "history", "a", "--before", 3, "--limit", 1)] == [2]
    kg("memory", "get", "a", code=3)
    kg("memory", "delete", "a", code=3)
    kg("memory", "history", "never", code=3)


def test_changes_are_what_was_put_and_deleted(kg: Runner) -> None:
    kg("memory", "put", "one", "--id", "a")
    kg("memory", "put", "two", "--id", "b")
    kg("memory", "delete", "a")
    found = kg.json("memory", "changes")
    told = [(each["id"], each["version"], each["seq"], (each["datum"] or {}).get("text")) for each in found["changes"]]
    assert told == [("a", 1, 1, "one"), ("b", 1, 2, "two"), ("a", 2, 3, None)]
    assert (found["seq"], found["more"], found["damaged"]) == (3, False, [])
    assert "--after-seq=2" in kg("memory", "changes", "--limit", 2).text
    assert [each["seq"] for each in kg.json("memory", "changes", "--after-seq", 1, "--until", 2)["changes"]] == [2]
    assert "deleted" in kg("memory", "changes").text
    assert "nothing was stored after seq 3" in kg("memory", "changes", "--since", "2100-01-01").text
    assert len(kg.json("memory", "changes", "--since", "2000-01-01")["changes"]) == 3
    moment = found["changes"][1]["stored_at"]
    assert [each["id"] for each in kg.json("memory", "list", "--as-of", moment, "--order", "id")["datums"]] == [
        "a",
        "b",
    ]
    assert [each["id"] for each in kg.json("memory", "list", "--as-of", "2000-01-01")["datums"]] == []
    assert [each["seq"] for each in kg.json("data", "self.data.changes", "after_seq=2")] == [3]
    assert "deleted" in kg("data", "self.data.changes", "after_seq=2").text


def test_a_chain_is_that_of_now_of_a_version_or_of_a_time(kg: Runner) -> None:
    for id, parent in (("a", None), ("b", "a"), ("c", "b"), ("b", None)):
        kg("memory", "put", f"{id} {parent}", "--id", id, *(["--parent", parent] if parent else []))

    def ids(*words: object) -> list[str]:
        return [each["id"] for each in kg.json("memory", "chain", "c", *words)]

    assert (ids(), ids("--version", 1)) == (["b", "c"], ["a", "b", "c"])
    assert (ids("--version", 1, "--limit", 1), ids("--as-of", "2100-01-01")) == (["c"], ["b", "c"])
    kg("memory", "chain", "c", "--as-of", "2000-01-01", code=3)
    kg("memory", "chain", "c", "--version", 7, code=3)
    kg("memory", "chain", "c", "--version", 1, "--as-of", "2100-01-01", code=2)
    assert [each["id"] for each in kg.json("data", "self.data.causal_chain", "id=c", "version=1")] == ["a", "b", "c"]


def test_touch_changes_when_it_expires_and_history_shows_it(kg: Runner) -> None:
    kg("memory", "put", "x", "--id", "a", "--ttl", "1000")
    kg("memory", "put", "y", "--id", "b")
    before = kg.json("memory", "get", "a")
    assert before["expires_at"] == pytest.approx(before["stored_at"] + 1000)
    assert kg.json("memory", "touch", "a", "b", "nobody", "--ttl", "5000") == {"touched": 2}
    after = kg.json("memory", "get", "a")
    assert after["expires_at"] > before["expires_at"] + 3000
    assert {**after, "expires_at": 0} == {**before, "expires_at": 0}
    assert "expires (UTC)" in kg("memory", "history", "a").text
    assert "expires" in kg("memory", "get", "a").text
    assert kg.json("memory", "touch", "a", "--stay") == {"touched": 1}
    assert kg.json("memory", "get", "a")["expires_at"] is None
    assert "expires" not in kg("memory", "history", "a").text
    kg("memory", "touch", "a", code=2)
    kg("memory", "touch", "a", "--stay", "--ttl", "1", code=2)
    kg("memory", "touch", "nobody", "--stay", code=3)
    kg("memory", "touch", "a", "--ttl", "1e-6")
    kg("memory", "get", "a", code=3)
    assert [each["id"] for each in kg.json("memory", "list", "--expired")["datums"]] == ["b", "a"]


def test_delete_says_who_and_why_and_purge_takes_many(kg: Runner) -> None:
    for id in "abc":
        kg("memory", "put", "x", "--id", id)
    assert kg.json("memory", "delete", "a", "b", "--author", "ann", "--reason", "by mistake") == {"deleted": 2}
    assert kg.json("memory", "history", "b")[-1]["author"] == "ann"
    assert "by ann: by mistake" in kg("memory", "history", "a").text
    assert "by ann: by mistake" in kg("memory", "changes").text
    assert [(each["author"], each["reason"]) for each in kg.json("memory", "changes", "--after-seq", 4)["changes"]] == [
        ("ann", "by mistake")
    ]
    assert kg.json("memory", "purge", "a", "c", "nobody", "--yes") == {"erased": 3}


def test_purge_asks_before_it_erases(kg: Runner) -> None:
    kg("memory", "put", "one", "--id", "a")
    assert "say --yes" in kg("memory", "purge", "a", code=2).err
    assert kg.json("memory", "purge", "a", "--yes") == {"erased": 1}
    kg("memory", "history", "a", code=3)
    kg("memory", "purge", "a", "--yes", code=3)


def test_erase_asks_before_it_erases_and_says_what_went(kg: Runner) -> None:
    for id in ("a1", "a2", "b"):
        kg("memory", "put", "one", "--id", id)
    kg("memory", "put", "two", "--id", "a1")
    assert "say --yes" in kg("memory", "erase", "--prefix", "a", code=2).err
    assert "--everything" in kg("memory", "erase", "--yes", "--prefix", "", code=2).err
    assert "either" in kg("memory", "erase", "--yes", "--everything", "--prefix", "a", code=2).err
    assert kg("memory", "erase", "--prefix", "a", "--yes").text == "erased 3 versions of 2 ids\n"
    found = kg.json("memory", "erase", "--everything", "--below", "--vacuum", "--yes")
    assert found == {"versions": 1, "ids": 1, "namespaces": 1, "queued": 0, "pending": ""}
    assert kg.json("memory", "list")["datums"] == []


def test_erase_asks_with_how_many_are_live(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(memory, "sure", asked.append)
    for id in ("ada/1", "adam/1"):
        kg("memory", "put", "one", "--id", id)
    kg("memory", "erase", "--prefix", "ada")
    kg("memory", "erase", "--everything", "--below")
    assert asked == [
        "Erase every version of what begins with 'ada' in the namespace 'default' (2 live datums there now) for good?",
        "Erase everything in the namespace 'default' (0 live datums there now) and those under it for good?",
    ]


def test_a_chain_is_shown_oldest_first(kg: Runner) -> None:
    for id, parent in (("a", None), ("b", "a"), ("c", "b")):
        kg("memory", "put", f"this is {id}", "--id", id, *(["--parent", parent] if parent else []))
    assert [each["id"] for each in kg.json("memory", "chain", "c")] == ["a", "b", "c"]
    lines = kg("memory", "chain", "c").text.splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "b", "c"]
    kg("memory", "chain", "nobody", code=3)


def test_pages_joined_give_everything_once(kg: Runner) -> None:
    for number in range(7):
        kg("memory", "put", "x", f"n={number}", "--id", f"p/{number}", "--tag", "odd" if number % 2 else "even")
    kg("memory", "put", "x", "--id", "q")
    seen, cursor = [], None
    while True:
        page = kg.json("memory", "list", "p/", "--limit", 3, *(["--cursor", cursor] if cursor else []))
        seen += [each["id"] for each in page["datums"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == [f"p/{number}" for number in reversed(range(7))]
    shown = kg("memory", "list", "p/", "--limit", 3).text
    assert "--cursor" in shown
    assert "p/6" in shown
    assert [each["id"] for each in kg.json("memory", "list", "--tag", "odd", "--order", "seq")["datums"]] == [
        "p/1",
        "p/3",
        "p/5",
    ]
    assert [each["id"] for each in kg.json("memory", "list", "--where", "metadata.n=4")["datums"]] == ["p/4"]
    assert kg("memory", "list", "none/").text == "no datums in 'default' match\n"
    assert kg("--namespace", "empty", "memory", "list").text == "no datums in 'empty'\n"
    assert kg("memory", "list", "--where", "n=4").text == "no datums in 'default' match\n"  # it is in the metadata


def test_where_takes_every_comparison(kg: Runner) -> None:
    for number in range(4):
        kg("memory", "put", "x", f"n={number}", "--id", str(number))
    for words, wanted in (
        (["metadata.n>2"], "3"),
        (["metadata.n>=1", "metadata.n<3"], "12"),
        (["metadata.n!=3", "metadata.n<=2"], "012"),
        (['{"$or": [{"metadata.n": 0}, {"metadata.n": {"$gt": 2}}]}', "metadata.n<3"], "0"),
        (['metadata["a>=b"]!=x'], "0123"),
    ):
        options = [each for word in words for each in ("--where", word)]
        found = kg.json("memory", "list", "--order", "oldest", *options)["datums"]
        assert "".join(each["id"] for each in found) == wanted


def test_times_are_utc_unless_they_say_more(kg: Runner) -> None:
    kg("memory", "put", "x", "--id", "now")
    assert kg.json("memory", "list", "--since", "2999-01-01")["datums"] == []
    assert (
        len(kg.json("memory", "list", "--since", "2020-01-01T00:00:00+02:00", "--until", "32503680000")["datums"]) == 1
    )
    assert "is no time" in kg("memory", "list", "--since", "yesterday", code=2).err


def test_namespaces_do_not_meet(kg: Runner) -> None:
    kg("--namespace", "one", "memory", "put", "x", "--id", "a")
    kg("--namespace", "two", "memory", "get", "a", code=3)
    assert kg.json("--namespace", "one", "memory", "get", "a")["text"] == "x"
    assert "namespace" in kg("--namespace", "../x", "memory", "list", code=1).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "x", "--id", ""),
        ("put", "x", "--id", "a" * 2001),
        ("put", "x", "--ttl", "-1"),
        ("put", "x", "--parent", "\udcff"),
        ("put", "\udcff"),
        ("put", "x", "n=\udcff"),
        ("get", "\udcff"),
    ],
)
def test_what_no_store_takes_is_refused_in_one_line(kg: Runner, arguments: tuple[str, ...]) -> None:
    done = kg("memory", *arguments, code=1)
    assert done.out == b""
    assert done.err.startswith("kg: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "memory list --limit -1",
        "memory list --limit 10001",
        "memory list --cursor forged",
        "memory list --order random",
        "memory list --where a..b=1",
        "memory list --where a",
        "memory list --where a!b",
        "memory list --where =1",
        "memory list --where a>null",
        'memory list --where {"a":{"$gte":1}}',
        "memory list --since x",
        "memory history a --limit 10001",
        "log show s --limit 10001",
        "brain search --limit 10001",
        "crystal query --limit 10001",
        "crystal query --cursor forged",
    ],
)
def test_a_filter_that_means_nothing_is_a_wrong_command_line(kg: Runner, words: str) -> None:
    done = kg(*words.split(), code=2)
    assert (done.out, done.err.count("\n")) == (b"", 1)
    assert "page.cursor" not in done.err
    if "10001" in words:
        assert "go on with --" in done.err


def test_what_is_not_found_says_where_nobody_found_it(kg: Runner) -> None:
    for words in ("get a", "history a", "chain a", "delete a", "delete a b", "purge a --yes"):
        assert "in 'elsewhere'" in kg("--namespace", "elsewhere", "memory", *words.split(), code=3).err


def test_stored_text_cannot_steer_the_terminal(kg: Runner) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]bold[/red]\u202egnp.exe"
    kg("memory", "put", evil, f"key={evil}", "--id", f"id{evil}", "--tag", evil, "--author", evil)
    for words in (["list"], ["get", f"id{evil}"], ["chain", f"id{evil}"], ["history", f"id{evil}"]):
        shown = kg("memory", *words).text
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
        assert "\\x1b" in shown
    assert "[red]bold[/red]" in kg("memory", "get", f"id{evil}").text
    assert "\x1b" not in kg("memory", "get", f"nothing{evil}", code=3).err
    assert kg.json("memory", "get", f"id{evil}")["text"] == evil


def test_json_goes_before_or_behind_the_command_and_is_alone_on_stdout(kg: Runner) -> None:
    kg("memory", "put", "Grüße, 世界", "--id", "a")
    before, behind = kg("--json", "memory", "get", "a"), kg("memory", "get", "a", "--json")
    assert before.out == behind.out
    assert behind.out.count(b"\n") == 1
    assert behind.json["text"] == "Grüße, 世界"


def test_a_content_over_the_limit_is_refused(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_MAX_CONTENT", "10")
    kg("memory", "put", "-", stdin=b"x" * 10)
    assert "max_content" in kg("memory", "put", "-", stdin=b"x" * 1000, code=1).err


def test_content_that_looks_like_json_is_shown_whatever_it_is(kg: Runner) -> None:
    for content in (
        b'{"a": [1, {"b": []}]}',
        b"{no",
        b"[" * 900 + b"]" * 900,
        b'{"title": 3}',
        b"{" + b"\0" * 9,
        b"[1, 2]",
    ):
        kg("memory", "put", "-", "--id", "a", stdin=content)
        assert kg("memory", "get", "a").text
        assert kg("memory", "list").text
        assert kg.json("memory", "list")["datums"][0]["text"] == content.decode()


def test_a_damaged_datum_is_named_and_hides_no_other(kg: Runner) -> None:
    for id in "abc":
        kg("memory", "put", f"this is {id}", "--id", id)
    url = f"sqlite:///{Settings.load().sqlite_path}"
    execute(url, "UPDATE dgent_datums SET content = ? WHERE id = 'b'", b"else")
    done = kg("memory", "list", code=7)
    assert ["this is a" in done.text, "this is c" in done.text, "DAMAGED: version 1 of b" in done.text] == [True] * 3
    assert done.err.startswith("warning: ")
    assert len(done.err.splitlines()) == 1
    assert "page.damaged" not in done.err  # which is for programs
    assert "`kg memory purge ID`" in done.err
    assert "--json has what is left of their bytes" in done.text
    told = kg("memory", "list", "--json", code=7).json
    assert [each["id"] for each in told["datums"]] == ["c", "a"]
    assert [(each["id"], each["version"], each["text"]) for each in told["damaged"]] == [("b", 1, "else")]
    assert "DAMAGED" in kg("data", "self.data.list", code=7).text
    assert "DAMAGED" in kg("crystal", "query", code=7).text
    refused = kg("memory", "export", "out.jsonl", code=7).err
    assert "`kg memory list --json`" in refused
    assert "`kg memory purge ID`" in refused
    assert not Path("out.jsonl").exists()
    kg("memory", "get", "b", code=7)
    assert kg("memory", "purge", "b", "--yes").text == "erased 1 version\n"
    assert kg.json("memory", "list")["damaged"] == []
    assert kg("memory", "export", "out.jsonl").text == "2 datums in out.jsonl\n"
    kg("memory", "purge", "a", "--yes")
    assert kg("memory", "export", "out.jsonl").text == "1 datum in out.jsonl\n"
