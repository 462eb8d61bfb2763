"""Folders and files that only their owner can enter and read, and a warning where one of them is not so."""

from __future__ import annotations

import errno
import os
import stat
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from dgent.exceptions import DgentError, DiskError, DiskFull, InvalidInput, ReadOnly, ResourceExhausted
from dgent.warnings import PrivacyWarning

if TYPE_CHECKING:
    from pathlib import Path

OTHERS = 0o077


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter (0700), parents included, and return it.

    Raises:
        ReadOnly: it cannot be made, or is no directory.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        if not path.is_dir():
            raise ReadOnly(f"{path} is not a directory: move it away, or set KGENTS_DATA_DIR")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, DgentError):
            raise
        raise _not_made(f"cannot make the directory {path}", error) from None
    return path


def look_at_directory(path: Path) -> None:
    """Warn if other users can enter a directory of this user in which data lies; what is not there is made privately.

    One of somebody else's, or one that all share, as /tmp, is not for this user to close.
    """
    with suppress(OSError):  # what cannot be looked at, others will say
        status = path.stat()
        shared = status.st_mode & stat.S_ISVTX or status.st_uid != os.geteuid()
        if stat.S_ISDIR(status.st_mode) and status.st_mode & OTHERS and not shared:
            warn_of(path, "entered", 0o700)


def look_at_files(*paths: Path) -> None:
    """Warn of files that other users can read or write; call it once they are known to be a store's."""
    for path in paths:
        with suppress(OSError):
            if path.lstat().st_mode & OTHERS:
                warn_of(path, "read", 0o600)


def private_file(path: Path) -> Path:
    """Create a file that only its owner can read (0600) if it is not there, and return its path.

    Never opens a file that exists: closing it would drop the locks that SQLite holds on it. What a file is that was
    there before is not known yet, so nothing is said of its mode. A symbolic link is refused.

    Raises:
        ReadOnly: it cannot be made, or is no regular file.
    """
    private_directory(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600))
    except FileExistsError:
        if problem := _no_file(path.lstat().st_mode):
            raise ReadOnly(f"{path} is {problem}") from None
    except (OSError, ValueError) as error:
        raise _not_made(f"cannot create {path}", error) from None
    return path


def read_regular(path: Path, most: int, *, links: bool = True) -> tuple[bytes, os.stat_result]:
    """Return what a file holds, up to one byte more than `most`, and its status. It waits for no pipe.

    Raises:
        OSError: it cannot be read, or is no regular file; with `links` off, also where it is a link.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return os.read(fd, most + 1), status
    finally:
        os.close(fd)


def replace_private(path: Path, content: bytes) -> None:
    """Put a file that only its owner can read in the place of another: a reader sees the old one or the new one, whole.

    Raises:
        OSError: the old one is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _no_file(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "a folder: name a file, which may lie in it"
    return "a link, and none is followed here: name what it leads to" if stat.S_ISLNK(mode) else "no regular file"


def _not_made(what: str, error: OSError | ValueError) -> DgentError:
    """Return what an error while something is made means: what the machine lacks is no matter of rights."""
    said = f"{what}: {getattr(error, 'strerror', None) or error}"
    match getattr(error, "errno", None):
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            return ResourceExhausted(f"{said}: close file descriptors, or raise the limit (`ulimit -n`)")
        case errno.ENOSPC | errno.EDQUOT:
            return DiskFull(f"{said}: free some space, then try again")
        case errno.EIO:
            return DiskError(f"{said}: check the disk, then try again")
        case errno.ENAMETOOLONG:
            return InvalidInput(f"{said}: choose a shorter one, since files beside it have longer ones")
    return ReadOnly(said)


def warn_of(path: Path, verb: str, mode: int) -> None:
    """Warn that other users can do this with a file or a folder of ours, with the command to type."""
    warnings.warn(f"{path} can be {verb} by other users: run `chmod {mode:o} {path}`", PrivacyWarning, stacklevel=4)
