"""Order without a wall clock: generations, logs that are chained, checkpoints, and the bell that tells of them."""

from __future__ import annotations

from dgent.causal.chain import AGENT_STORE, OWN, Entry, Format
from dgent.causal.doorbell import CommitEvent, Doorbell
from dgent.causal.generation import AsyncGeneration, Generation
from dgent.causal.log import Log
from dgent.causal.writer_log import Head, WriterLog

__all__ = [
    "AGENT_STORE",
    "OWN",
    "AsyncGeneration",
    "CommitEvent",
    "Doorbell",
    "Entry",
    "Format",
    "Generation",
    "Head",
    "Log",
    "WriterLog",
]
