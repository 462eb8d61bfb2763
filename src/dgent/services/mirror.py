"""How the row of a crystal follows from its datum."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from dgent.models import Crystal

if TYPE_CHECKING:
    from datetime import datetime

    from dgent.datum import Datum

SCHEMA: Final = "brain.crystal"
SUMMARY: Final = 200
"""Characters of the content that its row carries."""


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of a content in hex, as rows keep it."""
    return hashlib.sha256(content).hexdigest()


def crystal_of(datum: Datum, moment: datetime) -> Crystal:
    """Return the row that belongs to a datum."""
    return Crystal(
        id=datum.id,
        datum_id=datum.id,
        content_hash=hash_of(datum.content),
        summary=summary_of(datum),
        tags=tags_of(datum),
        created_at=moment,
    )


def summary_of(datum: Datum) -> str:
    """Return the first characters of a content, without what a column cannot keep."""
    return datum.text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:SUMMARY]


def tags_of(datum: Datum) -> list[str]:
    """Return the tags of a datum in their order, each once."""
    tags = datum.metadata.get("tags")
    return list(dict.fromkeys(tag for tag in tags if isinstance(tag, str))) if isinstance(tags, list) else []
