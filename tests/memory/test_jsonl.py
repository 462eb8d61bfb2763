from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dgent.datum import Limits
from dgent.memory.jsonl import JSONLBackend
from dgent.testing import DgentContract

if TYPE_CHECKING:
    from collections.abc import Callable


class TestJSONLBackend(DgentContract):
    capabilities = JSONLBackend.capabilities

    async def open(
        self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = Limits()
    ) -> JSONLBackend:
        return JSONLBackend(place / "memory.jsonl", namespace, clock=clock, limits=limits)
