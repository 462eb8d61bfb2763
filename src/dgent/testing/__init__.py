"""The contract of `DgentProtocol` as a test class: whoever writes a backend inherits it and proves the laws.

Needs pytest, pytest-asyncio and hypothesis; nothing else in the package imports this one.
"""

from __future__ import annotations

from dgent.testing.clock import ManualClock
from dgent.testing.contract import DgentContract
from dgent.testing.model import Model

__all__ = ["DgentContract", "ManualClock", "Model"]
