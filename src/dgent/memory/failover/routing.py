"""Where the reads and writes of one namespace go: to the first store of a chain, or to what stands for it meanwhile."""

# The states are those of `state.py`. A verb runs in its caller's task; nothing here is held over an await.
#
# a verb   normal           cut off, started late                                   delivering
# read     asks the first   cut off: refused; started late: asks the view           brings its ids in or waits for
#                                                                                   all, then asks the first
# write    asks the first   waits in a queue; refused, if it needs the live datum   the same, then asks the first
# purge    asks the first   refused                                                 waits for all, then asks the first
# erase    the queues, then waits in the queues, where it takes effect at once      the same
#          the first
#
# In the task of an open transaction all of them ask the first, as part of that, whatever the state: what may be undone
# waits in no queue, and is not remembered as acknowledged. An erasure is refused there, unless the chain has no queues.
#
# Whoever looks at the state again has suspended since (`sleep`): no verb spins, whatever the state.
#
# What a cancel does: of a write to the first, it may be in; `_doubt` remembers that it is nobody else's. Of a write
# that is put into a queue, it may wait there all the same. While it waits for a delivery: the delivery goes on. While
# it brings ids in: that is broken off where it stands, and what is left is looked at again by its plans.

from __future__ import annotations

from asyncio import CancelledError, sleep
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.datum import stamped
from dgent.delivery import erase_in
from dgent.erasure_request import Erased
from dgent.exceptions import (
    BackendUnavailable,
    DeliveryPending,
    OutcomeUnknown,
    StorageError,
    StorageTimeout,
    TransactionOpen,
)
from dgent.memory.write_batch import check_acyclic_within, check_names
from dgent.operations import Delete, Outcome, Put
from dgent.sql import database_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from dgent.datum import Datum
    from dgent.erasure_request import Erasure
    from dgent.limits import Limits
    from dgent.memory.failover.state import FailoverState
    from dgent.operations import Operation
    from dgent.sql import Database
    from dgent.store import Backend, Outcomes

T = TypeVar("T")
FEW: Final = 64
"""For more ids than this a verb waits until nothing waits any more, rather than ask for each."""


