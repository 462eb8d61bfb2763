"""Export and import: what goes out comes in again, once, and a wrong line is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dgent import Datum
from dgent.cli import export_import

if TYPE_CHECKING:
    from tests.cli.run_kg import Runner


def lines(*datums: Datum) -> bytes:
    return b"".join(datum.to_json().encode() + b"\n" for datum in datums)


def some(count: int) -> list[Datum]:
    return [Datum.create(f"number {n}", id=f"n/{n:05d}", metadata={"n": n}, created_at=n) for n in range(count)]


def test_what_is_exported_can_be_imported_elsewhere(kg: Runner, tmp_path: Path) -> None:
    kg("memory", "put", "one", "--id", "a")
    kg("memory", "put", "-", "--id", "b", "--parent", "a", stdin=bytes(range(256)))
    kg("memory", "put", "two", "--id", "a", "--tag", "changed")
    kg("memory", "put", "gone", "--id", "c")
    kg("memory", "delete", "c")
    file = tmp_path / "all.jsonl"
    assert kg.json("memory", "export", file) == {"file": str(file), "datums": 2}
    assert file.stat().st_mode & 0o777 == 0o600
    assert kg("memory", "export").out == file.read_bytes()
    assert kg("memory", "export", "-").out == file.read_bytes()
    assert not Path("-").exists()
    assert [json.loads(line)["id"] for line in file.read_bytes().splitlines()] == ["b", "a"]

    there = ("--data-dir", tmp_path / "other")
    assert kg.json(*there, "memory", "import", file) == {"read": 2, "new": 2, "unchanged": 0}
    for id in ("a", "b"):
        here, other = (kg.json(*options, "memory", "get", id) for options in ((), there))
        given_by_the_store = {"version": 0, "seq": 0, "stored_at": 0}
        assert {**here, **given_by_the_store} == {**other, **given_by_the_store}


def test_an_import_can_be_repeated(kg: Runner) -> None:
    source = lines(*some(3))
    assert kg.json("memory", "import", "-", stdin=source)["new"] == 3
    assert kg.json("memory", "import", "-", stdin=source) == {"read": 3, "new": 0, "unchanged": 3}
    assert len(kg.json("memory", "history", "n/00000")) == 1


def test_what_comes_twice_is_new_once(kg: Runner) -> None:
    source = lines(*some(export_import.BATCH + 3))
    found = kg.json("memory", "import", "-", stdin=source * 2)
    assert found == {
        "read": 2 * export_import.BATCH + 6,
        "new": export_import.BATCH + 3,
        "unchanged": export_import.BATCH + 3,
    }


def test_an_import_makes_nothing_stay_that_expires(kg: Runner) -> None:
    kg("memory", "put", "x", "--id", "a", "--ttl", "1000")
    again = kg("memory", "export").out
    assert kg.json("memory", "import", "-", stdin=again) == {"read": 1, "new": 0, "unchanged": 1}
    kg("memory", "put", "y", "--id", "a", "--ttl", "keep")
    assert kg.json("memory", "get", "a")["version"] == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "not a datum"),
        (b"[]", "a datum is a JSON object"),
        (b'{"id": "x", "text": "y"}', "created_at is Unix seconds"),
        (b'{"text": "y", "created_at": 1}', "id is NoneType"),
        (b'{"id": "x", "created_at": 1}', "either the field 'text' or the field 'base64'"),
        (b'{"id": "x", "base64": "!", "created_at": 1}', "'base64' is not base64"),
        (b'{"id": "x", "text": "y", "created_at": 1, "colour": "red"}', "unknown field 'colour'"),
        (b'{"id": "x", "text": "y", "created_at": 1, "metadata": []}', "metadata is list"),
        (b'{"id": "x", "text": "y", "created_at": 1, "metadata": {"a": "\\u0000"}}', "metadata.a holds a NUL"),
        (b"\xff", "not a datum"),
    ],
)
def test_a_wrong_line_is_named_and_what_came_before_its_batch_stays(
    kg: Runner, monkeypatch: pytest.MonkeyPatch, line: bytes, told: str
) -> None:
    monkeypatch.setattr(export_import, "BATCH", 2)
    good = some(5)
    done = kg("memory", "import", "-", stdin=lines(*good[:3]) + b"\n" + line + b"\n" + lines(*good[3:]), code=1)
    assert done.err.startswith("kg: -: line 5: ")
    assert told in done.err
    assert [each["id"] for each in kg.json("memory", "list")["datums"]] == ["n/00001", "n/00000"]
    assert kg.json("memory", "import", "-", stdin=lines(*good)) == {"read": 5, "new": 3, "unchanged": 2}


def test_a_line_over_the_limits_is_refused_before_it_is_read_whole(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_MAX_CONTENT", "100")
    monkeypatch.setenv("KGENTS_MAX_METADATA", "100")
    assert (
        "line 1: the content of 'x'"
        in kg("memory", "import", "-", stdin=lines(Datum.create("y" * 101, id="x")), code=1).err
    )
    assert "line 1 is longer than" in kg("memory", "import", "-", stdin=b'{"id": "' + b"x" * 20_000, code=1).err


def test_more_than_one_page_and_batch(kg: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export_import, "BATCH", 7)
    monkeypatch.setattr(export_import, "PAGE", 5)
    datums = some(33)
    kg("memory", "import", "-", stdin=lines(*datums).rstrip())
    kg("memory", "export", tmp_path / "all.jsonl")
    read = [Datum.from_json(line) for line in (tmp_path / "all.jsonl").read_bytes().splitlines()]
    assert read == datums


def test_a_failed_export_leaves_the_old_file(kg: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kg("memory", "import", "-", stdin=lines(*some(3)))
    (tmp_path / "all.jsonl").write_bytes(b"old\n")
    monkeypatch.setattr(os, "fsync", fail)
    assert "cannot grow" in kg("memory", "export", tmp_path / "all.jsonl", code=1).err
    assert [path.name for path in tmp_path.iterdir()] == ["all.jsonl"]
    assert (tmp_path / "all.jsonl").read_bytes() == b"old\n"


def fail(fd: int) -> None:
    raise OSError(28, "No space left on device")


def test_an_export_replaces_no_directory_and_no_device(kg: Runner, tmp_path: Path) -> None:
    for path in (tmp_path, "/dev/null"):
        assert "is no file that can be replaced" in kg("memory", "export", path, code=2).err
    assert "there is no such folder" in kg("memory", "export", tmp_path / "no" / "x", code=3).err


def test_a_name_is_no_markup(kg: Runner, tmp_path: Path) -> None:
    file = tmp_path / "[red]a[" / "[x] b.jsonl"
    file.parent.mkdir()
    assert "[red]a[/[x] b.jsonl" in kg("memory", "export", file).text


def test_an_empty_memory_exports_nothing(kg: Runner, tmp_path: Path) -> None:
    assert kg("memory", "export").out == b""
    assert kg.json("memory", "export", tmp_path / "none.jsonl")["datums"] == 0
    assert kg.json("memory", "import", tmp_path / "none.jsonl") == {"read": 0, "new": 0, "unchanged": 0}
    assert "there is no such file" in kg("memory", "import", tmp_path / "nowhere", code=3).err
