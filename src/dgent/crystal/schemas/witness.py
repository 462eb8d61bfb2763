"""What a witness writes down: marks of what was done and why, and how far somebody is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgent.crystal.schema import Contract
from dgent.crystal.schema_registry import schema


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
