"""Ids of datums: one that sorts by time, and one that is the address of a value."""

from __future__ import annotations

import os
import time
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from dgent.jsonvalue import canonical_metadata
from dgent.validation import check_id

if TYPE_CHECKING:
    from collections.abc import Mapping

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


def content_address(content: bytes, parent: str | None, metadata: Mapping[str, Any] = _EMPTY) -> str:
    """Return the BLAKE3 address (64 hex digits) of content, parent and metadata.

    Equal addresses mean equal values: each part is preceded by its length, and an absent parent differs from any.

    Raises:
        InvalidDatum: the parent or the metadata is not one that every store can take.
    """
    if parent is not None:
        check_id(parent, "causal_parent")
    digest = blake3(derive_key_context="dgent 2026-11 content address v1")
    parts = (content, b"" if parent is None else b"=" + parent.encode(), canonical_metadata(metadata).encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


class IncreasingTime:
    """Moments in units of 1/4096 ms since 1970, each later than the one before, whatever the clock does."""

    def __init__(self) -> None:
        self._lock, self._last = Lock(), 0

    def next(self) -> int:
        """Return the time, or the first moment behind the last one."""
        with self._lock:
            now = time.time_ns() * 4096 // 1_000_000
            self._last = now if now > self._last else self._last + 1
            return self._last

    def unlock(self) -> None:
        """Forget the thread that held the lock, which a child of a fork has not; the last moment stays."""
        self._lock = Lock()


_moments = IncreasingTime()
os.register_at_fork(after_in_child=_moments.unlock)


def uuid7() -> str:
    """Return a UUID of version 7 (RFC 9562): the time, then random bits; 36 characters.

    Each is greater than every one before it in this process, of whatever thread, also in the child of a fork and when
    the clock was set back: 48 bits of Unix milliseconds and 12 bits of their fractions count on, 62 bits are random.
    """
    stamp, random = f"{_moments.next() & 0xFFF_FFFF_FFFF_FFFF:015x}", os.urandom(8)
    digits, variant = random.hex(), "89ab"[random[7] & 0b11]
    return f"{stamp[:8]}-{stamp[8:12]}-7{stamp[12:]}-{variant}{digits[:3]}-{digits[3:15]}"
