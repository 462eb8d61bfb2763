"""D-gent: the data layer under agents.

Two kinds of memory in one database: what agents remember (schema-free, append-only datums with causes and history) and
what the application knows (typed tables under migrations), a bridge that lets either be used as the other, and one
transaction over both. Start with `StorageProvider`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dgent.datum import Datum, Limits
from dgent.exceptions import DgentError
from dgent.protocol import Backend, Capabilities, DgentProtocol, Revision, StateBackend
from dgent.query import Page, Query

if TYPE_CHECKING:
    from dgent.agentese import Umwelt
    from dgent.bridge import TableAdapter
    from dgent.memory.bus import DataBus
    from dgent.memory.jsonl import JSONLBackend
    from dgent.memory.postgres import PostgresBackend
    from dgent.memory.router import DgentRouter
    from dgent.memory.sqlite import SQLiteBackend
    from dgent.memory.volatile import MemoryBackend
    from dgent.settings import Settings
    from dgent.storage import StorageProvider

__all__ = [
    "Backend",
    "Capabilities",
    "DataBus",
    "Datum",
    "DgentError",
    "DgentProtocol",
    "DgentRouter",
    "JSONLBackend",
    "Limits",
    "MemoryBackend",
    "Page",
    "PostgresBackend",
    "Query",
    "Revision",
    "SQLiteBackend",
    "Settings",
    "StateBackend",
    "StorageProvider",
    "TableAdapter",
    "Umwelt",
]

# What needs SQLAlchemy or pydantic is loaded when it is first asked for, so that `import dgent` stays quick.
_LATER = {
    "DataBus": "dgent.memory.bus",
    "DgentRouter": "dgent.memory.router",
    "JSONLBackend": "dgent.memory.jsonl",
    "MemoryBackend": "dgent.memory.volatile",
    "PostgresBackend": "dgent.memory.postgres",
    "SQLiteBackend": "dgent.memory.sqlite",
    "Settings": "dgent.settings",
    "StorageProvider": "dgent.storage",
    "TableAdapter": "dgent.bridge",
    "Umwelt": "dgent.agentese",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'dgent' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
