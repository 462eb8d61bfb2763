"""A copy of a SQLite database while it is in use, by SQLite's online backup.

The pages go into a file beside the target, which gets its name when it is whole and on the disk, and never in the place
of another. One read transaction holds the moment that is copied, whoever writes meanwhile; in WAL mode it holds up
nobody, but the `-wal` grows until it has ended.
"""

# copying    on the thread that runs `back_up`, in its read transaction; writers go on
# unwanted   the task that asked was cancelled: `is_unwanted`, which is asked after each piece, ends the copy
# copied     the file is synced and gets its name, without another question: a cancel that comes now leaves it there
#
# Whatever ends it, the file beside the target goes. A kill leaves that file, and no target.

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from dgent.exceptions import InvalidInput
from dgent.runtime.durable_files import sync_directory, sync_file
from dgent.runtime.private_files import private_file
from dgent.sql.errors import translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

PAGES: Final = 4096
"""Pages between two looks at whether the copy is still wanted: 16 MiB, if they are not larger than usual."""


class _Unwanted(Exception):  # who asked was cancelled: nobody hears of it
    pass


def back_up(connection: Connection, path: Path, is_unwanted: Callable[[], bool] = lambda: False) -> None:
    """Copy the database of a connection that has begun to read, into a file of its owner's (0600) that is not there.

    Raises:
        InvalidInput: something is there already. DiskFull, ReadOnly: the copy cannot be made; nothing is left of it.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on, this moment is what is read
    with translated(str(path)):
        if os.path.lexists(path):
            raise _there(path)
        part = private_file(path.with_name(f".{path.name}.{uuid4().hex}"))
        try:
            with closing(sqlite3.connect(part, isolation_level=None)) as target:
                driver.backup(target, pages=PAGES, progress=_unless(is_unwanted))
            sync_file(part)
            if is_unwanted():
                return
            _name(part, path)
        except _Unwanted:
            return
        finally:
            part.unlink(missing_ok=True)
        sync_directory(path.parent)


def _unless(is_unwanted: Callable[[], bool]) -> Callable[[int, int, int], None]:
    def progress(status: int, remaining: int, total: int) -> None:
        if is_unwanted():
            raise _Unwanted

    return progress


def _name(part: Path, path: Path) -> None:
    """Give a file its name: by a link, which replaces nothing that came meanwhile, where the file system has links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise _there(path) from None
    except OSError:
        if os.path.lexists(path):
            raise _there(path) from None
        part.rename(path)


def _there(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} is there already, and a backup replaces nothing: name another file, or move it away")
