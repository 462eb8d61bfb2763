"""Ids of datums: one that sorts by time, and one that is the address of a value."""

from __future__ import annotations

import os
import time
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


def uuid7() -> str:
    """Return a UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits; 36 characters."""
    stamp, random = f"{time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}", os.urandom(10)
    digits, variant = random.hex(), "89ab"[random[9] & 0b11]
    return f"{stamp[:8]}-{stamp[8:]}-7{digits[:3]}-{variant}{digits[3:6]}-{digits[6:18]}"
