"""How far the checkpoints of a SQLite file have come, which its wal-index (the `-shm`) tells while it is open here.

A checkpoint, by whatever program, leaves a trace in the wal-index: how many frames of the log were, or are being, put
into the file, and another log when it begins anew. A file that is copied over the database leaves none. What is read
of it, in the byte order of the machine but for the salts:

    0-47     the header, and again in 48-95: 0 version, 8 commits, 12 is valid, 16 frames of the log, 32 its two salts
    96, 128  frames that were put into the file, and frames that a checkpoint set out to put there

It is read where SQLite has it mapped, through /proc, where an address that is none any more is an error and no crash.
Nothing may open the `-shm`: closing it would drop SQLite's locks. Where it cannot be read (a system without /proc, a
file that is not open here, one in exclusive locking mode) the answer is None: nobody can tell.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = struct.Struct("=I4xIB3xI12x8s8x")
_CHECKPOINTS: Final = struct.Struct("=I28xI")
_SIZE: Final = 2 * _HEADER.size + _CHECKPOINTS.size
_VERSION: Final = 3_007_000
_LOG_HEAD, _PAGE_SIZE_AT, _FRAME_HEAD = 32, 8, 24
_FRAME: Final = struct.Struct(">4xI8s")
"""How a frame of the log begins: the pages of the database after the commit that it ends, or zero; the salts."""
_CHECKPOINT_LOCK: Final = 121  # the byte of the -shm that whoever checkpoints holds locked
_TRIES: Final = 100


class Progress(NamedTuple):
    """How far checkpoints had come.

    Attributes:
        log: which one, by its salts: each that begins anew has others.
        commits: since the index was made, modulo 2**32.
        frames: in the log.
        begun: those that a checkpoint set out to put into the file.
        done: those that are there.
    """

    log: int
    commits: int
    frames: int
    begun: int
    done: int

    @property
    def is_complete(self) -> bool:
        """Whether the file holds all that the log does."""
        return self.done == self.frames


class WalIndex:
    """The wal-index of a file, as long as a connection of this process has that open."""

    def __init__(self, path: Path) -> None:
        self._name, self._log_name = f"{path}-shm", f"{path}-wal"

    def read(self) -> Progress | None:
        """Return how far checkpoints have come; None where nobody can tell."""
        with suppress(OSError):
            address = self._address()
            if address is None:
                return None
            memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = (_parse(os.pread(memory, _SIZE, address)) for _ in range(_TRIES))
                return next((progress for progress in found if progress is not None), None)
            finally:
                os.close(memory)
        return None

    def checkpointed_since(self, noted: Progress | None) -> Progress | None:
        """Return how far checkpoints have come, if one wrote into the file since `noted`; None if none did.

        That is None as well where nobody can tell. What was written before this is called is explained by what it
        returns: SQLite says which frames it sets out to put into the file before it begins.
        """
        if noted is None:
            return None
        goes_on = noted.begun > noted.done and self._is_checkpointing()  # asked first: who ends now has come further
        now = self.read()
        if now is None:
            return None
        if now.log == noted.log:
            wrote = (now.begun, now.done) != (noted.begun, noted.done) or (goes_on and now.begun > now.done)
        else:  # a log begins anew only when all of the one before is in the file
            wrote = now.begun > 0 or not noted.is_complete or not self._has_all_since(noted, now)
        return now if wrote else None

    def _address(self) -> int | None:
        """Return where the beginning of the index is mapped."""
        inode, name = os.stat(self._name).st_ino, os.fsencode(os.path.realpath(self._name))  # noqa: PTH116
        for line in _lines("/proc/self/maps"):
            if name in line:
                span, _, offset, _, number, path = line.rstrip(b"\n").split(maxsplit=5)
                if path == name and int(number) == inode and not int(offset, 16):
                    return int(span.partition(b"-")[0], 16)
        return None

    def _is_checkpointing(self) -> bool:
        """Tell whether anybody checkpoints the file now, and did not die in it."""
        with suppress(OSError):
            inode = os.stat(self._name).st_ino  # noqa: PTH116
            for line in _lines("/proc/locks"):
                *_, kind, _, file, first, last = line.split()
                is_its = kind == b"WRITE" and file.endswith(b":%d" % inode) and last != b"EOF"
                if is_its and int(first) <= _CHECKPOINT_LOCK <= int(last):
                    return True
        return False

    def _has_all_since(self, noted: Progress, now: Progress) -> bool:
        """Tell whether the log holds every commit since `noted`, so that none was put into the file with one before it.

        The log may be opened: SQLite locks nothing in it.
        """
        with suppress(OSError):
            log = os.open(self._log_name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _commits(log, now) >= (now.commits - noted.commits) % 2**32
            finally:
                os.close(log)
        return True


def _parse(index: bytes) -> Progress | None:
    """Return what the beginning of an index says; None where somebody is just writing it, or it is not valid."""
    if len(index) < _SIZE or index[: _HEADER.size] != index[_HEADER.size : 2 * _HEADER.size]:
        return None
    version, commits, is_valid, frames, salts = _HEADER.unpack_from(index)
    done, begun = _CHECKPOINTS.unpack_from(index, 2 * _HEADER.size)
    begun = max(begun, done)  # SQLite before 3.15 says only what is done
    if version != _VERSION or not is_valid or begun > frames:  # the log begins anew: these are numbers of the last one
        return None
    return Progress(int.from_bytes(salts, "big"), commits, frames, begun, done)


def _commits(log: int, progress: Progress) -> int:
    """Count the frames of an open log that end a commit."""
    frame = _FRAME_HEAD + int.from_bytes(os.pread(log, 4, _PAGE_SIZE_AT), "big")
    salts = progress.log.to_bytes(8, "big")
    heads = (os.pread(log, _FRAME.size, _LOG_HEAD + number * frame) for number in range(progress.frames))
    found = (_FRAME.unpack(head) for head in heads if len(head) == _FRAME.size)
    return sum(pages > 0 and its == salts for pages, its in found)


def _lines(name: str) -> Iterator[bytes]:
    with Path(name).open("rb") as file:
        yield from file
