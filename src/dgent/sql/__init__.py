"""How SQL runs: engines, one hop per call, group commit, transactions, retries, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.sql.database import Database
from dgent.sql.runner import Runner
from dgent.sql.sql_store import InDatabase, Joinable, SqlStore, database_of
from dgent.sql.transaction import Transaction

if TYPE_CHECKING:
    from dgent.settings import Settings

__all__ = ["Database", "InDatabase", "Joinable", "Runner", "SqlStore", "Transaction", "database_of", "open_database"]


def open_database(settings: Settings) -> Database:
    """Return the database that the settings name; nothing is opened before the first use.

    Raises:
        InvalidSettings: an option in the URL is unknown.
        CapabilityMissing: its driver is not installed.
    """
    if settings.in_memory:
        from dgent.sql.sqlite.in_memory import InMemoryDatabase  # noqa: PLC0415

        return InMemoryDatabase(settings.url, settings)
    if settings.url.get_backend_name() == "sqlite":
        from dgent.sql.sqlite.database import SQLiteDatabase  # noqa: PLC0415  # only the driver that is used

        return SQLiteDatabase(settings.url, settings)
    from dgent.sql.postgres.database import PostgresDatabase  # noqa: PLC0415

    return PostgresDatabase(settings.url, settings)
