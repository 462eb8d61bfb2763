"""Which store of a chain serves, and what happens while the first one is out of reach.

    normal        the first answers and holds everything: every verb is its own
    cut off       it went away in mid-run and spilling is on: reads are refused, writes go to a spill
    started late  it did not answer at the start: writes go to a spill, reads see only what was spilled

Both other states end in the same way: the first answers a probe, the spill is replayed into it, and it is normal again.
docs/decisions/0018-a-spill-is-a-log.md tells why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from dgent.datum import as_datetime
from dgent.exceptions import (
    BackendUnavailable,
    DgentError,
    DiskFull,
    ReadOnly,
    StorageError,
    StorageTimeout,
    StoreClosed,
)
from dgent.loop import running_loop
from dgent.memory.bus import Failover
from dgent.memory.gate import Gate
from dgent.memory.manifest import Manifest, ManifestFile, degraded, key_of
from dgent.memory.replay import Replay
from dgent.memory.spill import Entry, Operation, Spill, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dgent.datum import Limits
    from dgent.memory.bus import Event
    from dgent.protocol import Backend, Capabilities

OUT_OF_REACH: Final = (BackendUnavailable, StorageTimeout, DiskFull, ReadOnly)
"""Errors that let the next store of the chain take over. The others, `Corrupt` above all, are for people to mend."""

SOONEST: Final = 0.5
LATEST: Final = 30.0
_log: Final = logging.getLogger("dgent.memory")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came of an attempt to return to the first store.

    Attributes:
        recovered: it serves again.
        replayed: how many spilled writes are in it now.
        conflicts: those that were set aside, because it holds something else by now, each with its reason.
        reason: why it does not serve, or what could not be replayed.
    """

    recovered: bool
    replayed: int = 0
    conflicts: tuple[Entry, ...] = ()
    reason: str = ""


