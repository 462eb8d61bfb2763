"""The schemas that D-gent itself declares: the Brain's tables, trails through a question, and the marks of a witness.

A row of the Brain becomes a crystal, and that becomes a row, but for the row's own version and stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations at run time
from typing import Any

from dgent.crystal.crystal import Ref  # noqa: TC001  # pydantic reads the annotations at run time
from dgent.crystal.schema import Contract
from dgent.crystal.schema_registry import schema

__all__ = ["BrainCrystal", "BrainSettingCrystal", "Trail", "TrailStep", "WitnessMark", "WitnessTrust"]


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


@schema("trail.trail", version=1)
@dataclass(frozen=True)
class Trail(Contract):
    """A question that was followed."""

    title: str
    question: str | None = None
    tags: tuple[str, ...] = ()


@schema("trail.step", version=1)
@dataclass(frozen=True)
class TrailStep(Contract):
    """One step of a trail; positions count from 0."""

    trail: Ref[Trail]
    position: int
    note: str
    found: Ref[Any] | None = None


@schema("witness.mark", version=3)
@dataclass(frozen=True)
class WitnessMark(Contract):
    """One thing that was done, why, by whom, and by which principles."""

    action: str
    reasoning: str
    author: str
    tags: tuple[str, ...] = ()
    principles: tuple[str, ...] = ()


@WitnessMark.migration(1)
def _with_tags(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "tags": ()}


@WitnessMark.migration(2)
def _with_principles(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "principles": ()}


@schema("witness.trust", version=1)
@dataclass(frozen=True)
class WitnessTrust(Contract):
    """How far a subject is trusted, from 0 to 1, and on what grounds."""

    subject: str
    level: float
    reasoning: str
