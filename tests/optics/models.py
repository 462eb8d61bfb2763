"""Two tables of the same columns, with and without a version that counts the writes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column

from dgent.models import Base, CausalMixin, IdMixin, JSONDict, JSONList, TimestampMixin, VersionMixin


class _Columns(IdMixin, CausalMixin, TimestampMixin):
    n: Mapped[int]
    m: Mapped[int]
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    body: Mapped[dict[str, Any]] = mapped_column(JSONDict, default=dict)


class Versioned(_Columns, VersionMixin, Base):
    __tablename__ = "test_optics_versioned"
    metadata = MetaData()


class Plain(_Columns, Base):
    __tablename__ = "test_optics_plain"
    metadata = Versioned.metadata


MODELS = {"versioned": Versioned, "plain": Plain}
