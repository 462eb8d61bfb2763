"""Where a chain ends, or how far somebody has seen it: a seq, and the hash that stands there."""

from __future__ import annotations

from typing import Final, NamedTuple, Self, TypeAlias

from dgent.exceptions import ChainBroken, HeadConflict, InvalidQuery
from dgent.validation import check_limit

HASH_SIZE: Final = 32
"""Bytes of a BLAKE3 hash."""


class Head(NamedTuple):
    """Where a chain ends: seq 0 and no hash for one that is empty.

    As a position it says how far somebody has read: with the hash it is noticed if the log went back, as after an old
    backup was put in place. `str(head)` is the text that `parse` reads: keep it with what you made of the entries.
    """

    seq: int
    hash: bytes | None

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}" if self.hash is not None else f"{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that a text names: "100:<64 hex digits>", or "100" where the hash is not known.

        Raises:
            InvalidQuery: it is none.
        """
        seq, _, digits = text.partition(":")
        try:
            found = cls(int(seq), bytes.fromhex(digits) if digits else None)
        except ValueError:
            raise InvalidQuery(f"{text!r:.100} is no position in a log: write SEQ, or SEQ:HASH") from None
        position(found)
        return found


START: Final = Head(0, None)
Position: TypeAlias = Head | int
"""How far a log was seen: a `Head`, or its seq alone."""


def position(after: object, name: str = "after") -> Head:
    """Return a position as a head, whose hash is None where it is not known.

    Raises:
        InvalidQuery: it is none.
    """
    if not isinstance(after, tuple):
        return Head(check_limit(after, name), None)
    if len(after) == 2 and (after[1] is None or (type(after[1]) is bytes and len(after[1]) == HASH_SIZE)):
        found = Head(check_limit(after[0], name), after[1])
        if found.seq or found.hash is None:
            return found
    raise InvalidQuery(f"{name} is a seq, or a Head: a seq from 1 and the 32 bytes of its hash")


def check_still(stream: str, writer: str, found: Head, seen: Head) -> None:
    """Refuse a log that does not hold what was `seen` of it.

    `found` is where it ended when it had no more entries than that. Without a hash only how many there are is compared.

    Raises:
        ChainBroken: it went back, or another entry stands there.
    """
    if found.seq < seen.seq:
        reason = f"the log went back: it ends before it, and it was seen up to seq {seen.seq}, as by an older backup"
        raise ChainBroken(stream, writer, found.seq + 1, reason)
    if found.seq == seen.seq and seen.hash is not None and found.hash != seen.hash:
        raise ChainBroken(stream, writer, seen.seq, "another entry was seen there: the log went back and was continued")


def check_ends_at(stream: str, writer: str, head: Head, expected: Head) -> None:
    """Refuse a log that ends elsewhere; where the expected hash is not known, only the seq is compared.

    Raises:
        HeadConflict: it does.
    """
    if head.seq != expected.seq or (expected.hash is not None and head.hash != expected.hash):
        raise HeadConflict(stream, writer, expected, head)
