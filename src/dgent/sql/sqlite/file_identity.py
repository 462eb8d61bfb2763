"""Whose the `-wal` beside a SQLite file is, and whether all three files are still those that were opened.

SQLite itself asks neither. It puts any `-wal` whose own checksums hold over any file of that name, and goes on writing
into one that nobody can find any more. So before each transaction and before each acknowledgement the names are looked
at: no file may have been exchanged, and the file itself, in which only a checkpoint writes, is as the last checkpoint
left it. What that was stands in the lock's file (`file_note`), for other processes and the next start.

A note that disagrees is no fault by itself: a process may have died between its checkpoint and its note, a folder may
have been copied to another machine. Then, and only then, the whole is checked (`integrity_check`). While it is open
that is so only if somebody died in his commit, for which each commit leaves a mark behind the note until it is settled.
Else it was not ours who wrote: another program that checkpointed, where checkpoints have come further since the note,
or one that copied something over the file. Whoever opens a file with that mark, or after such a checkpoint, keeps the
generation: the others go on with it.
"""

# Everything here is used under the lock between processes, by whoever holds this process's write lock, but for `look`:
#
# the writer's thread                            checks, commits, settles and notes
# a thread that begins a transaction by itself   checks
# any thread that reads                          `look`: it takes no lock, and only compares. It may meet a commit
#                                                half-way; then it says that it is unsure, and the writer looks, under
#                                                the lock
# other processes                                wait for the lock; what they find in its file is the note, and the
#                                                mark of one that died in a commit
#
# No event loop is in play: a cancel reaches nothing here. Nothing opens the file or its `-shm`: closing either would
# drop SQLite's locks.

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Final

from dgent.exceptions import Corrupt, OutcomeUnknown
from dgent.runtime.private_files import private_file
from dgent.sql.sqlite.file_note import Note
from dgent.sql.sqlite.integrity_check import check_whole, held_open
from dgent.sql.sqlite.wal_index import WalIndex

if TYPE_CHECKING:
    from pathlib import Path

    from dgent.runtime.file_lock import FileLock
    from dgent.sql.sqlite.file_note import Main
    from dgent.sql.sqlite.wal_index import Progress

_TICK: Final = 50_000_000  # nanoseconds
_O_PATH: Final = getattr(os, "O_PATH", 0)  # Linux has it
_BUSY: Final = b"*"
_DONE: Final = b" "


