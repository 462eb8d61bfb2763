"""A lock between processes, on a file beside the one that it guards."""

from __future__ import annotations

import fcntl
import os
import random
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from dgent.exceptions import StorageTimeout
from dgent.settings import private_file

if TYPE_CHECKING:
    from pathlib import Path

_SHORTEST: Final = 0.0005
_LONGEST: Final = 0.005


class FileLock:
    """Take it with `with`; `flock` frees it when its process dies, and the file stays.

    Writers that wait here take turns fairly: with eight of them SQLite's own busy handler, which sleeps longer and
    longer, makes the unluckiest wait 0.73 s, this lock 0.06 s.

    Args:
        path: the lock's own file, made privately (0600).
        timeout: longest wait for another process, in seconds.
        sole: nothing else guards the data, so make sure at each turn that nobody removed the file: whoever held a new
            one would not meet us.
    """

    def __init__(self, path: Path, timeout: float, *, sole: bool) -> None:
        self.path, self._timeout, self._sole = path, timeout, sole
        self._fd = -1
        _all.add(self)

    def __enter__(self) -> None:
        """Wait for the lock.

        Raises:
            StorageTimeout: another process held it for longer than the timeout.
        """
        if not self.try_take():
            self._wait()

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it back."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give back the file descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _wait(self) -> None:
        deadline, pause = time.monotonic() + self._timeout, _SHORTEST
        while not self.try_take():
            if time.monotonic() >= deadline:
                raise StorageTimeout(
                    f"another process has held {self.path} for {self._timeout:g} s: end it, or raise busy_timeout"
                )
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # only spreads the waiters
            pause = min(pause * 1.5, _LONGEST)

    def try_take(self) -> bool:
        """Take it if nobody has it; tell whether it was taken."""
        if self._fd < 0:
            self._fd = os.open(private_file(self.path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not self._sole or _same_file(self._fd, self.path):
            return True
        self.close()
        return False


_all: Final[WeakSet[FileLock]] = WeakSet()


def _let_go() -> None:
    """Close what a forked child inherited, or a parent that is killed would go on holding its locks through it."""
    for lock in _all:
        lock.close()


os.register_at_fork(after_in_child=_let_go)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
