"""A lock between processes, on a file beside the one that it guards."""

# state     who                                        what it does
# free      nobody has the file locked
# held      one open descriptor, of one process        `release`, `close` and the death of the process free it
# waiting   the others, of the same process too        `with` blocks their thread, which sleeps up to 5 ms between two
#                                                      tries and gives up after the timeout; `try_take` says False
# stale     one that locked a removed file             closes that, and opens the new one at its next try
#
# No event loop is in play: a cancel reaches nobody who waits or holds. Taken twice through one object it succeeds
# twice, so whoever shares one decides before who may use it: the threads of a SQLite file by `WriteLock`, a journal by
# its one thread. After a fork the child closes its descriptors, which unlocks nothing; the parent goes on holding what
# it held.

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from dgent.exceptions import Corrupt, StorageTimeout
from dgent.runtime.backoff import Backoff
from dgent.runtime.private_files import private_file

if TYPE_CHECKING:
    from pathlib import Path

_NOTE: Final = 255
_SHORTEST: Final = 0.0005
_LONGEST: Final = 0.005


class FileLock:
    """A lock between processes: take it with `with`, on any thread that may block; no cancel ends the wait.

    `flock` frees it when its process dies, and the file stays.

    Writers that wait here take turns fairly: with eight of them SQLite's own busy handler, which sleeps longer and
    longer, makes the unluckiest wait 0.73 s, this lock 0.06 s.

    Each turn makes sure that nobody removed the file: whoever held a new one would not meet us.

    Args:
        path: the lock's own file, made privately (0600).
        timeout: longest wait for another process, in seconds.
        sole: nothing else guards the data, so make also sure that the file was not moved.
    """

    def __init__(self, path: Path, timeout: float, *, sole: bool) -> None:
        self.path, self._name, self._timeout, self._sole = path, str(path), timeout, sole
        self._fd, self._known = -1, False
        _all.add(self)

    def __enter__(self) -> None:
        """Wait for the lock.

        Raises:
            StorageTimeout: another process held it for longer than the timeout.
            Corrupt: its folder is gone.
        """
        if not self.try_take():
            self._wait()

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it back."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def read(self) -> bytes:
        """Return the note and the mark that a holder left in the file; nothing where nobody has. For any thread."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, _NOTE + 1, 0)
        finally:
            os.close(fd)

    def write(self, note: bytes) -> None:
        """Leave something for the next holder, of at most 255 bytes; while the lock is held."""
        with suppress(OSError):  # a full disk: the next holder finds what does not fit, and looks for itself
            os.pwrite(self._fd, note.ljust(_NOTE), 0)

    def mark(self, mark: bytes) -> None:
        """Leave one byte behind the note, which `read` returns last: for what may be cut off by the holder's death."""
        try:  # twice in each commit, and a block of `suppress` costs as much again
            os.pwrite(self._fd, mark, _NOTE)
        except OSError:
            return

    def _open(self) -> int:
        """Open the file, made if need be; its folder only the first time: later it was moved with all that is in it."""
        if self._known and not self.path.parent.is_dir():
            raise Corrupt(f"{self.path.parent} was removed or moved while it was in use: stop, and put it back")
        fd = os.open(private_file(self.path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._known = True
        return fd

    def close(self) -> None:
        """Give back the file descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _wait(self) -> None:
        deadline, backoff = time.monotonic() + self._timeout, Backoff(_SHORTEST, _LONGEST)
        while not self.try_take():
            if time.monotonic() >= deadline:
                raise StorageTimeout(
                    f"another process has held {self.path} for {self._timeout:g} s: end it, or raise busy_timeout"
                )
            time.sleep(backoff.pause())

    def try_take(self) -> bool:
        """Take it if nobody has it; tell whether it was taken."""
        if self._fd < 0:
            self._fd = self._open()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _same_file(self._fd, self._name) if self._sole else os.fstat(self._fd).st_nlink:
            return True
        self.close()
        return False


_all: Final[WeakSet[FileLock]] = WeakSet()


def _let_go() -> None:
    """Close what a forked child inherited, or a parent that is killed would go on holding its locks through it."""
    for lock in _all:
        lock.close()


os.register_at_fork(after_in_child=_let_go)


def _same_file(fd: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(name))  # a third of what Path.lstat takes
    except FileNotFoundError:
        return False
