from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dgent.datum import Limits
from dgent.memory.volatile import MemoryBackend
from dgent.testing import DgentContract

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = Limits()


class TestMemoryBackend(DgentContract):
    capabilities = MemoryBackend.capabilities

    async def open(
        self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = DEFAULT
    ) -> MemoryBackend:
        return MemoryBackend(namespace, clock=clock, limits=limits)
