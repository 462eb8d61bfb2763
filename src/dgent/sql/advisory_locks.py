"""The advisory locks of PostgreSQL that this library takes: one number for each purpose, all of them here.

Two purposes that share a number wait for each other for nothing, and can close a circle that neither sees in its own
code. A host application's numbers are its own: ours begin with the name of the library.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from blake3 import blake3

_OURS: Final = 0x6467656E74 << 16  # "dgent"


class AdvisoryLock(IntEnum):
    """What a lock is for; on SQLite the transaction itself is each of them."""

    MIGRATIONS = _OURS + 1
    TABLE_SETS = _OURS + 2
    OLD_OUTBOX = _OURS + 3


def causes_of(table: str) -> int:
    """Return the number for the causes between rows of a typed table: below zero, where no purpose is."""
    digest = blake3(table.encode(), derive_key_context="dgent 2026-11 cause").digest(8)
    return int.from_bytes(digest, "big") | -(1 << 63)
