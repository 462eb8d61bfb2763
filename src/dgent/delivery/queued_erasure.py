"""An erasure that waits for a store elsewhere, and the datum that it is kept as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.erasure_request import Erasure
from dgent.exceptions import Corrupt

if TYPE_CHECKING:
    from dgent.delivery.queued_write import QueuedWrite

GROUP: Final = "erasure"
"""How the keys of all of them begin, which is no digest as that of a write; and the id of their one watermark."""


@dataclass(frozen=True, slots=True)
class QueuedErasure:
    """What is to be erased in the target, and in the queue of what was written before.

    Attributes:
        namespace: from which it was asked for.
        erasure: what is to go.
        at: when it was asked for, Unix seconds.
        key: its id in the queue.
        seq: its place there.
    """

    namespace: str
    erasure: Erasure
    at: float
    key: str = ""
    seq: int = 0

    def takes(self, entry: QueuedWrite) -> bool:
        """Tell whether what a write is about is to go, whenever that was written."""
        return self.erasure.reaches(self.namespace, entry.namespace) and self.erasure.takes(entry.id)


def is_erasure(key: str) -> bool:
    """Tell whether a key is that of an erasure."""
    return key.startswith(f"{GROUP}-")


def encoded_erasure(entry: QueuedErasure) -> Datum:
    """Return it as a datum, under a key of its own."""
    asked = [entry.namespace, entry.erasure.prefix, entry.erasure.below, entry.at]
    return Datum(f"{GROUP}-{uuid7()}", orjson.dumps(asked), entry.at)


def decoded_erasure(record: Datum) -> QueuedErasure:
    """Return the erasure that a datum holds.

    Raises:
        Corrupt: it is not what `encoded_erasure` made.
    """
    try:
        namespace, prefix, below, at = orjson.loads(record.content)
    except (ValueError, TypeError):
        raise Corrupt(f"{record.id!r} is no erasure in a queue") from None
    return QueuedErasure(namespace, Erasure(prefix, below), at, record.id, record.seq)
