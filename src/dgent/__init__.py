"""D-gent: the data layer under agents.

Two kinds of memory in one database: what agents remember (schema-free, append-only datums with causes and history) and
what the application knows (typed tables under migrations), a bridge that lets either be used as the other, and one
transaction over both. Start with `StorageProvider`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dgent.capabilities import Capabilities
from dgent.change_page import ChangePage, ChangeRecord
from dgent.conditions import AllOf, AnyOf, Eq, Exists, Ge, Gt, In, Le, Lt, Ne, Not
from dgent.datum import Datum
from dgent.erasure_request import Erased
from dgent.exceptions import DgentError
from dgent.limits import Limits
from dgent.operations import Delete, Outcome, Purge, Put, Touch
from dgent.page import KeyPage, Page
from dgent.query import Query
from dgent.store import Backend, DgentProtocol, Revision, StateBackend

if TYPE_CHECKING:
    from dgent.agentese import Umwelt
    from dgent.agents import (
        Agent,
        DataAgent,
        Flux,
        FluxAgent,
        Functor,
        FunctorRegistry,
        Id,
        StatefulAgent,
        StateFunctor,
        Symbiont,
    )
    from dgent.bridge import TableAdapter
    from dgent.causal import CommitEvent, Doorbell, Generation, WriterLog
    from dgent.crystal import Crystal, DataMixin, Ref, Schema, Universe, get_universe, schema, set_universe
    from dgent.memory.event_bus import DataBus
    from dgent.memory.failover.router import DgentRouter
    from dgent.memory.inmemory.backend import MemoryBackend
    from dgent.memory.jsonl.backend import JSONLBackend
    from dgent.memory.sql.postgres_backend import PostgresBackend
    from dgent.memory.sql.sqlite_backend import SQLiteBackend
    from dgent.optics import Lens, LensAgent, Prism, Traversal
    from dgent.settings import Settings
    from dgent.storage import StorageProvider
    from dgent.store_base import BackendBase, StoreBase

__all__ = [
    "Agent",
    "AllOf",
    "AnyOf",
    "Backend",
    "BackendBase",
    "Capabilities",
    "ChangePage",
    "ChangeRecord",
    "CommitEvent",
    "Crystal",
    "DataAgent",
    "DataBus",
    "DataMixin",
    "Datum",
    "Delete",
    "DgentError",
    "DgentProtocol",
    "DgentRouter",
    "Doorbell",
    "Eq",
    "Erased",
    "Exists",
    "Flux",
    "FluxAgent",
    "Functor",
    "FunctorRegistry",
    "Ge",
    "Generation",
    "Gt",
    "Id",
    "In",
    "JSONLBackend",
    "KeyPage",
    "Le",
    "Lens",
    "LensAgent",
    "Limits",
    "Lt",
    "MemoryBackend",
    "Ne",
    "Not",
    "Outcome",
    "Page",
    "PostgresBackend",
    "Prism",
    "Purge",
    "Put",
    "Query",
    "Ref",
    "Revision",
    "SQLiteBackend",
    "Schema",
    "Settings",
    "StateBackend",
    "StateFunctor",
    "StatefulAgent",
    "StorageProvider",
    "StoreBase",
    "Symbiont",
    "TableAdapter",
    "Touch",
    "Traversal",
    "Umwelt",
    "Universe",
    "WriterLog",
    "get_universe",
    "schema",
    "set_universe",
]

# What needs SQLAlchemy or pydantic is loaded when it is first asked for, so that `import dgent` stays quick.
_LATER = {
    "Agent": "dgent.agents",
    "BackendBase": "dgent.store_base",
    "CommitEvent": "dgent.causal",
    "Crystal": "dgent.crystal",
    "DataAgent": "dgent.agents",
    "DataBus": "dgent.memory.event_bus",
    "DataMixin": "dgent.crystal",
    "DgentRouter": "dgent.memory.failover.router",
    "Doorbell": "dgent.causal",
    "Flux": "dgent.agents",
    "FluxAgent": "dgent.agents",
    "Functor": "dgent.agents",
    "FunctorRegistry": "dgent.agents",
    "Generation": "dgent.causal",
    "Id": "dgent.agents",
    "JSONLBackend": "dgent.memory.jsonl.backend",
    "Lens": "dgent.optics",
    "LensAgent": "dgent.optics",
    "MemoryBackend": "dgent.memory.inmemory.backend",
    "PostgresBackend": "dgent.memory.sql.postgres_backend",
    "Prism": "dgent.optics",
    "Ref": "dgent.crystal",
    "SQLiteBackend": "dgent.memory.sql.sqlite_backend",
    "Schema": "dgent.crystal",
    "Settings": "dgent.settings",
    "StateFunctor": "dgent.agents",
    "StatefulAgent": "dgent.agents",
    "StorageProvider": "dgent.storage",
    "StoreBase": "dgent.store_base",
    "Symbiont": "dgent.agents",
    "TableAdapter": "dgent.bridge",
    "Traversal": "dgent.optics",
    "Umwelt": "dgent.agentese",
    "Universe": "dgent.crystal",
    "WriterLog": "dgent.causal",
    "get_universe": "dgent.crystal",
    "schema": "dgent.crystal",
    "set_universe": "dgent.crystal",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'dgent' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
