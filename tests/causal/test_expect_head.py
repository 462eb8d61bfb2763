"""An append that expects where the log ends: of many at once one is in, and the others are told where it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.causal.async_logs import opened

from dgent import StorageProvider
from dgent.causal import Head
from dgent.causal.head import START
from dgent.causal.writer_log import Batch, WriterLog
from dgent.exceptions import HeadConflict, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from dgent.causal.hash_chain import Format


CALLERS = 8


def _url(place: str) -> str:
    return place if "://" in place else f"sqlite:///{place}"


def test_it_is_in_only_behind_the_head_that_was_expected(engine: Engine, format: Format) -> None:
    """Mutants: the seq alone is compared where a hash was given; an empty batch compares nothing."""
    log = WriterLog(format)
    with engine.begin() as connection:
        log.append(connection, "s", "w", b"1", expect_head=0)
        first = log.head(connection, "s", "w")
        for wrong in (0, START, 2, Head(1, bytes(32)), Head(2, first.hash)):
            for payloads in ([b"x"], []):
                with pytest.raises(HeadConflict) as caught:
                    log.append_many(connection, "s", "w", payloads, expect_head=wrong)
                assert (caught.value.stream, caught.value.writer, caught.value.actual) == ("s", "w", first)
        assert log.append_many(connection, "s", "w", [], expect_head=first) == []
        two = log.append_many(connection, "s", "w", [b"2", b"3"], expect_head=first)
        assert log.append(connection, "s", "w", b"4", expect_head=two[-1].seq).seq == 4
        assert log.append(connection, "s", "other", b"1", expect_head=START).seq == 1
        assert log.verify(connection, "s", "w").seq == 4


async def test_of_many_that_expect_one_head_one_is_in(place: str, engine: Engine) -> None:
    async with opened(_url(place)) as log:
        for seq in range(3):
            head = await log.head("s", "w")
            asked = [log.append("s", "w", b"%d" % n, expect_head=head) for n in range(CALLERS)]
            answers = await asyncio.gather(*asked, log.append("t", "w", b"x"), return_exceptions=True)
            won = [one for one in answers[:-1] if not isinstance(one, BaseException)]
            assert [one.seq for one in won] == [seq + 1]
            assert all(isinstance(one, HeadConflict) for one in answers[:-1] if one not in won)
            assert not isinstance(answers[-1], BaseException)
        many = [b"x"] * 100
        with pytest.raises(HeadConflict, match="ends at 3"):
            await log.append_many("s", "w", many, expect_head=2)
        assert len(await log.append_many("s", "w", many, expect_head=3)) == 100
        bad: Any
        for bad in (-1, "1", (1, b"short")):
            with pytest.raises(InvalidInput, match="expect_head"):
                await log.append("s", "w", b"x", expect_head=bad)


async def test_one_that_is_refused_undoes_nothing_of_its_transaction_but_itself(tmp_path: Path) -> None:
    async with await StorageProvider.from_config(data_dir=tmp_path) as storage:
        await storage.run_migrations()
        async with storage.transaction() as tx:
            first = await tx.log.append("s", "w", b"1", expect_head=0)
            with pytest.raises(HeadConflict):
                await tx.log.append("s", "w", b"2", expect_head=0)
            await tx.log.append("s", "w", b"2", expect_head=Head(first.seq, first.content_hash))
        assert [entry.payload for entry in await storage.log.entries("s", "w")] == [b"1", b"2"]


def test_those_that_wait_together_are_answered_each_for_itself(engine: Engine, format: Format) -> None:

    asked = [
        Batch("s", "w", [b"1"]),
        Batch("s", "w", [b"2"], 0),
        Batch("s", "w", [b"3"], 1),
        Batch("s", "w", [b"4", b"5"]),
    ]
    with engine.begin() as connection:
        answers = WriterLog(format).append_each(connection, asked)
    found = [[entry.seq for entry in each] if isinstance(each, list) else type(each) for each in answers]
    assert found == [[1], HeadConflict, [2], [3, 4]]