class Chain:
    """The stores of a router, in the order of preference, and the state that all its namespaces share.

    Attributes:
        normal: the first answers and nothing waits for it.
        opened: whether `open` has ended well and `close` was not called.
        down: why the first is out of reach; empty while it answers.
        heard: when it last answered, Unix seconds.
        filled: whether the manifest knows that it holds something.
        spilling: whether writes are spilled when it goes away in mid-run.
        tried: what was out of reach, by the name of the backend, and why.
        left: what is spilled where nothing can be read now, for people.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        manifest: ManifestFile,
        *,
        order: Sequence[str],
        strict: bool,
        spilling: bool,
        limits: Limits,
        publish: Callable[[Event], None],
    ) -> None:
        self.backends, self.first = list(backends), backends[0]
        self.normal = self.opened = False
        self.down, self.left, self.heard = "", "", 0.0
        self.filled = not self.first.capabilities.durable
        self.spilling = spilling
        self.tried: dict[str, str] = {}
        self._manifest, self._order, self._strict, self._limits = manifest, list(order), strict, limits
        self._publish = publish
        self._spills: list[Spill] = []
        self._view: View | None = None
        self._gate = Gate()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._closed = False
        self._probe: asyncio.Task[None] | None = None
        self._probe_at, self._delay = 0.0, SOONEST

    @property
    def serving(self) -> Backend:
        """The store that takes writes now."""
        return self.first if self.normal or not self._spills else self._spills[-1].store

    @property
    def capabilities(self) -> Capabilities:
        """What is possible now."""
        if self._view is None:
            return self.first.capabilities
        return replace(self._view.memory.capabilities, durable=self.serving.capabilities.durable, versioned=False)

    @property
    def started_late(self) -> bool:
        """Whether the first did not answer at the start and has not since."""
        return self._view is not None

    async def open(self) -> None:
        """Open the first store, replay what waits for it, or start without it.

        Raises:
            BackendUnavailable: it does not answer, and nothing may take its place. Corrupt, SchemaTooNew: look at it.
        """
        async with self._turn():
            if self._closed:
                raise StoreClosed("the router was closed: make a new one")
            if self.opened:
                return
            known = self._manifest.read()
            for told in self._manifest.news(known, self.backends, self._order):
                degraded(told)
            self.heard = time.time()
            self._spills = self._attach(known)
            report = await self._recover()
            if not report.recovered:
                await self._start_late(report.reason)
            elif report.reason:
                degraded(report.reason)
            self.opened = True

    async def recover(self) -> Recovery:
        """Probe the first store, replay what was spilled, and return to it."""
        if not self.opened:
            await self.open()
        async with self._turn():
            return await self._recover()

    async def keep(self, namespace: str, operations: Sequence[Operation]) -> bool:
        """Spill writes; tell whether that was done, or the first has come back meanwhile.

        Raises:
            StorageError: they could not be made safe.
        """
        self.nudge()
        async with self._gate:
            if self.normal or not self.opened:
                return False
            spill = self._spills[-1]
            entries = await spill.append(namespace, operations, self.heard)
            self._remember(spill)
        for entry in entries:
            self._publish(entry.change)
        return True

    async def view(self, namespace: str) -> Backend:
        """Return what reads see while the first is out of reach: what was spilled since the start.

        Raises:
            BackendUnavailable: the first was there at the start, so that nothing else may answer for it.
        """
        if self._view is None:
            raise self.refusal("reads wait for it")
        self.nudge()
        return await self._view.of(self._spills, namespace)

    def refusal(self, what: str) -> BackendUnavailable:
        """Return the error for what only the first store can do, and see to it that it is probed."""
        self.nudge()
        return BackendUnavailable(
            f"{self.first.name} is out of reach ({self.down}), and {what}: try again later, or call recover()"
        )

    def lost(self, error: StorageError) -> None:
        """Take note that the first store did not answer."""
        if not self.down:
            self.down = str(error)
            self._publish(Failover("degrade", self.first.name, "", self.down))

    def answered(self) -> None:
        """Take note that the first store answers again, without having missed anything."""
        self.down = ""
        self._publish(Failover("recover", self.first.name, self.first.name))

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
        async with self._turn():
            if not self.normal:
                return True
            store = (await self._fall_back(durable=True)).store
            self.normal = False
            self._wait()
        degraded(
            f"{self.first.name} is out of reach ({self.down}): writes are kept in {store.name} until it is back, "
            "and reads are refused"
        )
        return True

    def fill(self) -> None:
        """Remember that the first store holds something."""
        self.filled = True
        self._manifest.fill(self.first)

    def nudge(self) -> None:
        """Probe the first store beside what the caller does, if it is time."""
        if time.monotonic() >= self._probe_at and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._probe_once())

    async def conflicts(self) -> list[Entry]:
        """Return the writes that were set aside, oldest first."""
        return [entry for spill in self._spills for entry in await spill.conflicts()]

    async def settle(self, key: str) -> bool:
        """Erase a write that was set aside; tell whether there was one."""
        return any([await spill.settle(key) for spill in self._spills])

    async def is_available(self) -> bool:
        """Tell whether reads and writes are answered now."""
        if self._closed or (self.opened and not self.normal and not self.started_late):
            return False
        return await self.serving.is_available()

    async def describe(self) -> dict[str, object]:
        """Return the state for people."""
        waiting = aside = 0
        for spill in self._spills:
            with suppress(StorageError):
                more = await spill.count()
                waiting, aside = waiting + more[0], aside + more[1]
        described: dict[str, object] = {
            "serving": self.serving.name,
            "first": self.first.name,
            "chain": [backend.name for backend in self.backends],
            "degraded": bool(self.down),
            "spilled": waiting,
            "conflicts": aside,
            "manifest": str(self._manifest.path),
        }
        if self.left:
            described |= {"left": self.left, "tried": dict(self.tried)}
        if self.down:
            answered = as_datetime(self.heard).isoformat(" ", "seconds")
            described |= {"reason": self.down, "tried": dict(self.tried), "last_answered": answered}
            described["reads"] = "only what was written since" if self.started_late else "refused"
            described["writes"] = "kept until the first is back" if self.started_late or self.spilling else "refused"
        return described

    async def close(self) -> None:
        """Release every store of the chain."""
        self._closed, self.opened, self.normal = True, False, False
        probe, self._probe = self._probe, None
        if probe is not None and probe.get_loop() is asyncio.get_running_loop():
            probe.cancel()
            await asyncio.wait([probe])
        async with AsyncExitStack() as stack:
            for backend in self.backends:
                stack.push_async_callback(backend.close)

    async def _recover(self) -> Recovery:
        """Return to the first store; not twice at once."""
        try:
            self.filled = await self._manifest.admit(self.first, order=self._order)
        except OUT_OF_REACH as error:
            self._failed(error)
            return Recovery(recovered=False, reason=self.down)
        replay = Replay(self.first)
        try:
            reachable = [spill for spill in self._spills if await self._reaches(spill)]
            lost = ", ".join(spill.store.name for spill in self._spills if spill not in reachable)
            self.left = f"writes for {self.first.name} may wait in {lost}, which is out of reach" if lost else ""
            for spill in reachable:  # the most of it while writes go on
                await replay.run(spill, until=await spill.head())
            async with self._gate.shut():
                for spill in reachable:
                    await replay.run(spill)
                self._resume()
        except OUT_OF_REACH as error:
            self._failed(error)
            return Recovery(False, replay.replayed, tuple(replay.conflicts), self.down)
        await self._tidy(reachable)
        for entry in replay.conflicts:
            _log.warning("the spilled %s of %r was set aside: %s", entry.change.kind, entry.id, entry.reason)
        if self.left:
            _log.warning("%s: %s", self.left, self.tried)
        return Recovery(True, replay.replayed, tuple(replay.conflicts), self.left)

    def _failed(self, error: StorageError) -> None:
        if self.opened:
            self.lost(error)
        self.tried[self.first.name] = self.down = str(error)
        self._wait()

    def _resume(self) -> None:
        was_down, self.down = self.down, ""
        self._view = None
        self.heard = time.time()
        self.normal = not self._closed
        self._delay = SOONEST
        if not self.left:
            self.tried.clear()
        if was_down:
            self._publish(Failover("recover", self.first.name, self.first.name))

    async def _tidy(self, spills: list[Spill]) -> None:
        """Forget the spills in which nothing is left."""
        self._manifest.save(volatile=False)
        for spill in spills:
            with suppress(StorageError):
                await spill.sweep()
                if any(await spill.count()):
                    continue
                self._manifest.drop_spill(spill.key, key_of(self.first))
                self._spills.remove(spill)
                if any(await spill.count()):  # another process has spilled between the two looks
                    self._remember(spill)

    async def _reaches(self, spill: Spill) -> bool:
        try:
            await self._manifest.admit(spill.store)
        except DgentError as error:
            self.tried[spill.store.name] = str(error)
            return False
        return True

    async def _start_late(self, reason: str) -> None:
        self.down = reason
        if self._strict:
            raise BackendUnavailable(f"{self.first.name} is out of reach, and strict allows nothing else: {reason}")
        spill = await self._fall_back(durable=False)
        self._view = View(self._limits)
        told = f"{self.first.name} is out of reach ({reason}): {spill.store.name} serves, and shows only what is "
        if spill.store.capabilities.durable:
            told += f"written from now on; it is kept until {self.first.name} is back"
        else:
            told += f"written by this process; it is gone when the process ends before {self.first.name} is back"
            self._manifest.save(volatile=True)
        self._publish(Failover("degrade", self.first.name, spill.store.name, reason))
        degraded(told)

    async def _fall_back(self, *, durable: bool) -> Spill:
        """Return the spill in the first of the later stores that answers; it is the last of the spills then."""
        for backend in self.backends[1:]:
            if durable and not backend.capabilities.durable:
                continue
            try:
                await self._manifest.admit(backend)
            except DgentError as error:
                self.tried[backend.name] = str(error)
                continue
            found = [spill for spill in self._spills if spill.store is backend]
            spill = found[0] if found else Spill(backend, key_of(self.first))
            self._spills = [one for one in self._spills if one is not spill] + [spill]
            return spill
        tried = "; ".join(f"{name}: {reason}" for name, reason in self.tried.items())
        raise BackendUnavailable(
            f"no store of the chain {', '.join(one.name for one in self.backends)} can take over: {tried or self.down}"
        )

    def _attach(self, known: Manifest) -> list[Spill]:
        """Return the spills of earlier runs; after the loss of the manifest they may be in every durable store."""
        target = key_of(self.first)
        durable = [backend for backend in self.backends[1:] if backend.capabilities.durable]
        return [Spill(one, target) for one in durable if known.rebuilt or (key_of(one), target) in known.spills]

    def _remember(self, spill: Spill) -> None:
        """Write down that something waits there; each time, since another process may have found it empty meanwhile."""
        if spill.store.capabilities.durable:
            self._manifest.add_spill(spill.key, key_of(self.first))

    def _wait(self) -> None:
        """Put off the next probe, longer each time."""
        self._probe_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LATEST)

    async def _probe_once(self) -> None:
        try:
            await self.recover()
        except DgentError as error:
            self.down = str(error)
            self._wait()
            _log.warning("%s could not be taken up again: %s", self.first.name, error)

    def _turn(self) -> asyncio.Lock:
        return self._turns.setdefault(running_loop(), asyncio.Lock())
