"""Which store of a chain serves, and what happens while the first one is out of reach."""

# not opened     `open` has not ended well yet: every verb opens first
# normal         the first answers and nothing waits for it: every verb is its own
# cut off        it went away in mid-run and spilling is on: reads are refused, writes go to a queue
# started late   it did not answer at the start: writes go to a queue, reads see only what waits there
# delivering     it answers and serves, and what waits for it is on its way, page by page, in a task of its own. A verb
#                about some ids brings what waits for them in first; every other verb waits for the queue
# closed         for good: `_enter` refuses every other state, whoever was on the way to it
#
# not opened -> normal, delivering, started late   the last step of `open`, after its last await
# started late, cut off -> delivering   a probe is answered
# delivering -> normal                  nothing waits any more
# normal, delivering -> cut off         a write finds it out of reach, and spilling is on
#
# Who holds what: `_lock`, of each loop its own, is held to open and to fall back; `close` does not wait for it: what it
# overtakes ends with StoreClosed. One task, `_replaying`, probes and delivers; whoever wants it done awaits that task,
# and is cancelled without cancelling it; `close` cancels it. `_keeping` are the writes that go into a queue just now:
# they begin only while the state is cut off or started late, so once it is `delivering` and they have ended, this
# process adds nothing, and when the queue is found empty the state becomes normal in the same step of the loop. A write
# that is cancelled there may wait all the same. docs/decisions/0026-one-delivery-queue.md tells why.

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from dgent.delivery import DeliveryReport, KnownTarget, Progress, Tally
from dgent.exceptions import BackendUnavailable, DeliveryPending, DgentError, StorageError, StoreClosed
from dgent.memory.change import Change
from dgent.memory.event_bus import Failover
from dgent.memory.failover.manifest import degraded
from dgent.memory.failover.queued_view import QueuedView, cut_off, started_late
from dgent.memory.failover.replay import HINDERED, ReplayQueues
from dgent.runtime.background_task import BackgroundTask
from dgent.runtime.backoff import Backoff
from dgent.runtime.in_flight import InFlight
from dgent.runtime.per_loop_lock import PerLoopLock
from dgent.sql import database_of
from dgent.sql.errors import OUTAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from dgent.capabilities import Capabilities
    from dgent.memory.event_bus import Event
    from dgent.memory.failover.builder import Policy
    from dgent.memory.failover.manifest import ManifestFile
    from dgent.memory.failover.observed_versions import ObservedVersions
    from dgent.memory.inmemory.backend import MemoryBackend
    from dgent.operations import Operation
    from dgent.store import Backend

State: TypeAlias = Literal["not opened", "normal", "cut off", "started late", "delivering", "closed"]
SOONEST, LATEST = 0.5, 30.0  # seconds between two probes
_log: Final = logging.getLogger("dgent.memory")


