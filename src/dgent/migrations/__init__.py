"""Bring the typed tables to the revision that this code needs, by Alembic: from a checkout or from the wheel."""

from __future__ import annotations

from dgent.migrations.commands import (
    VERSION_TABLE,
    RevisionStep,
    Target,
    check,
    current,
    downgrade,
    head,
    history,
    include_name,
    refuse_downgrade,
    refuse_newer,
    revision,
    run,
    script_location,
    upgrade,
)

__all__ = [
    "VERSION_TABLE",
    "RevisionStep",
    "Target",
    "check",
    "current",
    "downgrade",
    "head",
    "history",
    "include_name",
    "refuse_downgrade",
    "refuse_newer",
    "revision",
    "run",
    "script_location",
    "upgrade",
]
