"""Programs that share a queue and a target, each with a life of its own: it may die at any call that it makes."""

from __future__ import annotations

import asyncio
import inspect
import time
from random import Random
from typing import TYPE_CHECKING, Any, Self

from dgent.datum import Datum
from dgent.delivery import Deliverer, KnownTarget, Queue, QueuedWrite, Tally
from dgent.exceptions import BackendUnavailable
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from dgent.store import Backend


class DeathError(Exception):
    """The process ends here."""


PAUSES = (0, 0, 0, 1, 1, 2, 4, 60)
"""Turns of the loop that a call takes: seldom so many that another program gets through all it has to do."""


class Life:
    """Counts the calls of a program, and ends it: before the call is made, or after it took effect."""

    def __init__(self, random: Random | None = None, calls: int | None = None) -> None:
        self.left, self.random, self.dead = calls, random, False

    async def step(self) -> None:
        for _ in range(self.random.choice(PAUSES) if self.random else 0):
            await asyncio.sleep(0)
        if self.left is not None:
            self.left -= 1
            self.dead = self.dead or self.left < 0
        if self.dead:
            raise DeathError


class Outage:
    """Whether the target answers."""

    on = False


class Remote:
    """A store as a program sees it: through calls between which others go on, and at which it may die."""

    def __init__(self, inner: Backend, life: Life, outage: Outage | None = None) -> None:
        self.inner, self.life, self.outage = inner, life, outage

    @property
    def __class__(self) -> type[Backend]:  # type: ignore[override]  # what `isinstance` goes by from Python 3.12 on
        return type(self.inner)

    def within(self, namespace: str) -> Self:
        return type(self)(self.inner.within(namespace), self.life, self.outage)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def ask(*args: Any, **named: Any) -> Any:
            await self.life.step()
            if self.outage is not None and self.outage.on:
                raise BackendUnavailable("the test has switched it off")
            answer = await found(*args, **named)
            await self.life.step()
            return answer

        return ask


class Program:
    """Writes to the target; while that is away, into the queue. Whatever it reads or writes, it has seen."""

    def __init__(
        self,
        target: Backend,
        store: Backend,
        outage: Outage,
        random: Random | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.life, self.outage = Life(random), outage
        self.target: Any = Remote(target, self.life, outage)
        self.queue = Queue(Remote(store, self.life), "first")  # type: ignore[arg-type]
        self.clock = clock or ManualClock(time.time())
        self.deliverer = Deliverer(self.queue, self.target, clock=self.clock)
        self.heard = time.time()
        self.seen: dict[str, int] = {}

    async def write(self, namespace: str, id: str, n: int | None) -> None:
        """Put a value, or delete; answers when that is acknowledged."""
        datum = None if n is None else value(id, n)
        try:
            await self.deliverer.bring(namespace, [id], Tally())
            store = self.target.within(namespace)
            if datum is None:
                await store.delete(id)
            else:
                await store.put(datum)
            self.seen[namespace] = await store.head()
            self.heard = time.time()
        except BackendUnavailable:
            known = KnownTarget(self.heard, self.seen.get(namespace, 0))
            await self.queue.append([QueuedWrite(namespace, id, datum, None, time.time(), known)])


def value(id: str, n: int) -> Datum:
    return Datum(id, b"%d" % n, float(n))


async def contents(store: Backend, ids: str, namespaces: tuple[str, ...] = ("n",)) -> dict[tuple[str, str], Any]:
    """Return every version of everything."""
    return {
        (space, id): [one.datum for one in await store.within(space).history(id)] for space in namespaces for id in ids
    }