class NamespaceRouting:
    """One namespace of a router.

    Attributes:
        first: the first store of the chain, under this namespace.
    """

    def __init__(self, failover: FailoverState, namespace: str, limits: Limits, database: Database | None) -> None:
        self.first = failover.first.within(namespace)
        self._database = database or database_of(self.first)
        self._failover, self._namespace, self._limits = failover, namespace, limits
        self._observed = failover.observed.of(namespace)

    async def write(self, operations: Sequence[Operation]) -> Outcomes:
        """Apply a batch to the first store, or let it wait where that is possible.

        Raises:
            StorageError: as `DgentRouter` says.
        """
        joined = self._joined()
        return await (self._write(operations) if joined is None else joined.apply(operations))

    async def _write(self, operations: Sequence[Operation]) -> Outcomes:
        # By the time of a delivery the live datum may have changed, or expired.
        chain, needs_live = self._failover, any(one.needs_live for one in operations)
        while True:
            if not chain.normal:
                waiting = await self._put_off(operations, needs_live=needs_live)
                if waiting is not None:
                    return waiting
            try:
                if not chain.normal and not await self._brought(None if needs_live else _ids(operations)):
                    await sleep(0)
                    continue
                if self._observed.is_new:
                    await self._look_first()
                outcomes = await self.first.apply(operations)
            except DeliveryPending:
                raise
            except (OutcomeUnknown, CancelledError):
                self._doubt(operations)
                raise
            except (BackendUnavailable, StorageTimeout) as error:
                if not await chain.take_over(error, spill=chain.policy.spill and not needs_live):
                    raise
                continue
            self._wrote(outcomes)
            return outcomes

    async def read(self, ids: Sequence[str] | None, ask: Callable[[Backend], Awaitable[T]]) -> T:
        """Ask a store for what concerns some ids, or None for more than that: the first, or what stands for it."""
        if (joined := self._joined()) is not None:
            return await ask(joined)
        chain = self._failover
        while not chain.normal:
            if not chain.opened:
                await chain.open()
            elif chain.away:
                return await ask(await chain.view(self._namespace))
            elif await self._brought(ids):
                break
            await sleep(0)
        if self._observed.is_new:
            await self._look_first()
        try:
            answer = await ask(self.first)
        except BackendUnavailable as error:
            chain.lost(error)
            raise
        chain.heard = time()
        if chain.down:
            chain.answered()
        return answer

    async def erase(self, asked: Erasure, *, vacuum: bool) -> Erased:
        """Erase in the first store and what waits for it, or let that wait.

        Raises:
            BackendUnavailable: a store is out of reach in which something may wait.
            TransactionOpen: a transaction is open here, with which what waits in a queue could not be undone.
        """
        chain, waiting = self._failover, Erased()
        if (joined := self._joined()) is not None:
            if len(chain.backends) > 1:
                raise TransactionOpen(
                    "a transaction is open here, with which an erasure of what waits for this memory could not be "
                    "undone: await it after the block"
                )
            return await erase_in(joined, asked, vacuum=vacuum)
        while not chain.normal:
            if not chain.opened:
                await chain.open()
            elif not chain.away:
                await chain.settled()
            else:
                waiting += Erased(queued=await chain.replay.append_erasure(self._namespace, asked))
                if chain.away:  # else whoever delivers may have been there before it
                    chain.nudge()
                    return replace(waiting, pending=chain.first.name)
            await sleep(0)
        waiting += await chain.replay.erase_now(self._namespace, asked)
        return waiting + await self.read(None, lambda store: erase_in(store, asked, vacuum=vacuum))

    def saw(self, datums: Iterable[Datum]) -> None:
        """Remember the seq of what an answer showed; not in a transaction, with which it may be undone."""
        if self._joined() is not None:
            return
        self._observed.note(max([datum.seq for datum in datums], default=0))
        if self._failover.observed.unknown:
            for datum in datums:
                self._failover.observed.settle(self._namespace, datum.id)

    def _joined(self) -> Backend | None:
        """Return the first store, where it is part of a transaction that the calling task has open.

        Raises:
            TransactionOpen: another task has it open, or the store lies elsewhere.
        """
        if self._database is None or self._database.runner() is self._database:
            return None
        if database_of(self.first) is not self._database:
            raise TransactionOpen(
                f"a transaction of {self._database.what} is open here, and this memory lies elsewhere: use tx.memory, "
                "whose writes are delivered after the commit, or await this after the block"
            )
        return self.first

    async def refuse_while_away(self, verb: str) -> None:
        """Refuse to erase what is elsewhere, or to tell its seqs: those of what stands for it are others."""
        if self._joined() is not None:
            return
        if not self._failover.opened:
            await self._failover.open()
        if self._failover.away:
            raise self._failover.refusal(f"{verb} needs it")

    async def _brought(self, ids: Sequence[str] | None) -> bool:
        """While writes are on their way: bring in those of some ids, or wait for all; tell whether some were asked for.

        Raises:
            StorageError: the first store failed.
            DeliveryPending: all of them take too long.
        """
        if ids is None or len(ids) > FEW:
            await self._failover.settled()
            return False
        try:
            await self._failover.bring(self._namespace, ids)
        except BackendUnavailable as error:
            self._failover.lost(error)
            raise
        return True

    async def _put_off(self, operations: Sequence[Operation], *, needs_live: bool) -> Outcomes | None:
        """While the first is out of reach, let writes wait and return what they answer; None where it is not."""
        chain = self._failover
        while not chain.normal:
            if not chain.opened:
                await chain.open()
            elif not chain.away:
                break
            elif needs_live:
                raise chain.refusal("only it can compare versions, keep a time to live and purge")
            else:
                await self._admit(operations)
                if await chain.keep(self._namespace, operations):
                    return [_waiting(one) for one in operations]
            await sleep(0)
        return None

    async def _admit(self, operations: Sequence[Operation]) -> None:
        """Check writes as the store that they wait for would, as far as that can be told without it."""
        check_acyclic_within(operations)
        for one in operations:
            if one.datum is not None:
                self._limits.admit(one.datum)
                check_names(self._namespace, one.datum)
        has_parent = any(one.datum is not None and one.datum.causal_parent is not None for one in operations)
        if has_parent and self._failover.state == "started late":  # what waits already may have it below
            (await self._failover.view(self._namespace)).check(operations)

    def _wrote(self, outcomes: Outcomes) -> None:
        """Take note that writes were acknowledged; a version up to its seq is nobody else's."""
        chain = self._failover
        chain.heard = time()
        self._observed.note(max([outcome.seq for outcome in outcomes], default=0))
        self.saw([outcome.datum for outcome in outcomes if outcome.datum is not None])
        if chain.down:
            chain.answered()
        if not chain.filled:
            chain.fill()

    def _doubt(self, operations: Iterable[Operation]) -> None:
        """Remember writes the answer to which was lost: they may be in, and are nobody else's."""
        for one in operations:
            if isinstance(one, Put | Delete):  # the others append nothing
                self._failover.observed.doubt(self._namespace, one.id, one.datum)

    async def _look_first(self) -> None:
        """Look where the namespace stands when it is first used, if a write may have to wait one day."""
        seen = self._observed
        seen.is_new = False
        if self._failover.policy.spill and self.first.capabilities.history:
            try:
                seen.note(await self.first.head())
            except BaseException as error:
                seen.is_new = True
                if not isinstance(error, StorageError):  # that the verb itself meets, or not
                    raise


def _ids(operations: Iterable[Operation]) -> list[str]:
    return list({one.id: None for one in operations})


def _waiting(operation: Operation) -> Outcome:
    """Return what an operation that waits answers: what its version will be is not known yet."""
    datum = operation.datum
    return Outcome(None if datum is None else stamped(datum, 0, 0), changed=True)
