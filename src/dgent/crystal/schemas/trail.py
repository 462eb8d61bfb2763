"""A way through a question: a trail, and its steps, each of which may point to what was found there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgent.crystal.crystal import Ref  # noqa: TC001  # pydantic reads the annotations at run time
from dgent.crystal.schema import Contract
from dgent.crystal.schema_registry import schema


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
