"""One object over both tracks."""

from __future__ import annotations

from dgent.storage.provider import StorageProvider
from dgent.storage.relational import IRelationalStore, RelationalStore

__all__ = ["IRelationalStore", "RelationalStore", "StorageProvider"]
