"""The delivery of one page of a queue: who plans, writes, settles and signs, and what is known of each id."""

# Whoever has it holds the lock of its `Deliverer`. The entries of one wave are planned, then written, each in a task of
# its own beside the others; no two of them have the same id, so what is known of an id is one task's at a time.
#
# a wave     what another deliverer does           what a cancel leaves
# planning   is found by compare-and-swap: its     some ids planned: this deliverer goes on with them, another one
#            plan blocks the id, its progress is   after `LEASE` seconds
#            taken over
# writing    leaves the planned ids alone          writes that may be in: the plan tells, at the next look
# noted                                            entries that are in, without a receipt: found in the target again
# finished                                         receipts without all entries taken off: passed over, and taken off
#
# The tasks of a wave are awaited to their ends whatever one of them raises; a cancel goes to all of them.

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from dgent.delivery.target_writer import ATTEMPTS, BaseVersion, Reached, TargetWriter, busy, conflict, is_known
from dgent.delivery.watermark import LEASE, DeliveryPlan, Watermark
from dgent.exceptions import Corrupt, StorageError, VersionConflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from dgent.delivery.deliverer import Deliverer
    from dgent.delivery.delivery_report import Tally
    from dgent.delivery.queued_write import QueuedWrite, Version

T = TypeVar("T")


class Blocked:
    """Somebody else delivers the entry."""


Answer: TypeAlias = Reached | Blocked


class PageDelivery:
    """One page that is being delivered.

    `_watermarks` is what is known of each id; `_unsaid` the entries that were dealt with since its record was written;
    `blocked` the ids that somebody else is at.
    """

    def __init__(self, by: Deliverer, tally: Tally, watermarks: dict[str, Watermark]) -> None:
        self._by, self._queue, self._tally = by, by.queue, tally
        self._writer = TargetWriter(by.target, by.clock, self._is_dealt_with)
        self._watermarks = watermarks
        self.blocked: set[str] = set()
        self._gone: list[QueuedWrite] = []
        self._refused: list[QueuedWrite] = []
        self._unsaid: dict[str, list[QueuedWrite]] = {}

    async def carry(self, wave: list[QueuedWrite]) -> None:
        """Plan and write the entries of a wave.

        Raises:
            StorageError: one of them met a failure of the target; those that are in are noted.
        """
        wave = [entry for entry in wave if entry.group not in self.blocked]
        plans = await _together(self._plan(entry) for entry in wave)
        planned = [(entry, plan) for entry, plan in zip(wave, plans, strict=True) if isinstance(plan, BaseVersion)]
        reached = await _together(self._writer.write(entry, plan) for entry, plan in planned)
        answers: list[tuple[QueuedWrite, Answer | StorageError]]
        answers = [(entry, plan) for entry, plan in zip(wave, plans, strict=True) if not isinstance(plan, BaseVersion)]
        answers += [(entry, answer) for (entry, _), answer in zip(planned, reached, strict=True)]
        failed = [answer for _, answer in answers if isinstance(answer, StorageError)]
        for entry, answer in answers:
            if not isinstance(answer, StorageError):
                self._note(entry, answer)
        if self._refused:  # before the next plan or a receipt says that they are dealt with
            await self._by.ask(self._queue.put_aside(self._refused))
            self._refused.clear()
        if failed:
            raise failed[0]

    def _note(self, entry: QueuedWrite, answer: Answer) -> None:
        """Take note of what became of an entry."""
        if isinstance(answer, Blocked):
            self.blocked.add(entry.group)
            return
        self._gone.append(entry)
        if answer is not None:
            self._deal(entry, answer)

    async def finish(self) -> None:
        """Write the receipts, and take off everything that is dealt with."""
        for result in await _together(self._sign(group) for group in [*self._unsaid]):
            if isinstance(result, Exception):
                raise result
        if self._gone:
            await self._by.ask(self._queue.forget(self._gone))

    def _deal(self, entry: QueuedWrite, answer: Version | str) -> None:
        watermark = self._watermarks.get(entry.group, Watermark())._replace(through=entry.seq, plan=None)
        if isinstance(answer, str):
            entry = replace(entry, reason=answer)
            self._refused.append(entry)
        else:
            watermark = watermark._replace(version=answer.version, seq=answer.seq)
        self._watermarks[entry.group] = watermark
        self._unsaid.setdefault(entry.group, []).append(entry)

    async def _sign(self, group: str) -> None:
        """Write the receipt of an id, unless somebody else is as far."""
        watermark = self._watermarks[group]
        for _ in range(ATTEMPTS):
            try:
                await self._by.ask(self._queue.move(group, watermark, receipt=True))
            except VersionConflict:
                found = await self._by.ask(self._queue.watermark(group))
                if found.through >= watermark.through:
                    return
                watermark = watermark._replace(row=found.row)
            else:
                self._say(group)
                return

    def _say(self, group: str) -> None:
        """Count what is durably dealt with, and by us."""
        said = self._unsaid.pop(group, [])
        self._tally.aside += [entry for entry in said if entry.reason]
        self._tally.delivered += sum(not entry.reason for entry in said)

    async def _is_dealt_with(self, entry: QueuedWrite) -> bool:
        return (await self._watermark_of(entry)).through >= entry.seq

    async def _watermark_of(self, entry: QueuedWrite) -> Watermark:
        return await self._by.ask(self._queue.watermark(entry.group))

    async def _plan(self, entry: QueuedWrite) -> BaseVersion | Blocked | str | None:
        """Make durable which version an entry goes behind.

        The answer is that version, `Blocked` where somebody else delivers it, None where it is dealt with, or why the
        target must not take it.
        """
        for _ in range(ATTEMPTS):
            watermark, now = self._watermarks.get(entry.group, Watermark()), self._by.clock()
            if watermark.through >= entry.seq:
                return None
            plan = watermark.plan_for(entry.seq)
            if plan is not None and plan.by != self._by.name and now < plan.until:
                return Blocked()
            try:
                last = await self._writer.last(entry)
                known = plan is not None or is_known(last, watermark, entry)
                if not known and not await self._writer.is_there(last, entry):
                    fresh = await self._watermark_of(entry)
                    if fresh.row == watermark.row:
                        return conflict(self._by.target.name, last, entry)
                    self._watermarks[entry.group] = fresh  # it was somebody who delivers, since we looked
                    continue
                base = plan.base if plan is not None else last.version if last else 0
                planned = watermark._replace(plan=DeliveryPlan(entry.seq, base, self._by.name, now + LEASE))
                self._watermarks[entry.group] = await self._by.ask(self._queue.move(entry.group, planned))
            except VersionConflict:  # somebody else has dealt with what we did, or plans the same entry
                self._unsaid.pop(entry.group, None)
                self._watermarks[entry.group] = await self._watermark_of(entry)
                continue
            except Corrupt as error:
                return await self._writer.explained(entry, error)
            self._say(entry.group)
            return BaseVersion(base, last)
        raise busy(entry)


async def _together(work: Iterable[Awaitable[T]]) -> list[T | StorageError]:
    """Await all of them to the end, begun in their order; any error but a StorageError is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, StorageError):
            raise result
    return results  # type: ignore[return-value]  # what is left of BaseException was raised
