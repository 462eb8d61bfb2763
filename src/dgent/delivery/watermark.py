"""How far the writes of one id have come: the one record by which all who deliver a queue agree.

    {version, seq}  the version of the id in the target that what was delivered so far has reached
    through         the place in the queue of the last entry that is dealt with: in, set aside, or without effect
    plan            the entry that is being delivered, the version that it goes behind, by whom, and until when

A plan is durable before its entry is written, so after a crash there is one version to look at. Dealing with an entry
and planning the next one is one compare-and-swap of this record, so of several programs one decides. When nothing of
the id waits any more the record stays for some weeks as a receipt: what a program writes that has not noticed the
delivery builds on it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from dgent.datum import Datum
from dgent.exceptions import Corrupt

RECEIPT: Final = 28 * 86400.0
"""How long a receipt is kept, in seconds."""


LEASE: Final = 5.0
"""How long an entry is left to who has planned it, in seconds."""


class DeliveryPlan(NamedTuple):
    """An entry by its place in the queue, the version that it goes behind, and who delivers it.

    Nobody else writes it before `until`, Unix seconds, when who delivers it counts as dead.
    """

    entry: int
    base: int
    by: str
    until: float


class Watermark(NamedTuple):
    """The record of one id; `row` is its version in the queue's own store, 0 while it was never stored."""

    version: int = 0
    seq: int = 0
    through: int = 0
    plan: DeliveryPlan | None = None
    row: int = 0

    def plan_for(self, entry: int) -> DeliveryPlan | None:
        """Return the plan of an entry, if there is one."""
        return self.plan if self.plan is not None and self.plan.entry == entry else None


def record_of(group: str, watermark: Watermark) -> Datum:
    """Return the record as a datum."""
    plan = None if watermark.plan is None else [*watermark.plan]
    return Datum(group, orjson.dumps([watermark.version, watermark.seq, watermark.through, plan]), 0.0)


def watermark_in(record: Datum) -> Watermark:
    """Return the record in a datum.

    Raises:
        Corrupt: it is none.
    """
    try:
        version, seq, through, plan = orjson.loads(record.content)
        return Watermark(version, seq, through, None if plan is None else DeliveryPlan(*plan), record.version)
    except (ValueError, TypeError):
        raise Corrupt(f"{record.id!r} is no watermark of a queue") from None