class Files:
    """A SQLite file with its `-wal` and `-shm`, as the connections of this process have them open.

    Attributes:
        in_doubt: the fsync of a commit failed, and the log was not put into the file since.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self.lock = path, lock
        self._name, self._log_name, self._index_name = str(path), f"{path}-wal", f"{path}-shm"
        self._main: Main | None = None
        self._log = self._index = 0
        self._log_changed = 0
        self._pending = False
        self._generation = 0
        self._wal_index = WalIndex(path)
        self._progress: Progress | None = None  # no later than `_main`: what is not in it yet may be in the file
        self._just_opened = False
        self._note: Note | None = None
        self.in_doubt = False
        self._here: int | str = self._name
        self._folder: int | str = str(path.parent)
        self._folder_seen = 0

    def belong_together(self) -> bool:
        """Tell whether what lies there, before anything of it is opened, is what the note says.

        Raises:
            Corrupt: a `-wal` that holds commits is gone, or lies there without its file or beside another.
        """
        note = self._note = Note.load(self.lock.read())
        main, (log, size, _) = _main(self._name), _stat(self._log_name)
        if size and (main is None or not main[2]):
            raise Corrupt(
                f"{self._log_name} holds commits, but {self.path} is gone or empty: put the file back, or move the "
                "-wal away, which SQLite would remove. Nothing was written"
            )
        self.in_doubt = note is not None and note.in_doubt
        self._generation = 0 if note is None else note.generation
        if size and main is not None and note is not None and note.is_of_another(main, log):
            raise Corrupt(
                f"{self._log_name} holds commits of a file that was here before {self.path}: put that back, or move "
                f"the -wal away. If both were put here together, remove {self.lock.path}. Nothing was written"
            )
        same = note is not None and note.main == main
        if size and same:
            return note is not None and note.log == log
        if same and note is not None and note.pending:
            raise Corrupt(
                f"{self._log_name} is gone or was emptied, and commits of {self.path} were in it: put it back, or "
                f"restore both from a backup. To go on with what is left, remove {self.lock.path}"
            )
        return same

    @property
    def needs_reading(self) -> bool:
        """Whether only reading everything tells what lies there: a `-wal`, or what a process left that was killed."""
        return bool(_stat(self._log_name)[1]) or self._holder_died

    @property
    def _holder_died(self) -> bool:
        return self._note is not None and self.lock.read().endswith(_BUSY)

    def accept(self) -> None:
        """Take down what lies there, which `belong_together` does not know and which is whole; made if it is not there.

        Under the lock. Whoever has what was there before open does not go on with it, but where somebody died in a
        commit, or another program's checkpoint made of it what it is.
        """
        if not self._holder_died and not self._was_checkpointed:
            self._generation = secrets.randbits(48)
        if _main(self._name) is None:
            private_file(self.path)
        self.adopt()
        self._write()
        self.end()

    @property
    def _was_checkpointed(self) -> bool:
        """Whether another program's checkpoint made of the file what it is since the note, as its index tells."""
        note, main = self._note, _main(self._name)
        if note is None or main is None or main[:2] != note.main[:2] or not _stat(self._index_name)[0]:
            return False
        with held_open(self.path):
            return self._wal_index.checkpointed_since(note.progress) is not None

    def adopt(self) -> None:
        """Take what lies there for what was just opened."""
        self._progress = self._wal_index.read()
        self._just_opened = True
        self._main = _main(self._name)
        self._log, size, self._log_changed = _stat(self._log_name)
        self._index = _stat(self._index_name)[0]
        self._folder_seen = 0
        note = self._note
        self._pending = bool(size) and note is not None and note.pending and note.main == self._main

    def hold(self) -> None:
        """Keep a way to look at the file and its folder that takes a third of the time, until `close`.

        A descriptor made by O_PATH opens nothing: to close it drops no lock.
        """
        self._let_go()
        if _O_PATH:
            self._here = os.open(self._name, _O_PATH | os.O_CLOEXEC)
            self._folder = os.open(self.path.parent, _O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Give back the descriptors, the lock's too."""
        self._let_go()
        self.lock.close()

    def _let_go(self) -> None:
        held = [each for each in (self._here, self._folder) if isinstance(each, int)]
        self._here, self._folder = self._name, str(self.path.parent)
        for descriptor in held:
            os.close(descriptor)

    def check(self) -> None:
        """Make sure, before a transaction, that it would go into the files that others find.

        Raises:
            Corrupt: one of them was removed, replaced, or written by somebody else.
        """
        main = _main(self._name)
        if main != self._main:
            self._admit(main)
        elif self._just_opened:
            self._renew()
        if not self._names_hold():
            raise self.exchanged()

    def _names_hold(self) -> bool:
        """Tell whether the other two files have their names, which takes no look where no name in the folder changed.

        The folder's time counts when it is older than the tick of the clock that it was taken from.
        """
        changed = _time(self._folder)
        if changed and changed == self._folder_seen:
            return True
        self._folder_seen = changed if changed < time.time_ns() - _TICK else 0
        return _stat(self._log_name)[0] == self._log and _stat(self._index_name)[0] == self._index

    def look(self) -> bool:
        """Look at the names, without the lock, and tell whether the file was written by nobody knows whom yet.

        Raises:
            Corrupt: one of them was removed or replaced.
        """
        main = _main(self._name)
        if main is None or self._main is None or main[:2] != self._main[:2]:
            raise self.exchanged()
        if _stat(self._log_name)[0] != self._log or _stat(self._index_name)[0] != self._index:
            raise self.exchanged()
        return main != self._main and not self._is_ours(main, Note.load(self.lock.read()))

    def _is_ours(self, main: Main | None, note: Note | None) -> bool:
        """Tell whether a process of ours that opened the same file noted that it wrote this into it."""
        return note is not None and note.main == main and note.generation == self._generation

    def _checkpointed_since(self, note: Note | None) -> Progress | None:
        """Return how far checkpoints have come, if another program's made of the file what it is since the note."""
        if note is None or note == self._note:
            return self._wal_index.checkpointed_since(self._progress)
        if note.generation != self._generation:
            return None
        return self._wal_index.checkpointed_since(note.progress or self._progress)

    @property
    def log_is_gone(self) -> bool:
        """Whether nothing has the name of the `-wal`, while the file is the one that was opened."""
        return self.is_the_same and not _stat(self._log_name)[0]

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody wrote into the file since it was opened."""
        return _main(self._name) == self._main

    @property
    def is_the_same(self) -> bool:
        """Whether the file that has the name is the one that was opened, whatever was written into it."""
        main = _main(self._name)
        return main is not None and self._main is not None and main[:2] == self._main[:2]

    @property
    def overwritten(self) -> bool:
        """Whether somebody else wrote into the file: what is in the log must not be put over it."""
        main = _main(self._name)
        if main is None or self._main is None or main[:2] != self._main[:2] or main == self._main:
            return False  # another file: SQLite itself does not checkpoint into that
        note = Note.load(self.lock.read())
        return not self._is_ours(main, note) and self._checkpointed_since(note) is None

    def begin(self) -> None:
        """Leave a mark, by which others see that whoever commits or checkpoints now died in it."""
        self.lock.mark(_BUSY)

    def end(self) -> None:
        """Take it away."""
        self.lock.mark(_DONE)

    def settle(self) -> None:
        """Take a commit down: before it is acknowledged.

        Raises:
            OutcomeUnknown: it went into files that others do not find.
        """
        noted = self._pending or _stat(self._log_name)[2] == self._log_changed
        if noted and _main(self._here) == self._main and self._names_hold():
            return
        progress = self._wal_index.read()
        main = _main(self._name)
        log, _, changed = _stat(self._log_name)
        if main is None or self._main is None or main[:2] != self._main[:2] or log != self._log:
            raise OutcomeUnknown(
                f"{self.path} or its -wal was removed or replaced while something was committed: stop, put the files "
                "back, and look for the write"
            )
        self._pending = main == self._main and (self._pending or changed != self._log_changed)
        if progress is not None:
            self._progress, self._pending = progress, not progress.is_complete
        self._main, self._log_changed = main, changed
        self._write()

    def doubt(self) -> None:
        """Take down that the fsync of a commit failed."""
        self.in_doubt = True
        self.note()

    def note(self) -> None:
        """Take down what lies there now, after a checkpoint, a close, or a commit that failed."""
        progress = self._wal_index.read()
        main, (_, size, self._log_changed) = _main(self._name), _stat(self._log_name)
        if main is None or self._main is None or main[:2] != self._main[:2]:
            return
        note = Note.load(self.lock.read())
        if note is not None and self._is_ours(main, note):  # another of ours may have committed since
            self._pending, self._progress = self._pending or note.pending, note.progress
        self._pending = self._pending and main == self._main and bool(size)
        if main != self._main and progress is not None:
            self._progress = progress
        elif not _stat(self._index_name)[0]:  # whoever opens it next makes another
            self._progress = None
        self._main = main
        self._write()

    def _write(self) -> None:
        assert self._main is not None  # noqa: S101  # both who call have seen to it
        note = Note(self._main, self._log, self._pending, self.in_doubt, self._generation, self._progress)
        if note != self._note:
            self.lock.write(note.dump())
            self._note = note

    def _renew(self) -> None:
        """Note how far checkpoints had come when it was opened: the index may be another than that of the note."""
        self._just_opened = False
        note = Note.load(self.lock.read())
        if note is not None and self._is_ours(self._main, note):
            self._note = note._replace(progress=self._progress)
            self.lock.write(self._note.dump())

    def _admit(self, main: Main | None) -> None:
        """Accept what a checkpoint wrote into the file: one of another process of ours, or of another program."""
        if main is None or self._main is None or main[:2] != self._main[:2]:
            raise self.exchanged()
        left = self.lock.read()
        note = Note.load(left)
        if note is not None and self._is_ours(main, note):
            self._main, self._note, self._pending = main, note, note.pending
            self._progress = note.progress or self._progress
        elif left.endswith(_BUSY) and (note is None or note.generation == self._generation):
            check_whole(self.path)  # somebody died in his commit
            self._main, self._pending = main, False
            self._write()
        elif (progress := self._checkpointed_since(note)) is not None:
            self._take(progress)
        else:
            raise Corrupt(
                f"{self.path} was written while it was open, not by D-gent, as when a backup is copied over it or, "
                "where no /proc shows it, another program checkpoints it: close it and open it again, when it is read "
                "whole"
            )

    def _take(self, progress: Progress) -> None:
        """Take the file as it is after another program's checkpoint, which may still go on."""
        main = _main(self._name)
        if main is None or self._main is None or main[:2] != self._main[:2]:
            raise self.exchanged()
        self._main, self._progress, self._pending = main, progress, not progress.is_complete
        self._write()

    def exchanged(self) -> Corrupt:
        """Return the error that says so."""
        return Corrupt(
            f"{self.path}, its -wal or its -shm was removed or replaced while it was open: stop, put the file back "
            "with its -wal file, and open it again"
        )


def _main(name: int | str) -> Main | None:
    try:
        status = os.stat(name)  # noqa: PTH116  # a microsecond instead of three, once a commit
    except OSError:  # FileNotFoundError, or a folder that cannot be entered any more
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _time(name: int | str) -> int:
    try:
        return os.stat(name).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _stat(name: str) -> tuple[int, int, int]:
    """Return the inode, the size and the time of the last change; zeros where there is none."""
    try:
        status = os.stat(name)  # noqa: PTH116
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns
