"""A log that went back, as after an old backup was put in place, is noticed by whoever has seen more of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete
from tests.causal.async_logs import HANG, opened, until

from dgent.causal import AsyncLog, Checkpoint, Entry, Head, keys
from dgent.causal.hash_chain import FORMATS
from dgent.causal.writer_log import WriterLog
from dgent.exceptions import ChainBroken, InvalidCheckpoint, InvalidQuery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=list(FORMATS))
async def log(url: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncLog]:
    async with opened(url, look_every=0.05) as log:
        yield log.within(request.param)


async def restored(log: AsyncLog, writer: str, to: int) -> None:
    """Put the log back to where it was after so many entries, as an old backup does."""
    table = log._log.format.table
    where = (table.c.stream == "s", table.c.writer == writer, table.c.seq > to)
    await log.database.write(lambda connection: connection.execute(delete(table).where(*where)) and None)


async def appended(log: AsyncLog, writer: str, first: int, last: int, mark: bytes = b"") -> list[Entry]:
    return await log.append_many("s", writer, [b"%d%b" % (n, mark) for n in range(first, last + 1)])


async def drained(source: Any) -> None:
    async with asyncio.timeout(HANG), aclosing(source):
        async for entry in source:
            assert entry.payload.isdigit(), "an entry of the other branch was given"


async def broken(source: Any) -> ChainBroken:
    """Follow until it ends, which must be because the log is another than it was."""
    with pytest.raises(ChainBroken) as caught:
        await drained(source)
    return caught.value


@pytest.mark.parametrize("merged", [False, True])
async def test_entries_on_top_of_an_old_backup_are_never_the_next(log: AsyncLog, merged: bool) -> None:
    """A follower at 100, 50 put back, 60 new ones: it gave 101 to 110, and the fifty before were never seen."""
    seen = {each.writer: each.head for each in await appended(log, "w", 1, 100)}
    await appended(log, "other", 1, 3)
    named: dict[str, Any] = {} if merged else {"writer": "w"}
    after: Any = {**seen, "other": 3} if merged else seen["w"]
    await restored(log, "w", 50)
    await appended(log, "w", 51, 110, b"'")
    error = await broken(log.follow("s", after=after, **named))
    assert (error.stream, error.writer, error.seq) == ("s", "w", 101)


@pytest.mark.parametrize("last", [0, 1, 50, 99])
@pytest.mark.parametrize("merged", [False, True])
async def test_a_head_below_the_position_is_broken(log: AsyncLog, merged: bool, last: int) -> None:
    entries = await appended(log, "w", 1, 100)
    await restored(log, "w", last)
    for after in ({"w": entries[-1].head}, {"w": 100}):
        error = await broken(log.follow("s", after=after, **({} if merged else {"writer": "w"})))
        assert (error.writer, error.seq) == ("w", last + 1)


async def test_another_entry_at_the_position_is_broken(log: AsyncLog) -> None:
    entries = await appended(log, "w", 1, 10)
    await restored(log, "w", 5)
    await appended(log, "w", 6, 10, b"'")
    for named in ({}, {"writer": "w"}):
        assert (await broken(log.follow("s", after={"w": entries[-1].head}, **named))).seq == 10


@pytest.mark.parametrize("merged", [False, True])
async def test_a_follower_that_waits_notices(log: AsyncLog, merged: bool) -> None:
    seen: list[Entry] = []

    async def follow() -> None:
        async for entry in log.follow("s", **({} if merged else {"writer": "w"})):
            seen.append(entry)  # noqa: PERF401  # it is looked at while it grows

    await appended(log, "w", 1, 8)
    following = asyncio.create_task(follow())
    await until(lambda: len(seen) == 8)
    await restored(log, "w", 4)
    await log.append("s", "x", b"1")  # whatever wakes it
    if not merged:
        await appended(log, "w", 5, 5, b"'")
    with pytest.raises(ChainBroken) as caught:
        await asyncio.wait_for(following, HANG)
    assert caught.value.writer == "w"
    assert 5 <= caught.value.seq <= 6
    assert {entry.payload for entry in seen if entry.writer == "w"} == {b"%d" % n for n in range(1, 9)}


async def test_a_position_without_a_hash_goes_on(log: AsyncLog) -> None:
    """Positions that were kept before they had one: what was exchanged before that is not seen, what comes is."""
    entries = await appended(log, "w", 1, 10)
    source = log.follow("s", writer="w", after=7)
    async with aclosing(source):
        assert [(await anext(source)).seq for _ in range(3)] == [8, 9, 10]
    assert Head.parse(str(entries[6].head)) == entries[6].head
    with pytest.raises(InvalidQuery):
        Head.parse("7:xyz")
    for bad in ((7,), (7, b"x"), "7", -1, (True, bytes(32)), (0, bytes(32))):
        with pytest.raises(InvalidQuery):
            log.follow("s", writer="w", after=bad)  # type: ignore[arg-type]


async def test_reading_on_from_a_head_compares_it(log: AsyncLog) -> None:
    entries = await appended(log, "w", 1, 10)
    assert [each.seq for each in await log.entries("s", "w", after=entries[6].head)] == [8, 9, 10]
    assert [each.seq for each in await log.merged("s", after={"w": entries[6].head})] == [8, 9, 10]
    assert await log.entries("s", "w", after=entries[-1].head) == []
    await restored(log, "w", 5)
    for _ in range(2):
        for read in (log.entries("s", "w", after=entries[6].head), log.merged("s", after={"w": entries[6].head})):
            with pytest.raises(ChainBroken):
                await read
        await appended(log, "w", 6, 12, b"'")


async def test_verification_since_a_head_sees_that_it_is_gone(log: AsyncLog) -> None:
    """Since a head that was good, an end below it was "intact" up to there."""
    entries = await appended(log, "w", 1, 10)
    own = WriterLog(FORMATS[log.format])
    await restored(log, "w", 5)
    for expected in (6, 8):
        with pytest.raises(ChainBroken) as caught:
            await log.database.read(lambda c: own.verify(c, "s", "w", since=entries[7].head))
        assert caught.value.seq == expected
        await appended(log, "w", 6, 12, b"'")


@pytest.mark.parametrize("how", ["cut", "forked"])
async def test_nothing_is_signed_that_contradicts_what_was_signed(log: AsyncLog, tmp_path: Path, how: str) -> None:
    """The database forgot with the log what it had signed; the checkpoint that was exported did not."""
    key = keys.generate(tmp_path / "ada.key")
    writer = str(key.fingerprint)
    await log.append_many("s", writer, [b"%d" % n for n in range(10)])
    first = await log.sign("s", writer, key)
    await log.append_many("s", writer, [b"more"] * 5)
    second = Checkpoint.from_json((await log.sign("s", writer, key)).to_json())
    await restored(log, writer, 12)
    await log.database.write(lambda connection: _forget(connection, second))
    if how == "forked":
        await log.append_many("s", writer, [b"other"] * 5)
    for named in ({"against": second}, {"against": second, "since": first}, {"since": second}):
        given: Any = named
        with pytest.raises(ChainBroken) as caught:
            await log.sign("s", writer, key, **given)
        assert caught.value.seq == (13 if how == "cut" else 15)
    assert await log.latest("s", writer) == first
    assert (await log.sign("s", writer, key, against=first)).seq == (12 if how == "cut" else 17)


async def test_a_checkpoint_of_another_log_is_no_ground_to_sign(log: AsyncLog, tmp_path: Path) -> None:
    key = keys.generate(tmp_path / "ada.key")
    writer = str(key.fingerprint)
    for stream in "st":
        await log.append_many(stream, writer, [b"1", b"2"])
    other = await log.sign("t", writer, key)
    with pytest.raises(InvalidCheckpoint, match="another log"):
        await log.sign("s", writer, key, against=other)


def _forget(connection: Any, checkpoint: Checkpoint) -> None:
    from dgent.causal.log_tables import checkpoints

    connection.execute(delete(checkpoints).where(checkpoints.c.seq == checkpoint.seq))
