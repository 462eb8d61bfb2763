"""A bell that rings when something was committed, so that nobody has to poll for it. After `agent-store`."""

# `_lock` is held by whoever subscribes or cancels a subscription, on whatever thread, for one assignment, and never
# over a callback. `ring` takes no lock: on its own thread it calls those who were subscribed when it began, so one that
# is cancelled meanwhile may hear once more. Nothing here awaits, so no cancel of a task comes between.

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias

from dgent.error_messages import called
from dgent.exceptions import InvalidInput
from dgent.runtime.callbacks import call_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.causal.hash_chain import Entry

    Callback: TypeAlias = Callable[["CommitEvent"], object]


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """Where a commit landed, and the 32 bytes of its hash: enough to fetch the entry, and never the payload."""

    stream: str
    writer: str
    seq: int
    content_hash: bytes

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return the event that announces an entry."""
        return cls(entry.stream, entry.writer, entry.seq, entry.content_hash)


class Subscription:
    """A callback that a doorbell calls until it is cancelled. Also a context manager, which cancels it."""

    def __init__(self, bell: Doorbell, callback: Callback) -> None:
        self._bell, self.callback = bell, callback

    def cancel(self) -> None:
        """End it. May be called twice, and from any thread."""
        self._bell._forget(self)  # the two are one thing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Doorbell:
    """Tells whoever subscribed, in this process, of what was committed. Needs no event loop; any thread may ring it.

    It is a hint: who was away misses it, and catches up from the last seq it saw, as `AsyncLog.follow` does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()

    def subscribe(self, callback: Callback) -> Subscription:
        """Call a function with each event from now on, on the thread that rings: it must be quick."""
        if not callable(callback):
            raise InvalidInput(f"{called(callback)} is no callback: pass a function")
        subscription = Subscription(self, callback)
        with self._lock:
            self._subscriptions += (subscription,)
        return subscription

    def ring(self, event: CommitEvent) -> None:
        """Tell every subscriber; what one of them raises is logged, and the others hear of the event all the same."""
        call_all(partial(subscription.callback, event) for subscription in self._subscriptions)

    def _forget(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(each for each in self._subscriptions if each is not subscription)
