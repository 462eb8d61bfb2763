"""Agent memory in a SQLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from sqlalchemy import URL

from dgent.memory.sql.backend import SqlBackend, SqlOptions
from dgent.settings import Settings, checked_path
from dgent.sql import open_database
from dgent.validation import check_kind

if TYPE_CHECKING:
    import os


class SQLiteBackend(SqlBackend):
    """A `Backend` in a SQLite file, which is made privately (0600) on first use. Closing it closes the file.

    Raises:
        InvalidSettings: a URL, or a name of a database in memory, stands where the path of a file is meant.
    """

    name = "sqlite"
    priority = 50

    def __init__(
        self,
        path: str | os.PathLike[str],
        namespace: str = "default",
        *,
        settings: Settings | None = None,
        **options: Unpack[SqlOptions],
    ) -> None:
        file = str(checked_path(path, "MemoryBackend(), or StorageProvider.create_minimal() for both tracks"))
        loaded = Settings.load() if settings is None else settings
        check_kind(loaded, Settings, "pass Settings.load(...), or nothing")
        query = loaded.url.query if loaded.url.database == file else {}  # what its URL says of it holds here as well
        url = URL.create("sqlite+aiosqlite", database=file, query=query)
        super().__init__(open_database(loaded.model_copy(update={"database_url": url})), namespace, **options)
