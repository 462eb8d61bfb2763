"""A copy of a SQLite database while it is in use, by SQLite's online backup.

The pages go into a hidden file beside the target, which gets its name when it is whole and on the disk, and never in
the place of another, nor beside a `-wal` that SQLite would put over it. One read transaction holds the moment that is
copied, whoever writes meanwhile; in WAL mode it holds up nobody, but the `-wal` grows until it has ended.
"""

# refused    something has one of the names, or another backup of ours has the lock of the hidden file
# copying    on the thread that runs `make`, in its read transaction, under that lock; writers go on
# unwanted   the task that asked was cancelled, which ends the copy after the piece that it is at, or before its name
# named      whole, synced, and there; its folder is synced. A cancel that comes before the task has its answer takes
#            the file away again: `_turn` is held by who names and by who takes away
# answered   it stays
#
# Whatever ends it, the hidden file and its lock go. A kill leaves both, which the next backup to that name removes, and
# no target, or the whole of it.

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from dgent.exceptions import InvalidInput
from dgent.runtime.durable_files import sync_directory, sync_file
from dgent.runtime.file_lock import FileLock
from dgent.runtime.private_files import private_file
from dgent.sql.errors import translated
from dgent.sql.sqlite.engine import lock_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

PAGES: Final = 4096
"""Pages between two looks at whether the copy is still wanted: 16 MiB, if they are not larger than usual."""


class _Unwanted(Exception):  # who asked was cancelled: nobody hears of it
    pass


class Backup:
    """A copy of a database, in a file of its owner's (0600) that is not there yet.

    Who asks for it waits in its block: `with backup: ...`. If that ends by an error or a cancel, no file is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.dgent-backup")
        self._turn = threading.Lock()
        self._unwanted = False
        self._named: os.stat_result | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._take_away()

    def make(self, connection: Connection) -> None:
        """Copy the database of a connection that has begun to read.

        Raises:
            InvalidInput: something is there already, or the name is too long.
            DiskFull: the copy cannot be made; nothing is left of it.
            ReadOnly: the copy cannot be made; nothing is left of it.
        """
        driver: Any = connection.connection.dbapi_connection
        driver.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on, this moment is what is read
        with suppress(_Unwanted), translated(str(self.path)), self:
            self._check_free()
            with self._alone():
                self._copy(driver)
                self._give_name()
            sync_directory(self.path.parent)

    def _check_free(self) -> None:
        """Refuse a name that is taken, and one beside which lies what SQLite would take for a part of the file."""
        if os.path.lexists(self.path):
            raise self._taken()
        for end in ("-wal", "-shm", "-journal"):
            left = f"{self.path}{end}"
            if os.path.lexists(left):
                raise InvalidInput(
                    f"{left} is there, which an earlier file of that name left, and SQLite would put it over the "
                    "backup: move it away, or name another file"
                )

    def _taken(self) -> InvalidInput:
        return InvalidInput(
            f"{self.path} is there already, and a backup replaces nothing: name another file, or move it away"
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the hidden file for the length of a block; one that lies there and nobody holds is a killed one's."""
        lock = FileLock(lock_path(self._part), 0, sole=False)
        try:
            if not lock.try_take():
                raise InvalidInput(f"another backup to {self.path} is under way: wait for it, or name another file")
            try:
                self._part.unlink(missing_ok=True)
                yield
            finally:
                self._part.unlink(missing_ok=True)
                lock.path.unlink(missing_ok=True)
        finally:
            lock.close()

    def _copy(self, driver: sqlite3.Connection) -> None:
        with closing(sqlite3.connect(private_file(self._part), isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode=OFF")  # what is left of half a copy is removed, not rolled back
            target.execute("PRAGMA synchronous=OFF")
            driver.backup(target, pages=PAGES, progress=self._look)
        sync_file(self._part)

    def _look(self, *_: int) -> None:
        if self._unwanted:
            raise _Unwanted

    def _give_name(self) -> None:
        with self._turn:
            self._look()
            self._check_free()
            made = self._part.stat()
            self._link()
            self._named = made

    def _link(self) -> None:
        """Give the file its name: by a link, which replaces nothing that came meanwhile, where there are links."""
        try:
            os.link(self._part, self.path)
        except FileExistsError:
            raise self._taken() from None
        except OSError:
            self._check_free()
            self._part.rename(self.path)

    def _take_away(self) -> None:
        """End the copy, or remove the file if it is the one that this gave a name to."""
        with self._turn, suppress(OSError):
            self._unwanted = True
            if self._named is not None and _identity(self._named) == _identity(self.path.lstat()):
                self.path.unlink()


def _identity(file: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from another one in its place, which may have got the same inode number."""
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns
