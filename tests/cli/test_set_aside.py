"""Writes that were set aside are seen and settled from the command line."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import warnings
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.cli.run_kg import Runner

from dgent import Datum, JSONLBackend, SQLiteBackend, StorageProvider
from dgent.delivery import Queue
from dgent.delivery.queued_write import damaged
from dgent.memory.failover.manifest import place_of
from dgent.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def key(clean_room: Path) -> str:  # which the settings lead to
    """Let a write wait during an outage, somebody else write the same id before it is over, and return its key."""
    settings = Settings.load(busy_timeout=0.2)
    path = settings.sqlite_path
    path.parent.mkdir(parents=True, mode=0o700)
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        asyncio.run(_write_in_the_dark(settings))
    asyncio.run(_write_first(path))
    (entry,) = Runner().json("memory", "set-aside")["set_aside"]
    return str(entry["key"])


async def _write_in_the_dark(settings: Settings) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        async with await StorageProvider.from_config(settings) as storage:
            await storage.memory.put(Datum.create("mine", id="note"))


async def _write_first(path: Path) -> None:
    store = SQLiteBackend(path)
    await store.put(Datum.create("theirs", id="note"))
    await store.close()


def test_what_was_set_aside_is_listed_and_named_by_status(kg: Runner, key: str) -> None:
    (entry,) = kg.json("memory", "set-aside")["set_aside"]
    assert (entry["key"], entry["what"], entry["id"], entry["namespace"]) == (key, "put", "note", "default")
    assert entry["datum"]["text"] == "mine"
    assert entry["reason"]
    text = kg("memory", "set-aside").text
    assert key in text
    assert "the put of 'note' in 'default'" in text
    assert entry["reason"] in text
    assert "`kg memory set-aside`" in kg("status").text
    assert "wait there, or were set aside" in kg("stores", "list").text


def test_a_retry_delivers_it_over_what_is_there(kg: Runner, key: str) -> None:
    assert kg("memory", "get", "note", "--content").text == "theirs"
    assert "'note'" in kg("memory", "retry", key).text
    assert kg("memory", "get", "note", "--content").text == "mine"
    assert kg.json("memory", "set-aside") == {"set_aside": []}
    kg("memory", "list")
    assert "set aside" not in kg("stores", "list").text


def test_a_discard_asks_and_erases_it(kg: Runner, key: str) -> None:
    assert "say --yes" in kg("memory", "discard", key, code=2).err
    kg("memory", "discard", key, "--yes")
    assert kg("memory", "set-aside").text == "nothing was set aside\n"
    assert kg("memory", "get", "note", "--content").text == "theirs"


@pytest.mark.parametrize("words", ["retry x", "discard x --yes"])
def test_an_unknown_key_is_not_found(kg: Runner, words: str) -> None:
    assert "`kg memory set-aside`" in kg("memory", *words.split(), code=3).err


def test_a_damaged_one_shows_its_bytes_and_cannot_be_delivered(kg: Runner, key: str) -> None:
    asyncio.run(_set_damaged_aside())
    entry = next(each for each in kg.json("memory", "set-aside")["set_aside"] if each["key"] != key)
    assert (entry["what"], base64.b64decode(entry["raw"])) == ("damaged", b"\xff\x00left")
    assert "--json has its bytes" in kg("memory", "set-aside").text
    assert "damaged entry" in kg("memory", "retry", entry["key"], code=7).err
    kg("memory", "discard", entry["key"], "--yes")
    assert [each["key"] for each in kg.json("memory", "set-aside")["set_aside"]] == [key]


async def _set_damaged_aside() -> None:
    settings = Settings.load()
    first, later = SQLiteBackend(settings.sqlite_path), JSONLBackend(settings.jsonl_path)
    entry = damaged("0" * 32 + "-x", 0, "it is no entry", b"\xff\x00left", 1.0)
    await Queue(later, place_of(first)).put_aside([entry])
    await later.close()
    await first.close()
