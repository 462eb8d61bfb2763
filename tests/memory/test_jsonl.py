"""Agent memory in a JSONL file obeys the contract, and the file survives what happens to files."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from dgent.datum import Datum
from dgent.exceptions import Corrupt, ReadOnly, SchemaTooNew, StorageTimeout, VersionConflict
from dgent.limits import Limits
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.jsonl.journal import Journal
from dgent.memory.jsonl.line_format import seal, unseal
from dgent.operations import Delete, Purge, Put
from dgent.testing import DgentContract, ManualClock
from dgent.warnings import PrivacyWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dgent.memory.change import Change

DEFAULT = Limits()


class TestJSONL(DgentContract):
    capabilities = JSONLBackend.capabilities

    async def open(
        self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = DEFAULT
    ) -> JSONLBackend:
        return JSONLBackend(place / "memory.jsonl", namespace, clock=clock, limits=limits)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.jsonl"


@asynccontextmanager
async def opened(path: Path, **named: Any) -> AsyncIterator[JSONLBackend]:
    store = JSONLBackend(path, **named)
    try:
        yield store
    finally:
        await store.close()


def state(path: Path) -> list[tuple[Any, ...]]:
    """Open the file, return everything in it, and close it."""
    journal = Journal(path, DEFAULT, ManualClock(), 1.0)
    try:
        with journal.exclusive():
            return dump(journal)
    finally:
        journal.close()


def dump(journal: Journal) -> list[tuple[Any, ...]]:
    return [
        (name, *stored)
        for name, namespace_state in sorted(journal.state.namespace_states.items())
        for stored in namespace_state
    ]


def put(journal: Journal, *datums: Datum, namespace: str = "default", ttl: float | None = None) -> None:
    with journal.exclusive():
        batch = journal.state.batch(namespace)
        batch.apply([Put(datum, None, ttl) for datum in datums])
        journal.append([batch])


def delete(journal: Journal, id: str) -> None:
    with journal.exclusive():
        batch = journal.state.batch("default")
        batch.apply([Delete(id)])
        journal.append([batch])


def written(path: Path) -> list[list[tuple[Any, ...]]]:
    """Write a small file of every kind of line; return what it held after each flush."""
    journal = Journal(path, DEFAULT, ManualClock(), 1.0)
    states: list[list[tuple[Any, ...]]] = [[]]
    metadata = {"tags": ["é", "\n\u2028"], "n": 1.5, "deep": {"b3": None}}
    steps: list[Callable[[], None]] = [
        lambda: put(journal, Datum("a", b"text\nwith \x00 lines", 1.0)),
        lambda: put(
            journal, Datum("b", b"\xff\xfe\n", 2.5, "a", metadata), Datum("c", b"", -1.0), namespace="other/ns"
        ),
        lambda: put(journal, Datum("a", b'{"b3":"x"}\n', 3.0), ttl=60),
        lambda: delete(journal, "a"),
        lambda: put(journal, Datum("a", b"again", 4.0, "z")),
    ]
    try:
        for step in steps:
            step()
            states.append(dump(journal))
    finally:
        journal.close()
    return states


def test_l_d1_a_line_gives_back_what_was_put(path: Path) -> None:
    states = written(path)
    assert state(path) == states[-1]
    assert [len(held) for held in states] == [0, 1, 3, 4, 5, 6]
    for line in path.read_bytes().splitlines(keepends=True):
        assert seal(orjson.loads(b"{" + line[41:])) == line


def test_l_d4_every_prefix_of_the_file_reopens_to_a_prefix_of_what_was_acknowledged(path: Path) -> None:
    states = written(path)
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        path.chmod(0o600)
        flushed = max(0, sum(end <= size for end in ends) - 1)  # the first line is the header
        journal = Journal(path, DEFAULT, ManualClock(), 1.0)
        put(journal, Datum("new", b"", 9.0))
        held = dump(journal)
        journal.close()
        assert [entry for entry in held if entry[1] != "new"] == states[flushed], size
        torn = list(path.parent.glob("*.torn-*"))
        assert b"".join(file.read_bytes() for file in torn) == whole[max([0, *(e for e in ends if e <= size)]) : size]
        for file in torn:
            file.unlink()
        if size % 10 == 0:
            assert state(path) == held
            path.unlink()


def test_a_flipped_bit_is_corrupt_or_a_torn_tail_and_never_an_answer(path: Path) -> None:
    states = written(path)
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n")  # this newline and what follows are the tail
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        if at < last:
            with pytest.raises(Corrupt, match="line 1 " if at < whole.index(b"\n") else "line "):
                state(path)
        else:
            assert state(path) in states[:-1]
            assert len(list(path.parent.glob("*.torn-*"))) == 1
            for file in path.parent.glob("*.torn-*"):
                file.unlink()


def test_corrupt_names_the_line(path: Path) -> None:
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for at in range(1, len(lines) - 1):
        path.write_bytes(b"".join([*lines[:at], lines[at].replace(b"seq", b"SEQ"), *lines[at + 1 :]]))
        with pytest.raises(Corrupt, match=f"line {at + 1} "):
            state(path)
        path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
        with pytest.raises(Corrupt, match=f"line {at + 1} was line {at + 2}"):
            state(path)
        path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
        with pytest.raises(Corrupt, match=f"line {at + 2} was line {at + 1}"):
            state(path)


async def test_a_snapshot_is_whole_or_corrupt(path: Path) -> None:
    async with opened(path) as store:
        await store.put_many([Datum(f"k{n}", b"x", 1.0) for n in range(4)])
        await store.purge("k0")
        await store.put(Datum("late", b"x", 1.0))
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 3 + 1
    for kept in range(1, 4):
        path.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(Corrupt):
            state(path)
    path.write_bytes(b"".join(lines[:4]))
    assert [entry[1] for entry in state(path)] == ["k1", "k2", "k3"]


async def test_what_another_process_left_half_written_is_cut_while_the_store_is_open(path: Path) -> None:
    async with opened(path) as store:
        await store.put(Datum("a", b"x", 1.0))
        whole = path.read_bytes()
        for tail in (b'{"b3":"half', b"no line of ours\n"):
            with path.open("ab") as file:
                file.write(tail)
            assert await store.exists("a")
            assert path.read_bytes() == whole
        assert (await store.put(Datum("b", b"x", 1.0))).seq == 2
        torn = [file.read_bytes() for file in sorted(path.parent.glob("*.torn-*"))]
        assert torn == [b'{"b3":"half', b"no line of ours\n"]


async def test_an_answer_comes_after_the_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    sync = os.fsync

    def record(fd: int) -> None:
        sync(fd)
        synced.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))

    monkeypatch.setattr(os, "fsync", record)
    async with opened(path) as store:
        for n in range(3):
            await store.put(Datum(f"k{n}", b"x", 1.0))
            assert synced[-1] == (path.stat().st_ino, path.stat().st_size)
        synced.clear()
        await store.purge("k0")
        assert synced[0] == (path.stat().st_ino, path.stat().st_size)
        assert synced[1][0] == path.parent.stat().st_ino


async def test_waiting_puts_share_a_line(path: Path) -> None:
    async with opened(path) as store:
        await asyncio.gather(*(store.put(Datum(f"k{n}", b"x", 1.0)) for n in range(500)))
        assert path.read_bytes().count(b"\n") < 100
        assert [datum.seq for datum in await store.list(order="seq", limit=500)] == list(range(1, 501))


async def test_purge_and_compact_leave_no_byte(path: Path) -> None:
    async with opened(path) as store:
        await store.put(Datum("a", b"first secret", 1.0))
        await store.put(Datum("a", b"second secret", 1.0))
        await store.put(Datum("b", b"third secret", 1.0))
        assert await store.compact(keep_versions=1) == 1
        assert b"first secret" not in path.read_bytes()
        assert b"second secret" in path.read_bytes()
        assert await store.purge("a") == 1
        assert b"second secret" not in path.read_bytes()
        assert (await store.put(Datum("a", b"", 1.0))).seq == 4
    assert not list(path.parent.glob("*.tmp"))


async def test_a_rewrite_forgets_no_seq_of_an_erased_namespace(path: Path) -> None:
    """Mutants: a purge, or the first touch, writes a header without the mark of the names that went."""
    async with opened(path) as store:
        gone = store.within("gone")
        await gone.put_many([Datum(id, b"", 1.0) for id in "abc"])
        await gone.erase(everything=True)
        await store.put_many([Datum(id, b"", 1.0) for id in "ab"], ttl=100)
        await store.touch(["a"], 50)
    async with opened(path) as store:
        assert await store.purge("b") == 1
    async with opened(path) as store:
        assert (await store.within("gone").put(Datum("a", b"", 1.0))).seq == 4
        assert await store.within("new").apply([Put(Datum("a", b"", 1.0)), Purge("a")])
    async with opened(path) as store:
        assert (await store.within("new").put(Datum("a", b"", 1.0))).seq == 5


async def test_changes_are_told_after_the_commit_in_order(path: Path) -> None:
    heard: list[Change] = []

    def listen(change: Change) -> None:
        heard.append(change)
        raise RuntimeError("a listener that fails harms nobody")

    async with opened(path, on_change=listen) as store:
        datum = Datum("a", b"x", 1.0)
        await store.put(datum)
        await store.put(datum)
        await store.within("other").put_many([datum, Datum("b", b"x", 1.0)])
        with pytest.raises(VersionConflict):
            await store.put(datum, expect=7)
        await store.delete("a")
        await store.delete("a")
        await store.purge("a")
    told = [(change.kind, change.namespace, change.id, change.version, change.seq) for change in heard]
    assert told == [
        ("put", "default", "a", 1, 1),
        ("put", "other", "a", 1, 1),
        ("put", "other", "b", 1, 2),
        ("delete", "default", "a", 2, 2),
        ("purge", "default", "a", 0, 0),
    ]


async def test_a_file_that_was_exchanged_removed_or_cut_is_corrupt(path: Path) -> None:
    other = path.with_name("other.jsonl")
    async with opened(other) as store:
        await store.put(Datum("a", b"other", 1.0))
    async with opened(path) as store:
        await store.put(Datum("a", b"x", 1.0))
        whole = path.read_bytes()
        aside = path.rename(path.with_name("aside"))
        for reads in (store.get("a"), store.put(Datum("b", b"x", 1.0)), store.list()):
            with pytest.raises(Corrupt, match="removed"):
                await reads
        path.write_bytes(other.read_bytes())
        path.chmod(0o600)
        with pytest.raises(Corrupt, match="another file"):
            await store.get("a")
        path.unlink()
        aside.rename(path)
        assert await store.exists("a")
        path.write_bytes(whole[:-1])
        with pytest.raises(Corrupt, match="shorter"):
            await store.get("a")
        path.write_bytes(whole)
        assert (await store.put(Datum("b", b"x", 1.0))).seq == 2


@pytest.mark.parametrize(
    "content", [b"{}\n", b"hello", b"SQLite format 3\0" * 10, b"\n", b'{"b3":"' + b"0" * 90 + b"\n"]
)
def test_a_file_of_something_else_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Corrupt, match="line 1 "):
        state(path)
    assert path.read_bytes() == content


def test_a_newer_format_is_refused(path: Path) -> None:
    written(path)
    header, rest = path.read_bytes().split(b"\n", 1)
    record = unseal(header + b"\n")
    assert record is not None
    path.write_bytes(seal({name: value for name, value in record.items() if name != "b3"} | {"format": 3}) + rest)
    with pytest.raises(SchemaTooNew, match="format 3"):
        state(path)


async def test_the_first_touch_raises_the_format(path: Path) -> None:
    """A program that knows the first one alone would take a touch for a delete."""
    async with opened(path) as store, opened(path) as other:
        await store.put_many([Datum("a", b"x", 1.0), Datum("b", b"y", 1.0)])
        assert await other.count() == 2
        assert [unseal(line)["format"] for line in path.read_bytes().splitlines(keepends=True)[:1]] == [1]  # type: ignore[index]
        generation = (await store.status())["generation"]
        assert await store.touch(["a"], 60) == await store.touch(["a"], 30) == 1
        assert (await store.status())["generation"] == generation + 1  # type: ignore[operator]
        lines = [unseal(line) for line in path.read_bytes().splitlines(keepends=True)]
        assert [line["format"] for line in lines[:1] if line] == [2]
        assert [[*op] for line in lines[-2:] if line for op in line["ops"]] == [["ns", "id", "version", "touch"]] * 2
        ours, theirs = await store.get("a"), await other.get("a")
        assert ours is not None
        assert theirs is not None
        assert ours.expires_at == theirs.expires_at
        await store.purge("b")
        assert (await other.history("a"))[0].datum == ours


async def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "made" / "deep" / "memory.jsonl"
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await store.put(Datum("a", b"x", 1.0))
            await store.purge("a")
        with path.open("ab") as file:
            file.write(b"torn")
        async with opened(path) as store:
            await store.put(Datum("a", b"x", 1.0))
            assert (await store.status())["torn"] == ["memory.jsonl.torn-1"]
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"memory.jsonl": 0o600, "memory.jsonl.lock": 0o600, "memory.jsonl.torn-1": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


async def test_a_wide_file_warns_and_a_link_is_refused(path: Path) -> None:
    written(path)
    path.chmod(0o644)
    async with opened(path) as store:
        with pytest.warns(PrivacyWarning, match="chmod 600"):
            assert await store.exists("a")
    path.chmod(0o600)
    foreign = path.with_name("foreign.txt")
    foreign.write_text("root:x:0:0:root:/root:/bin/bash\n")
    foreign.chmod(0o644)
    async with opened(foreign) as store:
        with pytest.raises(Corrupt, match="not the header"):  # and no warning, which would be an error
            await store.exists("a")
    link = path.with_name("link.jsonl")
    link.symlink_to(path)
    async with opened(link) as store:
        with pytest.raises(ReadOnly, match="link"):
            await store.put(Datum("b", b"x", 1.0))
        assert await store.is_available() is False
    below = path / "below.jsonl"
    async with opened(below) as store:
        with pytest.raises(ReadOnly):
            await store.get("a")


async def test_another_process_that_keeps_the_lock_is_not_waited_for_without_end(path: Path) -> None:
    async with opened(path, lock_timeout=0.05) as store:
        await store.put(Datum("a", b"x", 1.0))
        with path.with_name("memory.jsonl.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(StorageTimeout):
                await store.put(Datum("b", b"x", 1.0))
            assert await store.exists("a")
        assert (await store.put(Datum("b", b"x", 1.0))).seq == 2


async def test_a_lock_file_that_was_removed_is_made_again(path: Path) -> None:
    async with opened(path) as one, opened(path) as two:
        await one.put(Datum("a", b"x", 1.0))
        path.with_name("memory.jsonl.lock").unlink()
        await asyncio.gather(*(store.put(Datum(f"{n}", b"x", 1.0)) for n in range(20) for store in (one, two)))
        assert await one.count() == await two.count() == 21
