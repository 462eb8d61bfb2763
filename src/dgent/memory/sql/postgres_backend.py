"""Agent memory in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from dgent.exceptions import InvalidSettings
from dgent.memory.sql.backend import SqlBackend, SqlOptions
from dgent.settings import Settings, parse_url
from dgent.sql import open_database
from dgent.validation import check_kind

if TYPE_CHECKING:
    from sqlalchemy import URL


class PostgresBackend(SqlBackend):
    """A `Backend` in a PostgreSQL database. Closing it closes the connections.

    Raises:
        InvalidSettings: the URL is not one of PostgreSQL.
    """

    name = "postgres"
    priority = 10

    def __init__(
        self,
        url: str | URL,
        namespace: str = "default",
        *,
        settings: Settings | None = None,
        **options: Unpack[SqlOptions],
    ) -> None:
        parsed = parse_url(url)
        if parsed is None or parsed.get_backend_name() != "postgresql":
            raise InvalidSettings("PostgresBackend takes a URL such as postgresql://user@host/name")
        loaded = Settings.load() if settings is None else settings
        check_kind(loaded, Settings, "pass Settings.load(...), or nothing")
        super().__init__(open_database(loaded.model_copy(update={"database_url": parsed})), namespace, **options)
