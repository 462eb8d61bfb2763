"""The Brain's tables as crystals: a row becomes one, and one becomes a row, but for the row's own version and stamp."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations at run time
from typing import Any

from dgent.crystal.schema import Contract
from dgent.crystal.schema_registry import schema


@schema("brain.crystal", version=1)
@dataclass(frozen=True)
class BrainCrystal(Contract):
    """What is known about a piece of memory; its content is the datum `datum_id`. A row of `brain_crystals`."""

    content_hash: str
    summary: str
    tags: tuple[str, ...] = ()
    access_count: int = 0
    last_accessed: datetime | None = None
    datum_id: str | None = None


@schema("brain.setting", version=1)
@dataclass(frozen=True)
class BrainSettingCrystal(Contract):
    """One named JSON value. A row of `brain_settings`, where the key is the id."""

    key: str
    value: Any
