"""Order without a wall clock: generations, logs that are chained, checkpoints, and the bell that tells of them."""

from __future__ import annotations

from dgent.causal.checkpoint import Checkpoint
from dgent.causal.fingerprint import Fingerprint
from dgent.causal.keys import SigningKey
from dgent.policy import BackendKind, Dialect, StorePolicy, Value

__all__ = ["BackendKind", "Checkpoint", "Dialect", "Fingerprint", "SigningKey", "StorePolicy", "Value"]
