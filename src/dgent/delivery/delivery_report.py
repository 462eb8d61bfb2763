"""What came of a delivery, for people and for programs: the same words for the failover and for the outbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dgent.erasure_request import Erased

if TYPE_CHECKING:
    from dgent.delivery.queued_write import QueuedWrite


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What came of an attempt to deliver what waits.

    Attributes:
        delivered: how many writes got there.
        waiting: how many still wait; of a queue that cannot be read, how many did when it was last counted.
        set_aside: those that were set aside now, each with its reason.
        reason: why it did not go on, or what could not be looked at; empty if nothing is in the way.
    """

    delivered: int = 0
    waiting: int = 0
    set_aside: tuple[QueuedWrite, ...] = ()
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing waits any more, as far as can be seen."""
        return not self.waiting and not self.reason


@dataclass(slots=True)
class Tally:
    """What one delivery has done so far: how many writes it got there, those that it set aside, and what it erased."""

    delivered: int = 0
    aside: list[QueuedWrite] = field(default_factory=list)
    erased: Erased = field(default_factory=Erased)

    def report(self, waiting: int, reason: str) -> DeliveryReport:
        """Return it as the answer to who asked, with what is left and why."""
        return DeliveryReport(self.delivered, waiting, tuple(self.aside), reason)


@dataclass(frozen=True, slots=True)
class Progress:
    """An event: one more page of what waited is dealt with.

    Attributes:
        store: the name of the store that it was for.
        delivered: how many writes got there since the delivery began.
        set_aside: how many were set aside since then.
        waiting: how many still wait.
    """

    store: str
    delivered: int
    set_aside: int
    waiting: int
    kind: Literal["deliver"] = "deliver"
