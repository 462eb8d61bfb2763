"""How the row of a crystal follows from its datum."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

from dgent.datum import as_datetime
from dgent.models import Crystal

if TYPE_CHECKING:
    from dgent.datum import Datum

SCHEMA: Final = "brain.content"
"""What the text of a crystal is stamped with; `brain.crystal` is the contract of its row as JSON."""
_FORMERLY: Final = "brain.crystal"
SUMMARY: Final = 200
"""Characters of the content that its row carries."""


NAMES: Final = (SCHEMA, _FORMERLY)
"""What contents are looked for by, before `is_content` tells which are."""


def is_content(datum: Datum) -> bool:
    """Tell whether a datum is the text of a crystal; older versions stamped it as what has a schema version."""
    return datum.schema == SCHEMA or (datum.schema == _FORMERLY and "schema_version" not in datum.metadata)


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


def moment_of(value: datetime | float) -> datetime:
    """Return Unix seconds as a moment, the first or last that a column takes where they lie beyond."""
    if isinstance(value, datetime):
        return value
    return as_datetime(min(max(value, -62_135_596_800), 253_402_300_799))
