"""Order without a wall clock: generations, logs that are chained, checkpoints, and the bell that tells of them."""

from __future__ import annotations

from dgent.causal.checkpoint import Checkpoint
from dgent.causal.doorbell import CommitEvent, Doorbell
from dgent.causal.fingerprint import Fingerprint
from dgent.causal.generation import AsyncGeneration, Generation
from dgent.causal.hash_chain import AGENT_STORE, OWN, Entries, Entry, Format
from dgent.causal.head import Head
from dgent.causal.keys import SigningKey
from dgent.causal.async_log import AsyncLog
from dgent.causal.maintenance import MaintainedLog
from dgent.causal.writer_log import WriterLog
from dgent.settings.settings import BackendKind, Dialect, StorePolicy, Value

__all__ = [
    "AGENT_STORE",
    "OWN",
    "AsyncGeneration",
    "AsyncLog",
    "BackendKind",
    "Checkpoint",
    "CommitEvent",
    "Dialect",
    "Doorbell",
    "Entries",
    "Entry",
    "Fingerprint",
    "Format",
    "Generation",
    "Head",
    "MaintainedLog",
    "SigningKey",
    "StorePolicy",
    "Value",
    "WriterLog",
]
