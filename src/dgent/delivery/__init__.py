"""One queue of what waits for a store elsewhere: the failover of the router and the outbox of transactions use it."""

from __future__ import annotations

from dgent.delivery.deliverer import Deliverer
from dgent.delivery.delivery_report import DeliveryReport, Progress, Tally
from dgent.delivery.moved_queue import move_page
from dgent.delivery.queue import Queue, QueueUnreadable
from dgent.delivery.queue_eraser import drop, erase_in
from dgent.delivery.queued_erasure import QueuedErasure
from dgent.delivery.queued_write import RESERVED, KnownTarget, QueuedWrite, Version, digest_of, entry_key, queued, roomy

__all__ = [
    "RESERVED",
    "Deliverer",
    "DeliveryReport",
    "KnownTarget",
    "Progress",
    "Queue",
    "QueueUnreadable",
    "QueuedErasure",
    "QueuedWrite",
    "Tally",
    "Version",
    "digest_of",
    "drop",
    "entry_key",
    "erase_in",
    "move_page",
    "queued",
    "roomy",
]
