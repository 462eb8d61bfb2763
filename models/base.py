"""`dgent.models.base` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.base import (
    JSON,
    Base,
    CausalMixin,
    DatumMixin,
    IdMixin,
    JSONDict,
    JSONList,
    Text,
    TimestampMixin,
    UTCDateTime,
    VersionMixin,
)

__all__ = [
    "JSON",
    "Base",
    "CausalMixin",
    "DatumMixin",
    "IdMixin",
    "JSONDict",
    "JSONList",
    "Text",
    "TimestampMixin",
    "UTCDateTime",
    "VersionMixin",
]
