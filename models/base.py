"""`dgent.models.base` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.base import (
    JSON,
    Base,
    CausalMixin,
    CrystalMixin,
    DatumMixin,
    ExactDecimal,
    IdMixin,
    JSONDict,
    JSONList,
    Text,
    TimestampMixin,
    UTCDateTime,
    VersionMixin,
    length,
)

__all__ = [
    "JSON",
    "Base",
    "CausalMixin",
    "CrystalMixin",
    "DatumMixin",
    "ExactDecimal",
    "IdMixin",
    "JSONDict",
    "JSONList",
    "Text",
    "TimestampMixin",
    "UTCDateTime",
    "VersionMixin",
    "length",
]
