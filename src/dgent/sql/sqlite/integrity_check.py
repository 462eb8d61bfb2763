"""Whether a SQLite file and the `-wal` beside it are one database: read whole, before anything is written."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from dgent.exceptions import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AHEAD: Final = """
    SELECT 1 FROM (SELECT namespace, max(seq) AS seq FROM dgent_datums GROUP BY namespace) AS last
    LEFT JOIN dgent_heads AS head USING (namespace) WHERE head.seq IS NULL OR head.seq < last.seq LIMIT 1
"""
"""A namespace that holds what its head does not know of yet."""


def _observer(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write; while it is the last one to close, SQLite does not checkpoint."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Have the file, its `-wal` and its `-shm` open for the length of a block, as far as they can be read."""
    connection = _observer(path)
    try:
        with suppress(sqlite3.Error):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield
    finally:
        connection.close()


def check_whole(path: Path) -> None:
    """Read every page, as SQLite would put the file and its `-wal` together.

    Raises:
        Corrupt: they do not fit. sqlite3.Error: the file cannot be read.
    """
    connection = _observer(path)
    try:
        whole = _is_whole(connection)
    finally:
        connection.close()
    if not whole:
        raise Corrupt(
            f"{path} and the -wal beside it do not belong together, or are damaged: restore both from one backup; a "
            "file that was restored without its -wal needs the -wal that lies there moved away. Nothing was written"
        )


def _is_whole(connection: sqlite3.Connection) -> bool:
    try:
        if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            return False
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return not {"dgent_heads", "dgent_datums"} <= names or connection.execute(_AHEAD).fetchone() is None
    except sqlite3.DatabaseError as error:
        if str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")):
            return False
        raise
