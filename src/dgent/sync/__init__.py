"""Storages without `await`, for any thread, and stores for any event loop."""

from __future__ import annotations

from dgent.sync.anywhere import anywhere
from dgent.sync.storage import SyncStorage, open  # noqa: A004  # dgent.sync.open(...)

__all__ = ["SyncStorage", "anywhere", "open"]
