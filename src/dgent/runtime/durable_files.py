"""What a durable file needs of the operating system, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from dgent.exceptions import DiskError, DiskFull, OutcomeUnknown, ReadOnly, ResourceExhausted, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK: Final = 2**20
_REFUSED: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENOENT}
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


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
    if error.errno in _EXHAUSTED:
        return ResourceExhausted(
            f"{path} cannot be opened ({reason}): close what is open, or raise the limit (`ulimit -n`)"
        )
    return DiskError(f"{path} cannot be read or written ({reason}): check the disk, then try again")


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of it: a single write may stop half-way."""
    with memoryview(data) as rest:
        at = 0
        while at < len(rest):
            at += os.write(fd, rest[at:])


def sync_directory(path: Path) -> None:
    """Make names that were made, renamed or removed in a directory survive a power loss."""
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make what somebody wrote into a file survive a power loss."""
    _sync(path, 0)


def _sync(path: Path, flag: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_private(path: Path, chunks: Iterator[bytes], *, replace: Path | None = None) -> None:
    """Write a new private file (0600) and sync it; with `replace`, move it there at once when it is whole.

    A file that lies at `path` is an earlier attempt and goes.

    Raises:
        OutcomeUnknown: it is there, but may not be after a power loss.
        OSError: it is not.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        waiting = bytearray()
        for chunk in chunks:
            waiting += chunk
            if len(waiting) >= _CHUNK:
                write_all(fd, waiting)
                waiting.clear()
        write_all(fd, waiting)
        os.fsync(fd)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)
    if replace is not None:
        path.rename(replace)
    try:
        sync_directory(path.parent)
    except OSError:
        raise OutcomeUnknown(
            f"{replace or path} was written, but its folder could not be synced: after a power loss it may be as before"
        ) from None


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