class FailoverState:
    """The stores of a router, in the order of preference, and the state that all its namespaces share.

    Attributes:
        normal: whether the state is "normal": what every verb asks first.
        down: why the first is out of reach; empty while it answers.
        heard: when it last answered, Unix seconds.
        filled: whether the manifest knows that it holds something.
        policy: what to do then.
        replay: the queues in which writes for it may wait.
        observed: what was seen of it.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        manifest: ManifestFile,
        policy: Policy,
        publish: Callable[[Event], None],
        observed: ObservedVersions,
    ) -> None:
        self.backends, self.first = list(backends), backends[0]
        self.state: State = "not opened"
        self.normal = False
        self.down, self.heard, self._ahead = "", 0.0, 0.0
        self.filled = not self.first.capabilities.durable
        self.policy, self.observed = policy, observed
        self._manifest, self._publish = manifest, publish
        self.replay = ReplayQueues(backends, manifest)
        self._view: QueuedView | None = None
        self._keeping = InFlight()
        self._lock = PerLoopLock()
        self._tally, self._delivered = Tally(), 0
        self._replaying = BackgroundTask(self._replay, self._broke_off)
        self._probe_at, self._backoff = 0.0, Backoff(SOONEST, LATEST)

    @property
    def serving(self) -> Backend:
        """The store that takes writes now."""
        return self.replay.last.store if self.away and self.replay.last is not None else self.first

    @property
    def capabilities(self) -> Capabilities:
        """What is possible now."""
        if self._view is None:
            return self.first.capabilities
        return replace(self._view.memory.capabilities, durable=self.serving.capabilities.durable, versioned=False)

    @property
    def delivered(self) -> int:
        """How many writes were delivered, those of the delivery that is under way among them."""
        return self._delivered + self._tally.delivered * (self.state == "delivering")

    @property
    def opened(self) -> bool:
        """Whether `open` has ended well and `close` was not called."""
        return self.state not in {"not opened", "closed"}

    @property
    def away(self) -> bool:
        """Whether the first is out of reach and writes go to a queue."""
        return self.state in {"cut off", "started late"}

    async def open(self) -> None:
        """Open the first store, and begin to deliver what waits for it; or start without it.

        Raises:
            BackendUnavailable: it does not answer, and nothing may take its place.
            Corrupt: look at it.
            SchemaTooNew: look at it.
            StoreClosed: the router was closed, before or meanwhile.
        """
        async with self._changing():
            if not self.opened:
                await self._open()

    async def _open(self) -> None:
        known = self._manifest.read()
        for told in self._manifest.news(known, self.backends, self.policy.order):
            degraded(told)
        self.heard = time.time()
        self.replay.attach(known)
        try:
            await self._admit()
        except OUTAGE as error:
            self._failed(error)
            await self._start_late(self.down)
        else:
            await self._open_first()

    async def recover(self) -> DeliveryReport:
        """Probe the first store now, deliver all that waits for it, and report."""
        if not self.opened:
            await self.open()
        return await self._replaying.done()

    async def keep(self, namespace: str, writes: Sequence[Operation]) -> bool:
        """Let writes wait; tell whether that was done, or the first has come back meanwhile.

        Raises:
            StorageError: they could not be made safe.
        """
        self.nudge()
        if not self.away or not self.opened:
            return False
        known = KnownTarget(self.heard + self._ahead, self.observed.of(namespace).seq)
        with self._keeping.one():
            doubts = self.observed.unknown
            each = [known._replace(unknown=doubts.get((namespace, one.id), ())) for one in writes]
            taken = await self.replay.append(namespace, writes, each)
        for entry in taken:  # they have no version yet: the first store will give them one
            self._publish(Change("delete" if entry.datum is None else "put", namespace, entry.id))
        return True

    async def bring(self, namespace: str, ids: Sequence[str]) -> None:
        """Bring in what waits for some ids, while the state is "delivering".

        Raises:
            StorageError: the first store failed.
        """
        self.nudge()
        await self._keeping.ended()
        await self.replay.bring(namespace, ids, self._tally)

    async def settled(self) -> None:
        """Wait until nothing waits for the first store any more.

        Raises:
            DeliveryPending: that takes longer than the setting `delivery_timeout`.
            BackendUnavailable: it is out of reach.
            StoreClosed: the router was closed.
        """
        bound = asyncio.timeout(self.policy.patience)
        try:
            async with bound:
                while self.state == "delivering":
                    if self.down and time.monotonic() < self._probe_at:
                        raise self.refusal("writes are still on their way to it")
                    await self._replaying.done()
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeliveryPending(self.first.name, (await self.replay.counts())[0]) from None
        self._refuse_closed()

    async def view(self, namespace: str) -> MemoryBackend:
        """Return what reads see while the first is out of reach: what was written since the start.

        Raises:
            BackendUnavailable: the first was there at the start, so that nothing else may answer for it.
        """
        if self._view is None:
            raise self.refusal("reads wait for it")
        self.nudge()
        return await self._view.of(self.replay.queues, namespace)

    def refusal(self, what: str) -> StorageError:
        """Return the error for what only the first store can do, and see to it that it is probed."""
        self.nudge()
        self._refuse_closed()
        if self.state == "delivering" and not self.down:
            return DeliveryPending(self.first.name, self.replay.waiting)
        away = f"{self.first.name} is out of reach ({self.down})"
        return BackendUnavailable(f"{away}, and {what}: try again later, or call recover()")

    def lost(self, error: StorageError) -> None:
        """Take note that the first store did not answer."""
        if not self.down:
            self.down = str(error)
            self._publish(Failover("degrade", self.first.name, "", self.down))

    def answered(self) -> None:
        """Take note that the first store answers again, without having missed anything."""
        self.down = ""
        self._publish(Failover("recover", self.first.name, self.first.name))
        if self.state == "delivering":
            self._replaying.begin()

    async def take_over(self, error: StorageError, *, spill: bool) -> bool:
        """Take note that a write failed, and have a later, durable store take it and the next; tell whether one does.

        A timeout may only be a busy moment: then the first stays.

        Raises:
            BackendUnavailable: `spill` is asked for, and there is no such store.
        """
        if not isinstance(error, BackendUnavailable) and (not spill or await self.first.is_available()):
            return False
        self.lost(error)
        if not spill:
            return False
        async with self._changing():
            if self.away:
                return True
            store = (await self.replay.fall_back(durable=True)).store
            self._enter("cut off")
            self._wait()
        degraded(cut_off(self.first, store, self.down))
        return True

    def fill(self) -> None:
        """Remember that the first store holds something."""
        self.filled = True
        self._manifest.fill(self.first)

    def nudge(self) -> None:
        """Probe the first store, and deliver what waits, beside what the caller does, if it is time."""
        if self.opened and (time.monotonic() >= self._probe_at or (self.state == "delivering" and not self.down)):
            self._replaying.begin()

    async def is_available(self) -> bool:
        """Tell whether reads and writes are answered now."""
        if self.state in {"closed", "cut off"}:
            return False
        return await self.serving.is_available()

    async def close(self) -> None:
        """Release every store of the chain."""
        self.state, self.normal, self._view = "closed", False, None
        await self._replaying.end()
        async with AsyncExitStack() as stack:
            for backend in self.backends:
                stack.push_async_callback(backend.close)

    def _refuse_closed(self) -> None:
        if self.state == "closed":
            raise StoreClosed("the router was closed: make a new one")

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Hold the lock; what fails because its stores were closed beneath it is StoreClosed."""
        async with self._lock.current():
            self._refuse_closed()
            try:
                yield
            except DgentError:
                self._refuse_closed()
                raise

    def _enter(self, state: State) -> None:
        self._refuse_closed()
        self.state, self.normal = state, state == "normal"
        if state != "started late":
            self._view = None

    async def _admit(self) -> None:
        self.filled = await self._manifest.admit(self.first, order=self.policy.order)
        database = database_of(self.first)
        self._ahead = 0.0 if database is None else await database.ahead()

    async def _open_first(self) -> None:
        """Serve from the first store; begin to deliver if anything waits for it."""
        waits = await self.replay.look()
        self._refuse_closed()
        if self.replay.left:
            degraded(self.replay.left)
        if waits:
            self._enter("delivering")
            self._replaying.begin()
        else:
            await self.replay.tidy()
            self._resume()

    def _broke_off(self, error: BaseException) -> None:
        self.down = str(error) or type(error).__name__
        self._wait()
        _log.warning("%s could not be taken up again: %s", self.first.name, self.down)

    async def _replay(self) -> DeliveryReport:
        tally, reason = Tally(), ""
        self._tally = tally  # what is brought in meanwhile counts, too
        try:
            await self._admit()
            await self._deliver()
            await self.replay.tidy()
        except HINDERED as error:
            if tally.delivered:
                self._backoff.reset()
            self._failed(error)
            reason = self.down
        else:
            if reason := self.replay.left:
                _log.warning("%s: %s", reason, self.replay.tried)
        waiting = (await self.replay.counts())[0] if reason else 0
        self._delivered += tally.delivered
        return tally.report(waiting, reason)

    async def _deliver(self) -> None:
        """Deliver all that waits, and return to the normal state."""
        waits = await self.replay.look()
        while waits or self.state != "normal":
            self._enter("delivering")
            await self._keeping.ended()
            await self.replay.erase(self._tally)
            for deliverer in self.replay.reachable:
                await self.replay.empty(deliverer, self._tally, self._progress)
            waits = False
            if self.state == "delivering":  # else it was cut off meanwhile
                self._resume()

    def _progress(self, waiting: int) -> None:
        tally = self._tally
        if tally.delivered:  # it takes what it is given while it is there
            self._backoff.reset()
        self._publish(Progress(self.first.name, tally.delivered, len(tally.aside), waiting))

    def _failed(self, error: StorageError) -> None:
        if self.opened:
            self.lost(error)
        self.replay.tried[self.first.name] = self.down = str(error)
        self._wait()

    def _resume(self) -> None:
        was_down, self.down = self.down, ""
        self._enter("normal")
        self.heard = time.time()
        self._backoff.reset()
        if not self.replay.left:
            self.replay.tried.clear()
        if was_down:
            self._publish(Failover("recover", self.first.name, self.first.name))

    async def _start_late(self, reason: str) -> None:
        self.down = reason
        if self.policy.strict:
            away = f"{self.first.name} is out of reach"
            raise BackendUnavailable(f"{away}, and no other store may take its place: {reason}")
        queue = await self.replay.fall_back(durable=False)
        self._enter("started late")
        self._view = QueuedView(self.policy.limits)
        if not queue.store.capabilities.durable:
            self._manifest.save(volatile=True)
        self._publish(Failover("degrade", self.first.name, queue.store.name, reason))
        degraded(started_late(self.first, queue.store, reason))

    def _wait(self) -> None:
        """Put off the next probe, longer each time."""
        self._probe_at = time.monotonic() + self._backoff.pause()
