"""Transactions against a model: drawn blocks of writes to both tracks; savepoints, errors, cancellation and outages.

The memory lies in the same database, or elsewhere, where its writes wait until they are delivered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select

from dgent.bridge import unit_of_work
from dgent.bridge.outbox import Outbox
from dgent.datum import Datum
from dgent.exceptions import BackendUnavailable, CausalCycle, DgentError, IntegrityViolation, VersionConflict
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.models import Crystal
from dgent.testing.contract_base import examples, fresh
from dgent.testing.manual_clock import ManualClock
from dgent.testing.reference_model import ReferenceModel

from .conftest import opened

if TYPE_CHECKING:
    from dgent.bridge import UnitOfWork
    from dgent.sql import Database

IDS = ("a", "b", "c")


class Fault(Exception):
    pass


class Put(NamedTuple):
    id: str
    n: int
    parent: str | None = None
    stale: bool = False  # expects a version that is not live
    joined: bool = True  # through the transaction, or by the store, which takes part in it


class Delete(NamedTuple):
    id: str
    joined: bool = True


class Row(NamedTuple):
    id: str
    n: int
    twice: bool = False  # violates the key, as a second row of that id


class Savepoint(NamedTuple):
    actions: list[Any]
    fails: bool


class Block(NamedTuple):
    """One transaction: what it does, and how it ends."""

    actions: list[Any]
    end: Literal["commit", "error", "cancel"]


class Outside(NamedTuple):
    """A put beside every transaction."""

    id: str
    n: int


class Reach(NamedTuple):
    """The memory elsewhere goes away, or is back and gets what waits for it."""

    up: bool


Step: TypeAlias = Block | Outside | Reach

_id, _n = st.sampled_from(IDS), st.integers(0, 3)
_write = st.one_of(
    st.builds(Put, _id, _n, st.none() | _id, st.sampled_from([False, False, False, True]), st.booleans()),
    st.builds(Delete, _id, st.booleans()),
    st.builds(Row, _id, _n, st.sampled_from([False, False, True])),
)
_actions = st.lists(_write | st.builds(Savepoint, st.lists(_write, max_size=3), st.booleans()), max_size=5)
_block = st.builds(Block, _actions, st.sampled_from(["commit", "commit", "error", "cancel"]))
STEPS = st.lists(st.one_of(_block, _block, st.builds(Outside, _id, _n), st.builds(Reach, st.booleans())), max_size=8)


class Elsewhere(MemoryBackend):
    """A memory in another place, which may be out of reach for writes."""

    down = False

    async def put(self, *args: Any, **named: Any) -> Datum:
        self._answer()
        return await super().put(*args, **named)

    async def put_many(self, *args: Any, **named: Any) -> list[Datum]:
        self._answer()
        return await super().put_many(*args, **named)

    async def delete(self, *args: Any, **named: Any) -> bool:
        self._answer()
        return await super().delete(*args, **named)

    def _answer(self) -> None:
        if self.down:
            raise BackendUnavailable("elsewhere does not answer")


class State(NamedTuple):
    """What both tracks hold."""

    rows: dict[str, int]
    memory: ReferenceModel

    def copy(self) -> State:
        memory = copy(self.memory)
        memory.log = self.memory.log[:]
        return State(dict(self.rows), memory)


class Machine:
    def __init__(self, database: Database, memory: SqlBackend | Elsewhere) -> None:
        self.database, self.memory = database, memory
        self.state = State({}, ReferenceModel(ManualClock()))
        self.namespace = memory.namespace

    async def take(self, step: Step) -> None:
        match step:
            case Block():
                await self._transaction(step)
            case Outside() if not self._down:
                await self.memory.put(datum(step.id, step.n))
                self.state.memory.put(datum(step.id, step.n))
            case Reach() if isinstance(self.memory, Elsewhere):
                self.memory.down = not step.up
                if step.up:
                    await Outbox(self.database, self.memory).reconcile()
        await self.compare()

    async def compare(self) -> None:
        """Hold both tracks against the model; memory only where everything that was committed can have got there."""
        async with self.database.transaction() as transaction:
            held = await transaction.session.execute(select(Crystal.id, Crystal.summary))
            rows = {id: int(summary) for id, summary in held}
        assert rows == self.state.rows
        if not self._down:
            assert {one.id: one for one in await self.memory.list()} == self.state.memory.live

    @property
    def _down(self) -> bool:
        return isinstance(self.memory, Elsewhere) and self.memory.down

    async def _transaction(self, block: Block) -> None:
        before = self.state.copy()
        task = asyncio.create_task(self._run(block))
        with suppress(Fault, asyncio.CancelledError):
            await task
        if block.end != "commit":
            self.state = before

    async def _run(self, block: Block) -> None:
        async with unit_of_work(self.database, self.memory) as tx:
            for action in block.actions:
                await self._act(tx, action)
            if block.end == "error":
                raise Fault
            if block.end == "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)

    async def _act(self, tx: UnitOfWork, action: Any) -> None:
        match action:
            case Savepoint():
                await self._savepoint(action)
            case Row():
                await self._row(tx, action)
            case _:
                await self._write(tx, action)

    async def _savepoint(self, savepoint: Savepoint) -> None:
        before = self.state.copy()
        with suppress(Fault):
            async with unit_of_work(self.database, self.memory) as inner:
                for action in savepoint.actions:
                    await self._act(inner, action)
                if savepoint.fails:
                    raise Fault
        if savepoint.fails:
            self.state = before

    async def _row(self, tx: UnitOfWork, row: Row) -> None:
        if row.twice:
            if row.id in self.state.rows:
                with pytest.raises(IntegrityViolation):
                    await self._insert(row)
            return
        found = await tx.session.get(Crystal, row.id)
        if found is None:
            tx.session.add(crystal(row))
        else:
            found.summary = str(row.n)
        await tx.session.flush()
        self.state.rows[row.id] = row.n

    async def _insert(self, row: Row) -> None:
        async with unit_of_work(self.database, self.memory) as inner:
            inner.session.expunge_all()
            inner.session.add(crystal(row))

    async def _write(self, tx: UnitOfWork, action: Put | Delete) -> None:
        """Write to the memory inside of the transaction, where it answers as the model does, and at once."""
        here = isinstance(self.memory, SqlBackend)
        memory = tx.memory if action.joined or not here else self.memory
        given, wanted = await answer(memory, action, here), await answer(self.state.memory, action, here)
        assert given == wanted, f"{action}: {given} is not {wanted}"
        for one in [tx.memory, self.memory] if here else [tx.memory]:
            assert await one.get(action.id) == self.state.memory.get(action.id)
            assert await one.count() == len(self.state.memory.live)


def crystal(row: Row) -> Crystal:
    return Crystal(id=row.id, content_hash="h", summary=str(row.n))


def datum(id: str, n: int, parent: str | None = None) -> Datum:
    return Datum(id, b"%d" % n, 1.0, parent)


async def answer(memory: Any, action: Put | Delete, expects: bool) -> Any:
    """Return what a memory or the model says to a write: the datum, whether it was there, or the kind of the error."""
    named: dict[str, Any] = {}
    if isinstance(action, Put) and action.stale and expects:
        named["expect"] = 77
    subject = datum(*action[:3]) if isinstance(action, Put) else action.id
    try:
        found = getattr(memory, "put" if isinstance(action, Put) else "delete")(subject, **named)
        return found if isinstance(memory, ReferenceModel) else await found
    except (CausalCycle, VersionConflict) as error:
        return type(error)
    except DgentError as error:
        raise AssertionError(f"{action}: {error!r}") from error


CYCLE = [Put("a", 0), Put("b", 0, "a"), Delete("a"), Put("a", 0, "b")]
ABSENT = [Put("a", 0, "b"), Put("b", 0, "a")]


@examples(2)
@given(steps=STEPS)
@example(steps=[Block(CYCLE, "commit")])
@example(steps=[Block(ABSENT, "commit")])
@example(steps=[Block(ABSENT[:1], "commit"), Block(ABSENT[1:], "commit")])
async def test_l_p2_transactions_in_one_database_answer_as_the_model(url: str, steps: list[Step]) -> None:
    async with opened(url) as database:
        await run(Machine(database, SqlBackend(database, fresh())), steps)


@examples(2)
@given(steps=STEPS)
@example(steps=[Block(CYCLE, "commit")])
@example(steps=[Block(ABSENT, "commit")])
@example(steps=[Block(ABSENT[:1], "commit"), Block(ABSENT[1:], "commit")])
async def test_l_p2_transactions_with_memory_elsewhere_answer_as_the_model(url: str, steps: list[Step]) -> None:
    async with opened(url) as database:
        await run(Machine(database, Elsewhere(fresh())), steps)


async def run(machine: Machine, steps: list[Step]) -> None:
    async with unit_of_work(machine.database, machine.memory) as tx:
        for row in await tx.session.scalars(select(Crystal)):
            await tx.session.delete(row)
    for step in steps:
        await machine.take(step)
    await machine.take(Reach(up=True))
