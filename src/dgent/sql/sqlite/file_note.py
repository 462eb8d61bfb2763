"""What a process leaves in the lock's file about a SQLite file, for other processes and for the next start: one line.

    dgent 3 <device> <inode> <size> <mtime> of the file, <inode> of its -wal, <pending>, <in doubt>, <generation>
            and how far checkpoints had come, in five numbers or none: `wal_index`

`pending`: since that checkpoint something was committed, so the file is nothing without its `-wal`. `in doubt`: the
fsync of a commit failed, and the log was not put into the file since. `generation`: a random number, a new one each
time that somebody opens a file which the note does not describe. Whoever still has the one before open expects another
file, so what is noted since then is no checkpoint of a process of ours to him.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from dgent.sql.sqlite.wal_index import Progress

_MARK: Final = "dgent 3"

Main: TypeAlias = tuple[int, int, int, int]
"""What the file is, and whether it was written: device, inode, size, time of the last change in nanoseconds."""


class Note(NamedTuple):
    """What is left for the next one to look: see the head of this file."""

    main: Main
    log: int
    pending: bool
    in_doubt: bool
    generation: int
    progress: Progress | None

    def dump(self) -> bytes:
        """Return it as a line."""
        numbers = *self.main, self.log, int(self.pending), int(self.in_doubt), self.generation, *(self.progress or ())
        return f"{_MARK} {' '.join(map(str, numbers))}\n".encode()

    def is_of_another(self, main: Main, log: int) -> bool:
        """Tell whether the `-wal` that lies there holds commits of a file which another on the same disk has replaced.

        Where the device is another, too, the disk was mounted anew, or the folder copied: then this says nothing. Nor
        where nothing was pending: then the log may be gone since, and a new one of somebody else have its inode.
        """
        return self.pending and self.log == log and self.main[0] == main[0] and self.main[1] != main[1]

    @classmethod
    def load(cls, line: bytes) -> Note | None:
        """Return what `dump` wrote; None for everything else, as after a power loss."""
        with suppress(ValueError, TypeError):
            mark, format, *numbers = line[: line.index(b"\n")].decode().split()
            if f"{mark} {format}" == _MARK:
                device, inode, size, changed, log, pending, in_doubt, generation, *progress = map(int, numbers)
                main = device, inode, size, changed
                come = Progress(*progress) if progress else None
                return cls(main, log, bool(pending), bool(in_doubt), generation, come)
        return None
