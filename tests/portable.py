"""Exports as tests take them out, change them and bring them in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dgent.sql.maintained import sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dgent.sql.maintained import Damage, Maintained, Portable, Record


async def exported(store: Portable, owner: str | None = None) -> list[Record]:
    """Return what a store exports, once it has been JSON."""
    return [json.loads(json.dumps(record)) async for record in store.export(owner)]


async def each(records: Iterable[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record


async def resealed(records: list[Record]) -> list[Record]:
    """Return the records of an export that was changed by somebody who gives it the end that belongs to it."""
    store = records[-1]["store"]
    changed = [record for record in records if record.get("kind") != "end"]
    return [record async for record in sealed(store, each(changed))]


async def damaged(store: Maintained) -> list[Damage]:
    """Return what a check names."""
    return [found async for found in store.check()]
