"""What a durable file needs of the operating system, with errors that say what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from dgent.exceptions import BackendUnavailable, DiskFull, ReadOnly, StorageError, StorageTimeout
from dgent.settings import private_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Raise what the operating system says of a file as a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(path, error) from None


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the StorageError that an OSError means."""
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return DiskFull(
            f"{path} cannot grow ({reason}): free some space, then write again; nothing acknowledged is lost"
        )
    if error.errno in _REFUSED:
        return ReadOnly(f"{path} cannot be written ({reason}): check the owner and the mode of the file and its folder")
    return BackendUnavailable(f"{path} does not answer ({reason}): check the disk, then try again")


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: a single write may stop half-way."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_directory(path: Path) -> None:
    """Make names that were made, renamed or removed in a directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_private(path: Path, chunks: Iterator[bytes], *, replace: Path | None = None) -> None:
    """Write a new private file (0600) and sync it; with `replace`, move it there at once when it is whole.

    A file that lies at `path` is an earlier attempt and goes.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        for chunk in chunks:
            write_all(fd, chunk)
        os.fsync(fd)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)
    if replace is not None:
        path.rename(replace)
    sync_directory(path.parent)


class FileLock:
    """A lock between processes, on a file beside the one that it guards; `flock` frees it when its process dies."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self._timeout = path, timeout
        self._fd = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for a block.

        Raises:
            StorageTimeout: another process held it for longer than the timeout.
        """
        self._acquire()
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give back the file descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _acquire(self) -> None:
        deadline, pause = time.monotonic() + self._timeout, 0.0005
        while not self._try():
            if time.monotonic() > deadline:
                raise StorageTimeout(
                    f"another process has held {self.path} for {self._timeout:g} s: end it, or raise busy_timeout"
                )
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # only spreads the waiters
            pause = min(pause * 2, 0.02)

    def _try(self) -> bool:
        if self._fd < 0:
            self._fd = os.open(private_file(self.path), os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _same_file(self._fd, self.path):
            return True
        self.close()  # somebody removed the file: who holds the new one would not meet us
        return False


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def set_aside(path: Path, start: int) -> Path:
    """Cut a file at `start` and keep what came after in `<name>.torn-<n>`; return the path of that."""
    with path.open("rb") as file:
        file.seek(start)
        rest = file.read()
    n = 1
    while (aside := path.with_name(f"{path.name}.torn-{n}")).exists():
        n += 1
    write_private(aside, iter([rest]))
    with path.open("r+b") as file:
        file.truncate(start)
        os.fsync(file.fileno())
    return aside
