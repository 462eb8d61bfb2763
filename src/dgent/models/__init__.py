"""Application state: every typed table of D-gent, one module per domain."""

from __future__ import annotations

from typing import Final

from dgent.models.base import (
    JSON,
    Base,
    CausalMixin,
    CrystalMixin,
    DatumMixin,
    ExactDecimal,
    IdMixin,
    InvalidValue,
    JSONDict,
    JSONList,
    Text,
    TimestampMixin,
    UTCDateTime,
    VersionMixin,
    utcnow,
)
from dgent.models.brain import BrainSetting, Crystal, CrystalTag
from dgent.models.gardener import LIFECYCLE, GardenerSession, GardenIdea, GardenPlot
from dgent.models.self_grow import STATUS, GrowthBudget, GrowthProposal, NurseryEntry, RollbackToken
from dgent.models.town import Citizen, CitizenConversation, ConversationTurn
from dgent.sql.error_details import declare

declare(Base.metadata)

TABLES: Final = frozenset(Base.metadata.tables)
"""The names of D-gent's own typed tables; a deployment may add others to `Base.metadata` later."""

__all__ = [
    "JSON",
    "LIFECYCLE",
    "STATUS",
    "TABLES",
    "Base",
    "BrainSetting",
    "CausalMixin",
    "Citizen",
    "CitizenConversation",
    "ConversationTurn",
    "Crystal",
    "CrystalMixin",
    "CrystalTag",
    "DatumMixin",
    "ExactDecimal",
    "GardenIdea",
    "GardenPlot",
    "GardenerSession",
    "GrowthBudget",
    "GrowthProposal",
    "IdMixin",
    "InvalidValue",
    "JSONDict",
    "JSONList",
    "NurseryEntry",
    "RollbackToken",
    "Text",
    "TimestampMixin",
    "UTCDateTime",
    "VersionMixin",
    "utcnow",
]
