"""A storage without `await`: from every place that calls it, in blocks, and what would wait for itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from tests.sync.stores import on_a_thread

import dgent.sync
from dgent.datum import Datum
from dgent.exceptions import (
    IntegrityViolation,
    RolledBack,
    StorageTimeout,
    StoreClosed,
    TransactionOpen,
    VersionConflict,
    WrongLoop,
)
from dgent.models.town import Citizen, CitizenConversation, ConversationTurn
from dgent.services import Town
from dgent.sync import SyncStorage
from dgent.testing.contract_base import patience


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return ":memory:"
    return str(tmp_path / "x.db") if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def storage(url: str) -> Iterator[SyncStorage]:
    with dgent.sync.open(url) as storage:
        storage.run_migrations()
        yield storage


def datum(n: int) -> Datum:
    return Datum.create(f"number {n}".encode())


def citizen(name: str) -> Citizen:
    return Citizen(id=name, name=name)


def test_every_place_gets_the_same_answer(storage: SyncStorage) -> None:
    put = storage.memory.put(datum(1))

    async def in_a_loop() -> Datum | None:
        return storage.memory.get(put.id)

    with ThreadPoolExecutor(1) as pool:
        found = [
            storage.memory.get(put.id),
            asyncio.run(in_a_loop()),
            on_a_thread(lambda: storage.memory.get(put.id)),
            pool.submit(storage.memory.get, put.id).result(),
            storage.memory.within(storage.settings.namespace).list()[0],
            storage.resolve("self.data.get", id=put.id),
        ]
    assert found == [put] * 6
    assert storage.status()["schema"] == storage.run_migrations()


def test_many_threads_write_and_read_at_once(storage: SyncStorage) -> None:
    def work(n: int) -> bool:
        put = storage.memory.put(datum(n))
        return storage.memory.get(put.id) == put and storage.memory.exists(put.id)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
    assert storage.memory.count() == 64
    assert sorted(datum.seq for datum in storage.memory.list(limit=100)) == list(range(1, 65))


def test_a_transaction_commits_both_tracks_or_neither(storage: SyncStorage) -> None:
    with storage.transaction() as tx:
        assert isinstance(tx.session, Session)
        tx.session.add(citizen("ada"))
        put = tx.memory.put(datum(1))
        tx.log.append("stream", "writer", b"entry")
        assert tx.generation("g").bump() == 1
        assert tx.table(Citizen).exists("ada")
    with pytest.raises(ZeroDivisionError), storage.transaction() as tx:  # noqa: PT012  # the whole block is what fails
        tx.session.add(citizen("bob"))
        tx.memory.put(datum(2))
        raise ZeroDivisionError
    assert [row["name"] for row in storage.relational.fetch_all("SELECT name FROM citizens")] == ["ada"]
    assert storage.memory.list() == [put]
    assert storage.log.verify("stream", "writer").seq == 1
    assert storage.generation("g").current() == 1


def test_the_session_is_one_of_sqlalchemy(storage: SyncStorage) -> None:
    with storage.transaction() as tx:
        talk = CitizenConversation(id="c", citizen=citizen("ada"), citizen_name="ada")
        turns = [ConversationTurn(id=f"t{n}", turn_number=n, role="user", content=f"{n}") for n in range(300)]
        talk.turns.extend(turns)
        tx.session.add(talk)
        tx.session.commit()  # flushes: the block commits
        tx.session.expunge_all()
        again = tx.session.get_one(CitizenConversation, "c")
        assert len(again.turns) == 300  # loaded when it is asked for
        stream = tx.session.scalars(select(ConversationTurn).execution_options(yield_per=20))
        assert sum(1 for _ in stream) == 300
        with pytest.raises(ZeroDivisionError), tx.session.begin_nested():  # noqa: PT012  # the whole block is what fails
            tx.session.add(citizen("bob"))
            tx.session.flush()
            raise ZeroDivisionError
        assert tx.session.scalars(select(Citizen.name)).all() == ["ada"]
        tx.session.connection().exec_driver_sql("UPDATE citizens SET archetype = 'builder'")
    assert storage.table(Citizen).get("ada") is not None
    with pytest.raises(IntegrityViolation), storage.transaction() as tx:  # noqa: PT012  # the whole block is what fails
        tx.session.add(citizen("ada"))
        tx.session.flush()


def test_a_session_and_memory_see_each_other(storage: SyncStorage) -> None:
    count = text("SELECT count(*) FROM dgent_datums")
    with storage.transaction() as tx:
        before = tx.session.execute(count).scalar_one()
        tx.memory.put(datum(1))
        assert tx.session.execute(count).scalar_one() == before + 1
        tx.session.add(citizen("ada"))
        assert tx.table(Citizen).exists("ada")  # flushed before


def test_a_block_within_a_block_is_a_savepoint(storage: SyncStorage) -> None:
    with storage.transaction() as outer:
        outer.memory.put(datum(1))
        with pytest.raises(ZeroDivisionError), storage.transaction() as inner:  # noqa: PT012  # the whole block is what fails
            inner.memory.put(datum(2))
            inner.session.add(citizen("ada"))
            raise ZeroDivisionError
        with storage.transaction() as inner:
            inner.memory.put(datum(3))
        assert outer.memory.count() == 2
    assert storage.memory.count() == 2
    assert not storage.table(Citizen).exists("ada")


def test_what_was_rolled_back_inside_is_not_committed(storage: SyncStorage) -> None:
    with pytest.raises(RolledBack), storage.transaction() as tx:  # noqa: PT012  # the whole block is what fails
        tx.session.add(citizen("ada"))
        tx.session.flush()
        tx.session.rollback()
    assert not storage.table(Citizen).exists("ada")


def test_a_verb_takes_part_in_the_block_of_its_own_thread(storage: SyncStorage) -> None:
    with suppress(ZeroDivisionError), storage.transaction() as tx:
        tx.memory.put(datum(1))
        storage.memory.put(datum(2))
        assert storage.memory.count() == tx.memory.count() == 2
        raise ZeroDivisionError
    assert storage.memory.count() == 0
    with storage.transaction(), pytest.raises(TransactionOpen):
        storage.close()


def test_what_takes_part_after_the_block_is_refused(storage: SyncStorage) -> None:
    with storage.transaction() as tx:
        memory, session = tx.memory, tx.session
        session.execute(text("SELECT 1"))
    with pytest.raises(StoreClosed):
        memory.put(datum(1))
    with pytest.raises(StoreClosed):
        on_a_thread(memory.count)
    assert storage.memory.put(datum(2)).version == 1


def test_another_thread_may_use_a_block_without_its_session(storage: SyncStorage) -> None:
    with storage.transaction() as tx:
        on_a_thread(lambda: tx.memory.put(datum(1)))
        with pytest.raises(TransactionOpen):
            on_a_thread(lambda: tx.session)
        tx.session.add(citizen("ada"))
        with pytest.raises(TransactionOpen):
            on_a_thread(lambda: tx.memory.put(datum(2)))
        context = contextvars.copy_context()
        with pytest.raises(TransactionOpen):  # as from a task that was made inside of the block
            on_a_thread(lambda: context.run(storage.memory.put, datum(3)))
        with pytest.raises(TransactionOpen):
            on_a_thread(lambda: context.run(storage.transaction().__enter__))
    assert storage.memory.count() == 1


def test_threads_take_turns_with_their_blocks(storage: SyncStorage) -> None:
    counter = storage.memory.put(Datum("counter", b"0", 1.0))

    def add(_: int) -> None:
        with suppress(VersionConflict), storage.transaction() as tx:  # a server lets others in between
            found = tx.memory.get(counter.id)
            assert found is not None
            tx.memory.put(found.replace(content=str(int(found.text) + 1).encode()), expect=found.version)
            return
        add(_)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(20)))
    found = storage.memory.get(counter.id)
    assert found is not None
    assert found.text == "20"


@pytest.mark.parametrize("has_session", [False, True])
def test_a_block_that_takes_too_long_is_undone(tmp_path: Path, has_session: bool) -> None:
    with dgent.sync.open(tmp_path / "x.db", transaction_timeout=0.1) as storage:
        storage.run_migrations()
        with pytest.raises(StorageTimeout), storage.transaction() as tx:  # noqa: PT012  # the whole block is what fails
            tx.memory.put(datum(1))
            if has_session:
                tx.session.add(citizen("ada"))
                tx.session.flush()
            threading.Event().wait(0.5)
            if has_session:
                tx.session.execute(text("SELECT 1"))
        with pytest.raises(StorageTimeout), storage.transaction() as tx:  # noqa: PT012  # the whole block is what fails
            tx.memory.put(datum(2))
            threading.Event().wait(0.5)
        assert storage.memory.count() == 0
        assert storage.memory.put(datum(3)).seq == 1


def test_a_callback_that_calls_back_is_told(storage: SyncStorage) -> None:
    heard: list[Any] = []
    done = threading.Event()

    def on_event(_: object) -> None:
        for call in (storage.memory.count, lambda: storage.transaction().__enter__(), storage.close):
            try:
                call()
            except WrongLoop as error:
                heard.append(error)
        done.set()

    with storage.bus.subscribe(on_event):
        storage.memory.put(datum(1))
        assert done.wait(patience(10))
    assert len(heard) == 3
    assert storage.memory.count() == 1


def test_a_callback_in_the_midst_of_a_call_is_told(tmp_path: Path) -> None:
    heard: list[type[BaseException]] = []
    with dgent.sync.open(tmp_path / "x.db") as storage:

        def on_commit(_: object) -> None:
            with pytest.raises(WrongLoop) as caught:
                storage.log.head("a", "b")
            heard.append(caught.type)

        storage.doorbell.subscribe(on_commit)
        storage.log.append("a", "b", b"c")
    assert heard == [WrongLoop]


def test_what_comes_one_by_one_is_iterated(storage: SyncStorage) -> None:
    storage.log.append("s", "w", b"1")
    entries = storage.log.follow("s", after=None)
    with storage.bus.listen(kinds=["put"]) as events:
        put = storage.memory.put(datum(1))
        assert next(iter(events)).id == put.id
    storage.log.append("s", "w", b"2")
    assert next(entries).payload in {b"1", b"2"}
    entries.close()


def test_crystals_and_tables_are_there(storage: SyncStorage) -> None:
    assert Citizen in {table.model for table in storage.tables}
    assert list(storage.universe.query(dgent.Query())) == []
    assert storage.universe.backend() is not None


def test_what_takes_the_asynchronous_storage_can_be_run(storage: SyncStorage) -> None:
    ada = storage.run(lambda here: Town(here).citizen("Ada"))
    with pytest.raises(ZeroDivisionError), storage.transaction():  # noqa: PT012  # the whole block is what fails
        storage.run(lambda here: Town(here).citizen("Bob"))  # it takes part
        raise ZeroDivisionError
    assert [row.data["name"] for row in storage.table(Citizen).list()] == ["Ada"]
    assert storage.memory.exists(ada.id)


def test_close_is_for_good(url: str) -> None:
    storage = dgent.sync.open(url)
    memory = storage.memory
    storage.close()
    storage.close()
    assert not memory.is_available()
    for call in (memory.count, storage.transaction, storage.status):
        with pytest.raises(StoreClosed, match="open it again"):
            call()
