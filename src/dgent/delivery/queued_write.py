"""A write that waits for a store elsewhere, and the datum that it is kept as."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from blake3 import blake3

from dgent.datum import Datum, load_datum
from dgent.datum_id import uuid7
from dgent.exceptions import Corrupt
from dgent.limits import Limits
from dgent.operations import Delete, Touch
from dgent.validation import check_kind

if TYPE_CHECKING:
    from dgent.operations import TTL, Operation

RESERVED: Final = ".dgent"
"""The first segment of the namespaces that queues live in; a router refuses it to everybody else."""

DIGITS: Final = 32
"""Hexadecimal digits of a digest, with which every key begins."""

PAGE: Final = 32
_AT_ONCE: Final = 1e-6
_AS_EVER: Final = (False, "{}")
_HEADER_ROOM: Final = 32 * 2**10
"""For names in which each byte is written as six."""


def roomy(limits: Limits) -> Limits:
    """Return limits under which every datum that fits the given ones also fits as an entry of a queue."""
    return Limits(
        limits.max_content + 2 * limits.max_metadata + _HEADER_ROOM,
        max(limits.max_metadata, _HEADER_ROOM),
        max(limits.max_page, PAGE),
        limits.max_chain,
    )


class Version(NamedTuple):
    """A version of an id in the target; its seq is 0 where that is not known, as of a tombstone."""

    version: int
    seq: int


class KnownTarget(NamedTuple):
    """What the writer knew of the target when it wrote: a later version than that is somebody else's.

    Where there is a `base`, that alone decides; else `seen`, where it is not 0; else `heard`, which trusts the clocks.

    Attributes:
        heard: when the target was last heard of, Unix seconds by its clock.
        seen: the highest seq of the namespace that the writer saw; 0 where it saw none.
        base: the last version of the id, where the writer looked; version 0 where there was none.
        unknown: digests of writes of its own to this id, the outcome of which is not known: they are known, too.
    """

    heard: float
    seen: int = 0
    base: Version | None = None
    unknown: tuple[str, ...] = ()


EVERYTHING: Final = KnownTarget(1e15)
"""What somebody knows who decided to write over whatever the target holds."""


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    """A put, or a delete or a touch where `datum` is None, that waits or was set aside.

    Attributes:
        namespace: of the datum in the target; empty where the entry itself is damaged.
        id: the same.
        ttl: seconds from `at`, or "keep", or None for good.
        at: when it was taken, Unix seconds.
        known: what its writer knew of the target.
        key: its id in the queue.
        seq: its place there.
        reason: why it was set aside; empty while it waits.
        raw: the bytes of an entry that is not what was written.
        touches: whether it only changes when the live datum expires.
        note: who deletes it and why: the metadata of the tombstone, canonical JSON.
    """

    namespace: str
    id: str
    datum: Datum | None
    ttl: TTL
    at: float
    known: KnownTarget
    key: str = ""
    seq: int = 0
    reason: str = ""
    raw: bytes | None = field(default=None, repr=False)
    touches: bool = False
    note: str = "{}"

    @property
    def kind(self) -> str:
        """What it does: "put", "delete" or "touch"."""
        return "put" if self.datum is not None else "touch" if self.touches else "delete"

    @property
    def what(self) -> str:
        """What it is, for people."""
        return f"a damaged entry ({self.key!r})" if self.raw is not None else f"the {self.kind} of {self.id!r}"

    @property
    def group(self) -> str:
        """What all entries of one id in one namespace share."""
        return self.key.partition("-")[0]

    def keyed(self) -> QueuedWrite:
        """Return it with a key of its own."""
        return replace(self, key=f"{group_of(self.namespace, self.id)}-{uuid7()}")

    def rest_of_ttl(self, now: float, *, live: bool = True) -> TTL:
        """Return how much of its time to live is left; never 0, so that it still supersedes what was before.

        What keeps the time of a datum that was live when it was written, and is not any more, expires as that did.
        """
        if self.ttl is None or (self.ttl == "keep" and live):
            return self.ttl
        return _AT_ONCE if self.ttl == "keep" else max(_AT_ONCE, self.at + self.ttl - now)


def queued(namespace: str, operation: Operation, at: float, known: KnownTarget) -> QueuedWrite:
    """Return an operation as it waits; a purge does not."""
    note = operation.note if isinstance(operation, Delete) else "{}"
    touches = isinstance(operation, Touch)
    return QueuedWrite(namespace, operation.id, operation.datum, operation.ttl, at, known, touches=touches, note=note)


def entry_key(entry: QueuedWrite) -> str:
    """Return the key of an entry that somebody gives back; InvalidInput for what is none."""
    check_kind(entry, QueuedWrite, "pass an entry that set_aside() returned")
    return entry.key


def group_of(namespace: str, id: str) -> str:
    """Return how the keys of all entries of an id begin."""
    return blake3(f"{namespace}\0{id}".encode()).hexdigest(DIGITS // 2)


def digest_of(datum: Datum | None) -> str:
    """Return what tells a put of a datum from every other write of its id, or a delete, where it is None."""
    if datum is None:
        return "delete"
    header = orjson.dumps([datum.created_at, datum.causal_parent, datum.metadata_json])
    return blake3(header + b"\n" + datum.content).hexdigest(DIGITS // 2)


def encoded(entry: QueuedWrite) -> Datum:
    """Return an entry as a datum: a line of JSON, then the content as it is. Its parent can be searched for."""
    if entry.raw is not None:
        return Datum(entry.key, orjson.dumps({"damaged": True, "reason": entry.reason}) + b"\n" + entry.raw, entry.at)
    header: dict[str, Any] = {name: getattr(entry, name) for name in ("namespace", "id", "ttl", "at", "reason")}
    heard, seen, base, unknown = entry.known
    header["known"] = [heard, seen, None if base is None else [*base], *unknown]
    datum = entry.datum
    # Only where they are something: a program that does not know them takes the entry for damaged, and sets it aside.
    header |= {
        name: value for name, value in (("touches", entry.touches), ("note", entry.note)) if value not in _AS_EVER
    }
    if datum is not None:
        header |= {"created_at": datum.created_at, "parent": datum.causal_parent, "metadata": datum.metadata_json}
    content = b"" if datum is None else datum.content
    parent = {} if datum is None or datum.causal_parent is None else {"parent": datum.causal_parent}
    return Datum(entry.key, orjson.dumps(header) + b"\n" + content, entry.at, None, parent)


def decoded(record: Datum) -> QueuedWrite:
    """Return the entry that a datum holds.

    Raises:
        Corrupt: it is not what `encoded` made.
    """
    line, _, content = record.content.partition(b"\n")
    try:
        header = orjson.loads(line)
        if header.get("damaged"):
            return damaged(record.id, record.seq, header["reason"], content, record.created_at)
        heard, seen, base, *unknown = header.pop("known")
        known = KnownTarget(heard, seen, None if base is None else Version(*base), tuple(unknown))
        return QueuedWrite(key=record.id, seq=record.seq, known=known, datum=datum_in(header, content), **header)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Corrupt(f"{record.id!r} is no entry of a queue") from None


def damaged(key: str, seq: int, reason: str, content: bytes, at: float) -> QueuedWrite:
    """Return an entry of which nothing but its bytes is left."""
    return QueuedWrite("", "", None, None, at, KnownTarget(0.0), key, seq, reason, content)


def datum_in(header: dict[str, Any], content: bytes) -> Datum | None:
    """Take the datum of a put out of a header."""
    if "created_at" not in header:
        return None
    created_at, parent, metadata = header.pop("created_at"), header.pop("parent"), header.pop("metadata")
    return load_datum(header["id"], content, created_at, parent, metadata, 0, 0)
