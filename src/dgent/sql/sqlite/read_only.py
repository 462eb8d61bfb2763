"""A SQLite file that can only be read: by its mode or its folder's, by its file system, or because the URL says so.

What SQLite can do with one depends on what lies beside it:

    a `-shm`        others may write the file: `mode=ro`, which shares their `-wal` and `-shm`, or, where nobody has
                    them open any more, reads the `-wal` into memory
    only a `-wal`   nothing can be read where no `-shm` can be made: the file alone would be an older one
    neither         `immutable=1` where the folder takes no new files, or the URL says so

An immutable file is read without any lock. So it is looked at whether it is still as it was, as other files are for
their names.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from dgent.exceptions import Corrupt, ReadOnly, StoreClosed
from dgent.sql.sqlite.engine import check_before_reading, files_of, set_up

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from dgent.settings import Settings

_TRUE: Final = {"1", "true", "yes", "on"}


def why_read_only(path: Path, url: URL | None = None) -> str:
    """Return why the file can only be read, for a message; nothing where it can be written, or be made.

    Raises:
        ReadOnly: it is not there, and the URL forbids to make it.
    """
    options = {} if url is None else url.query
    mode, is_there = options.get("mode"), path.exists()
    if not is_there and (mode in {"ro", "rw"} or _is_immutable(url)):
        raise ReadOnly(f"{path} is not there, and the options of the URL forbid to make it: check the path")
    if _is_immutable(url):
        return f"{path} can only be read: the URL says immutable"
    if mode == "ro":
        return f"{path} can only be read: the URL says mode=ro"
    if not is_there:
        return ""
    if not os.access(path, os.W_OK, effective_ids=True):
        return f"{path} can only be read: check its owner and mode, and how its file system is mounted"
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return f"{path} can only be read: its folder takes no new files, check its owner, mode and file system"
    return ""


def _is_immutable(url: URL | None) -> bool:
    return url is not None and str(url.query.get("immutable", "")).lower() in _TRUE


class ReadOnlyFile:
    """Opens connections to a file that can only be read, and sees that they read what is there now.

    Attributes:
        why: it can only be read, for a message.
    """

    def __init__(self, path: Path, settings: Settings, why: str, url: URL | None = None) -> None:
        self.why = why
        self._files, self._settings = files_of(path, settings), settings
        self._immutable = _is_immutable(url) or not self._may_share()
        self._opened = False
        if not _is_immutable(url):
            check_before_reading(self._files)

    def connect(self, factory: Any = sqlite3.Connection) -> sqlite3.Connection:
        """Open a connection.

        Raises:
            Corrupt: a file was removed or replaced. sqlite3.Error: it cannot be read.
        """
        options = "mode=ro&immutable=1" if self._immutable else "mode=ro"
        connection: sqlite3.Connection = sqlite3.connect(
            f"file:{quote(str(self._files.path))}?{options}",
            uri=True,
            isolation_level=None,
            timeout=self._settings.busy_timeout,
            check_same_thread=False,
            cached_statements=512,
            factory=factory,
        )
        try:
            set_up(connection, self._settings, reader=True)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not self._opened:  # SQLite may have made the other two files
                self._files.adopt()
                self._opened = True
            self.look()
        except BaseException:
            connection.close()
            raise
        return connection

    def look(self) -> None:
        """Look whether the files are those that were opened.

        Raises:
            Corrupt: the file was removed or replaced.
            StoreClosed: somebody writes what was opened as immutable, or closed the -wal and -shm that were shared with
                him.
        """
        if not self._files.is_the_same:
            raise self._files.exchanged()
        try:
            self._files.look()
            stale = self._immutable and not self._files.is_unchanged
        except Corrupt:
            stale = True
        if stale:
            raise StoreClosed(
                f"{self._files.path} was opened for reading only, and whoever writes it has begun anew since: open it "
                "again"
            )

    def _may_share(self) -> bool:
        """Tell whether it can be read together with those who write it, if anybody does.

        Raises:
            ReadOnly: commits lie in its `-wal`, and nothing can be made here that reads them.
        """
        path = self._files.path
        log, index = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
        if index.exists() or os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return True
        if log.exists() and log.stat().st_size:
            raise ReadOnly(
                f"{path} holds commits in its -wal, which cannot be read in a folder that takes no new files: copy the "
                "folder to where it can be written, or open it there once"
            )
        return False
