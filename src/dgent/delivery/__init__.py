"""One queue of what waits for a store elsewhere: the failover of the router and the outbox of transactions use it."""

from __future__ import annotations

from dgent.delivery.deliverer import Deliverer
from dgent.delivery.entry import RESERVED, Entry, Known, Version, digest_of, key_of, roomy
from dgent.delivery.queue import Queue, QueueUnreadable
from dgent.delivery.report import Delivery, Progress, Tally

__all__ = [
    "RESERVED",
    "Deliverer",
    "Delivery",
    "Entry",
    "Known",
    "Progress",
    "Queue",
    "QueueUnreadable",
    "Tally",
    "Version",
    "digest_of",
    "key_of",
    "roomy",
]
