"""The doorbell: it rings after the commit and only then, needs no event loop, and a bad guest harms nobody."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from tests.causal.async_logs import committed, opened

from dgent import CommitEvent, Doorbell, WriterLog
from dgent.causal.log_tables import TABLES
from dgent.settings import Settings
from dgent.sql.sqlite.engine import create_sync_engine

if TYPE_CHECKING:
    from pathlib import Path

EVENT = CommitEvent("conv:demo", "alice", 1, bytes(32))


class Fault(Exception):  # what a test throws is a fault
    pass


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def test_it_tells_every_subscriber_until_each_cancels() -> None:
    bell, heard = Doorbell(), []
    first = bell.subscribe(lambda event: heard.append(("first", event)))
    with bell.subscribe(lambda event: heard.append(("second", event))):
        bell.ring(EVENT)
    bell.ring(EVENT)
    first.cancel()
    first.cancel()
    bell.ring(EVENT)
    assert heard == [("first", EVENT), ("second", EVENT), ("first", EVENT)]


def test_one_callback_can_subscribe_twice_and_cancel_once() -> None:
    bell, heard = Doorbell(), []
    one, _ = bell.subscribe(heard.append), bell.subscribe(heard.append)
    one.cancel()
    bell.ring(EVENT)
    assert heard == [EVENT]


def test_a_subscriber_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bell, heard = Doorbell(), []

    def bad(event: CommitEvent) -> None:
        raise Fault

    bell.subscribe(bad)
    bell.subscribe(heard.append)
    with caplog.at_level(logging.ERROR, "dgent"):
        bell.ring(EVENT)
    assert heard == [EVENT]
    assert "stream='conv:demo', writer='alice', seq=1" in caplog.text


def test_a_subscriber_may_cancel_itself_and_subscribe_others_while_it_rings() -> None:
    bell, heard = Doorbell(), []

    def once(event: CommitEvent) -> None:
        subscription.cancel()
        bell.subscribe(heard.append)

    subscription = bell.subscribe(once)
    bell.ring(EVENT)
    bell.ring(EVENT)
    assert heard == [EVENT], "who subscribed during the first ring heard the second"


def test_any_thread_may_ring() -> None:
    bell, heard = Doorbell(), []
    bell.subscribe(heard.append)

    def ring() -> None:
        for _ in range(200):
            with bell.subscribe(lambda event: None):
                bell.ring(EVENT)

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [EVENT] * 800


def test_an_event_is_a_pointer() -> None:
    assert [field.name for field in fields(CommitEvent)] == ["stream", "writer", "seq", "content_hash"]


def test_a_synchronous_program_rings_it_itself(sqlite_path: Path) -> None:
    engine, bell, heard = create_sync_engine(sqlite_path, Settings.load()), Doorbell(), []
    bell.subscribe(heard.append)
    with engine.begin() as connection:
        TABLES.prepare(connection)
        turn = WriterLog().append(connection, "conv:demo", "alice", b"hello world")
    bell.ring(CommitEvent.of(turn))
    assert heard == [CommitEvent("conv:demo", "alice", 1, turn.content_hash)]
    engine.dispose()


async def test_it_rings_after_the_commit_and_never_after_a_rollback(url: str) -> None:
    async with opened(url) as log:
        seen = []

        def look(event: CommitEvent) -> None:
            found = committed(url, f"SELECT content_hash FROM dgent_log WHERE seq = {event.seq}")  # ours
            seen.append((event.seq, [bytes(row[0]) for row in found] == [event.content_hash]))

        log.doorbell.subscribe(look)
        await log.append("s", "w", b"1")
        await log.append_many("s", "w", [b"2", b"3"])
        with suppress(Fault):
            async with log.database.transaction() as transaction:
                await log.joined(transaction).append("s", "w", b"undone")
                raise Fault
        async with log.database.transaction() as transaction:
            await log.joined(transaction).append("s", "w", b"4")
            assert len(seen) == 3
        assert seen == [(1, True), (2, True), (3, True), (4, True)]


async def test_a_subscriber_that_raises_does_not_undo_an_append(sqlite_path: Path) -> None:
    async with opened(f"sqlite:///{sqlite_path}") as log:

        def bad(event: CommitEvent) -> None:
            raise Fault

        log.doorbell.subscribe(bad)
        assert (await log.append("s", "w", b"1")).seq == 1
        async with log.database.transaction() as transaction:
            await log.joined(transaction).append("s", "w", b"2")
        assert (await log.head("s", "w")).seq == 2
