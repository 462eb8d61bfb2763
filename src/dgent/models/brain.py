"""The Brain's tables: crystals, their tags, and settings."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # SQLAlchemy reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import CheckConstraint, ForeignKey, Index, delete, event, insert, inspect, select, text
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from dgent.models.base import JSON, Base, DatumMixin, IdMixin, JSONList, TimestampMixin, VersionMixin, length
from dgent.sql.constructs import one_of
from dgent.sql.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

TAG_LENGTH: Final = 128
"""The longest tag of a crystal, in code points."""


class Crystal(IdMixin, DatumMixin, TimestampMixin, VersionMixin, Base):
    """What is known about a piece of memory; its content is the datum `datum_id`."""

    __tablename__ = "brain_crystals"
    __table_args__ = (
        CheckConstraint("access_count >= 0", name="access_count_positive"),
        Index(None, "created_at", "id"),
    )

    content_hash: Mapped[str] = mapped_column(length("content_hash"), index=True)
    summary: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(JSONList, default=list)
    access_count: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    last_accessed: Mapped[datetime | None]

    @classmethod
    def derive(cls, connection: Connection, ids: Sequence[Any]) -> None:
        """Rebuild the tag rows of these crystals from their `tags`."""
        rows = _TAGS_OF.rows(connection, ids)
        _UNTAG.run(connection, ids)
        pairs = [(id, tag) for id, tags in rows for tag in dict.fromkeys(_listed(tags))]
        if pairs:
            _TAG.run_many(connection, pairs)


class CrystalTag(Base):
    """One tag of one crystal: the index by which crystals are found. It follows `Crystal.tags`; do not write it."""

    __tablename__ = "brain_crystal_tags"
    __table_args__ = (Index(None, "tag", "crystal_id"),)

    crystal_id: Mapped[str] = mapped_column(ForeignKey("brain_crystals.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(length("tag", TAG_LENGTH), primary_key=True)


def _listed(tags: Any) -> list[str]:
    """Return the list that a driver gives for a JSON column: some give its text."""
    return orjson.loads(tags) if isinstance(tags, str) else tags  # type: ignore[no-any-return]


_crystals, _tagged = Crystal.__table__.columns, CrystalTag.__table__.columns
_TAGS_OF = Statement(select(_crystals.id, _crystals.tags).where(one_of(_crystals.id, "ids")), "ids", lists="ids")
_UNTAG = Statement(delete(CrystalTag).where(one_of(_tagged.crystal_id, "ids")), "ids", lists="ids")
_TAG = Statement(insert(CrystalTag), "crystal_id tag")


class BrainSetting(TimestampMixin, VersionMixin, Base):
    """One named JSON value."""

    __tablename__ = "brain_settings"

    key: Mapped[str] = mapped_column(length("key"), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON())


@event.listens_for(Crystal, "after_insert")
def _after_insert(mapper: Mapper[Crystal], connection: Connection, crystal: Crystal) -> None:
    _insert_tags(connection, [(crystal.id, crystal.tags)])


@event.listens_for(Crystal, "after_update")
def _after_update(mapper: Mapper[Crystal], connection: Connection, crystal: Crystal) -> None:
    if inspect(crystal).attrs.tags.history.has_changes():
        connection.execute(delete(CrystalTag).where(CrystalTag.crystal_id == crystal.id))
        _insert_tags(connection, [(crystal.id, crystal.tags)])


def _insert_tags(connection: Connection, rows: Iterable[tuple[str, list[str]]]) -> None:
    pairs = [{"crystal_id": id, "tag": tag} for id, tags in rows for tag in dict.fromkeys(tags)]
    if pairs:
        connection.execute(insert(CrystalTag.__table__), pairs)  # type: ignore[arg-type]
