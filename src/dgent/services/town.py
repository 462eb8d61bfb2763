"""The Town: citizens and what was said with them, turn by turn, as rows and as datums with the same causal chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select

from dgent.datum import Datum, check_id, uuid7
from dgent.exceptions import InvalidInput, InvalidQuery
from dgent.models import Citizen, CitizenConversation, ConversationTurn, utcnow
from dgent.services.tracks import (
    SHORT,
    Taken,
    check_moment,
    check_optional,
    check_page,
    check_tags,
    check_text,
    facts,
    in_both,
    locked,
    missing,
    select_rows,
)

if TYPE_CHECKING:
    from dgent.bridge import UnitOfWork
    from dgent.storage import StorageProvider

CITIZEN: Final = "town.citizen"
TURN: Final = "town.turn"
_OURS: Final = ("author", "conversation", "role", "schema", "speaker", "tags", "turn_number")
