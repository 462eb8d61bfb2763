"""Positions in an answer, and cursors: positions as text that only the same query opens."""

from __future__ import annotations

import base64
import binascii
from typing import Final, TypeAlias

import orjson
from blake3 import blake3

from dgent.exceptions import InvalidCursor
from dgent.validation import check_key

Position: TypeAlias = "tuple[float | int, str]"
"""Where a page ended: (created_at, id); (0, id) in the order of ids; (seq, "") in that of seqs."""

CURSOR_CONTEXT: Final = "dgent 2026-11 cursor v1"


def seal_cursor(position: Position, fingerprint: bytes) -> str:
    """Write a position as a cursor that only the same query opens: URL-safe text."""
    body = orjson.dumps(position)
    return _spelled(_seal(body, fingerprint) + body)


def open_cursor(cursor: str, fingerprint: bytes) -> Position:
    """Return the position that a cursor holds.

    Raises:
        InvalidCursor: the cursor was damaged, or belongs to another query.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        seal, body = raw[:16], raw[16:]
        if seal != _seal(body, fingerprint) or cursor != _spelled(raw):  # base64 has several spellings of some bytes
            raise InvalidCursor("the cursor belongs to another query, or was damaged: start again without it")
        at, id = orjson.loads(body)
        _check_position(at, id)
    except (binascii.Error, ValueError, TypeError) as error:
        if isinstance(error, InvalidCursor):
            raise
        raise InvalidCursor("that is not a cursor: start again without it") from None
    return at, id


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _check_position(at: object, id: object) -> None:
    # The seal has no secret in it: whoever reads this file can make one, but not for what a database would choke on.
    if type(at) not in {int, float} or not -(2**63) <= at < 2**63:  # type: ignore[operator]
        raise ValueError("no position")
    if id != "":
        check_key(id)


def _seal(body: bytes, fingerprint: bytes) -> bytes:
    return blake3(fingerprint + body, derive_key_context=CURSOR_CONTEXT).digest(16)
