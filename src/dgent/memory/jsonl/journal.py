"""A store's state that is kept in a file which several processes append to: one line and one sync per flush.

A sync that fails is never simply made again: the kernel takes what it could not write for written, and says so next
time. The file is in doubt from then on, for every process, by a word in the lock's file; who writes next puts a new
file of the next generation in its place first, and nothing is acknowledged before that is safe.

In place, nobody but this code writes into the file, and only at its end. So an inode, a size and a time that are as
they were mean that it is as it was; where they are not, what was read before is looked for in it again.
"""

# step of a write   what others of this process see                   other processes
# wait              a read finds whether the file is as it was,       one of them has the file's lock
#                   without the lock; else it waits for this thread
# catch up          nothing new yet, but what was replayed, under     wait for the file's lock; this thread blocks at
#                   the state's lock                                  it for up to `lock_timeout`
# append, sync      what was there before: while `_busy` is set,      the same
#                   what is new in the file is of this thread
# show              all of it, under the state's lock                 the same
# in doubt          what was acknowledged; no write is, until the     know it by the word in the lock's file
#                   file is renewed
#
# Everything runs on the one thread of the store but `is_current` and the attributes. No event loop is in play, so no
# cancel comes in between: a flush ends whole, fails, or dies with the process, which leaves a torn line or none.

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from dgent.datum_id import uuid7
from dgent.exceptions import BackendUnavailable, Corrupt, DiskFull, OutcomeUnknown, StorageError
from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion
from dgent.memory.inmemory.store_state import Clock, StoreState
from dgent.memory.jsonl.line_format import MARK, TOUCHES, Header, Touched, flush_line, flushed, unseal
from dgent.runtime.durable_files import os_errors, set_aside, storage_error, write_all, write_private
from dgent.runtime.file_lock import FileLock
from dgent.runtime.private_files import look_at_files, private_directory, private_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from dgent.limits import Limits
    from dgent.memory.inmemory.store_state import Doomed
    from dgent.memory.write_batch import WriteBatch

_DOUBT: Final = b"in doubt"
_TAIL: Final = 64
_log: Final = logging.getLogger("dgent.memory")


class Journal:
    """One thread uses it; only `is_current` and the attributes are for any thread.

    Attributes:
        state: what the file held when this process last looked.
    """

    def __init__(self, path: Path, limits: Limits, clock: Clock, lock_timeout: float) -> None:
        self.path = path
        self.state = StoreState(limits, clock)
        self._limits, self._clock = limits, clock
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), lock_timeout, sole=True)
        self._fd = -1
        self._header = Header("", 0, 0, {})
        self._seen = (0, 0, 0)  # inode, acknowledged size, last change; in one assignment for the readers
        self._tail = b""  # the last bytes that are acknowledged
        self._in_doubt = False
        self._lines = 0
        self._busy = False

    @property
    def size(self) -> int:
        """Bytes of the file that are acknowledged."""
        return self._seen[1]

    @property
    def generation(self) -> int:
        """How often the file was rewritten, from 1."""
        return self._header.generation

    @property
    def store(self) -> str:
        """The id of the store, empty before the first look."""
        return self._header.store

    def is_current(self) -> bool:
        """Tell whether the state has everything that was acknowledged before this call, by any process."""
        try:
            found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116  # twice as fast as Path.stat
        except OSError:
            return False  # the look under the lock says what is wrong
        # While this process writes it holds the lock and has caught up: what is new in the file is its own.
        return (found.st_ino, found.st_size, found.st_mtime_ns) == self._seen or self._busy

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes out for a block, which sees all that they have written.

        Raises:
            StorageTimeout: another process has the lock.
            Corrupt: the file is not what it was, or no such file.
            SchemaTooNew: a newer D-gent wrote it.
            ReadOnly: it cannot be written.
            DiskFull: the header has no room.
            BackendUnavailable: the disk failed.
        """
        with os_errors(self.path):
            if not self._header.store:  # else the folder was there, and is not to be made again
                private_directory(self.path.parent)
            with self._lock:
                self._catch_up()
                self._busy = True
                try:
                    yield
                finally:
                    self._busy = False

    def append(self, batches: Collection[WriteBatch[StoredVersion]]) -> None:
        """Make what batches erase, touch and append safe, then show it; inside of `exclusive`.

        Raises:
            DiskFull: the file is as it was.
            ReadOnly: the file is as it was.
            BackendUnavailable: the file is as it was.
            OutcomeUnknown: not even that is sure.
        """
        planned = [batch for batch in batches if batch]
        if any(batch.purged for batch in planned):  # nothing of it may be left in the file
            self._keep_after(planned)
        elif planned:
            self._append_line(planned)
        with self.state.lock:
            self.state.take(planned)

    def _append_line(self, batches: Collection[WriteBatch[StoredVersion]]) -> None:
        if self._in_doubt:
            self._renew()
        touched = [(batch.namespace, stored) for batch in batches for stored in batch.touched.values()]
        if touched and self._header.format < TOUCHES:  # a program that would take a touch for a delete reads on no more
            self._replace(self._contents(), self._heads(), TOUCHES)
        rows = [(batch.namespace, stored) for batch in batches for stored in batch.rows]
        line = flush_line(self._lines + 1, rows, touched)
        try:
            write_all(self._fd, line)
            self._sync(self._fd)
        except OSError as error:
            self._take_back()
            raise storage_error(self.path, error) from None
        self._mark(self._lines + 1, self.size + len(line), line)

    def _keep_after(self, batches: Collection[WriteBatch[StoredVersion]]) -> None:
        """Put a file in the place of this one that holds what there is after some batches."""
        planned = {batch.namespace: batch for batch in batches}
        kept: list[tuple[str, StoredVersion]] = []
        for name, stored in self._contents():
            batch = planned.get(name)
            if batch is None or stored.id not in batch.purged:
                touched = None if batch is None else batch.touched.get(stored.id)
                kept.append((name, touched if touched and touched.version == stored.version else stored))
        kept += [(batch.namespace, stored) for batch in batches for stored in batch.rows]
        moved = {batch.namespace: (batch.seq, batch.stored_at) for batch in batches if batch.moves}
        self._replace(kept, {**self._heads(), **moved}, self._header.format)

    def forget(self, doomed: Doomed) -> None:
        """Put a file without these versions in the place of this one; inside of `exclusive`."""
        gone = {name: {stored.seq for stored in versions} for name, versions in doomed.versions.items()}
        kept = [(name, stored) for name, stored in self._contents() if stored.seq not in gone.get(name, ())]
        heads = {name: head for name, head in self._heads().items() if name not in doomed.names}
        if mark := self.state.mark_after(doomed):
            heads[MARK] = mark, 0.0
        self._replace(kept, heads, self._header.format)
        with self.state.lock:
            self.state.forget(doomed)

    def close(self) -> None:
        """Give back the file descriptors."""
        self._lock.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _renew(self) -> None:
        """Make safe what a failed sync left in doubt.

        Raises:
            BackendUnavailable: the disk does not take it; nothing is written until it does. DiskFull
        """
        try:
            self._replace(self._contents(), self._heads(), self._header.format)
        except DiskFull:
            raise
        except StorageError:
            raise BackendUnavailable(
                f"{self.path}: the disk failed at a sync, and the file could not be written anew since: nothing is "
                "written until it can be; look after the disk"
            ) from None

    def _contents(self) -> list[tuple[str, StoredVersion]]:
        states = self.state.namespace_states
        return [(name, stored) for name, namespace_state in states.items() for stored in namespace_state]

    def _heads(self) -> dict[str, tuple[int, float]]:
        heads = {name: (state.seq, state.stored_at) for name, state in self.state.namespace_states.items()}
        return {MARK: (self.state.mark, 0.0), **heads} if self.state.mark else heads

    def _replace(self, kept: list[tuple[str, StoredVersion]], heads: dict[str, tuple[int, float]], format: int) -> None:
        """Put a file of the next generation in the place of this one.

        Raises:
            StorageError: the file is as it was, or, with OutcomeUnknown, in doubt.
        """
        header = Header(self._header.store, self._header.generation + 1, len(kept), heads, format)
        try:
            self._write(header, kept)
        except OutcomeUnknown:
            self._doubt()
            raise
        except OSError as error:
            raise storage_error(self.path, error) from None
        self._follow(header)
        if self._in_doubt:
            self._in_doubt = False
            self._lock.write(b"")

    def _sync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            self._doubt()
            raise

    def _doubt(self) -> None:
        self._in_doubt = True
        self._lock.write(_DOUBT)

    def _write(self, header: Header, kept: list[tuple[str, StoredVersion]]) -> None:
        def chunks() -> Iterator[bytes]:
            yield header.line()
            for number, one in enumerate(kept, start=2):
                yield flush_line(number, [one])

        write_private(self.path.with_name(f"{self.path.name}.tmp"), chunks(), replace=self.path)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.size)
            self._sync(self._fd)
            self._mark(self._lines, self.size)
        except OSError:
            self._doubt()
            raise OutcomeUnknown(
                f"{self.path} failed while it was written and could not be cut back: read again to see what is in it"
            ) from None

    def _catch_up(self) -> None:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            self._begin()
            return
        if self._fd < 0 or found.st_ino != self._seen[0]:
            self._load()
        elif found.st_size < self.size:
            raise Corrupt(f"{self.path} is shorter than what was acknowledged in it: restore it from a backup")
        elif (found.st_ino, found.st_size, found.st_mtime_ns) != self._seen:
            self._resume(found.st_size)

    def _begin(self) -> None:
        if self._header.store:
            raise Corrupt(f"{self.path} was removed while it was open: restore it from a backup, or make a new store")
        header = Header(uuid7(), 1, 0, {})
        self._write(header, [])
        self._follow(header)

    def _load(self) -> None:
        """Read the whole file: at the first look, and after another process rewrote it."""
        fd = self._open()
        with os.fdopen(os.dup(fd), "rb") as file:
            try:
                first = file.readline()
                begun = bool(self._header.store) or not Header.is_torn(first)
                if begun:
                    self._read(file, Header.read(unseal(first), self.path))
                    self._adopt(fd)
                    look_at_files(self.path, self._lock.path)
            finally:
                if self._fd != fd:
                    os.close(fd)
        if not begun:  # its maker died before there was a store
            if first:
                self._set_aside(0)
            self.path.unlink()
            self._begin()

    def _read(self, file: BinaryIO, header: Header) -> None:
        """Make a new state of a file whose header was read; if it is damaged the old one stays."""
        known = self._header
        if known.store and (header.store != known.store or header.generation <= known.generation):
            raise Corrupt(
                f"{self.path} was replaced by another file while it was open: put the right one back, or open it anew"
            )
        state = StoreState(self._limits, self._clock)
        heads = dict(header.heads)
        state.mark = heads.pop(MARK, (0, 0.0))[0]
        state.namespace_states = {name: NamespaceState(self._limits, *head) for name, head in heads.items()}
        lines, size = self._replay(file, state, header, 1)
        self.state, self._header = state, header
        self._mark(lines, size, fd=file.fileno())

    def _resume(self, size: int) -> None:
        """Read what other processes appended; make sure that it was appended, and nothing put over the file."""
        tail = os.pread(self._fd, len(self._tail), self.size - len(self._tail))
        if tail != self._tail or (size == self.size and not self._is_as_it_was()):
            raise Corrupt(
                f"{self.path} was written while it was open, not by D-gent, as when a backup is copied over it: "
                "restore it from a backup, and open it anew"
            )
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(self.size)
            lines, size = self._replay(file, self.state, self._header, self._lines)
        self._mark(lines, size)

    def _is_as_it_was(self) -> bool:
        """Read a file of the same size again whose time says that somebody touched it."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            records = [unseal(line) for line in file]
        numbers = [record.get("line", 1) for record in records if record is not None]
        return numbers == list(range(1, self._lines + 1))

    def _mark(self, lines: int, size: int, end: bytes = b"", *, fd: int | None = None) -> None:
        """Take the file up to here for acknowledged; `end` is its end, if that is at hand."""
        fd = self._fd if fd is None else fd
        found, tail = os.fstat(fd), end[-_TAIL:]
        if len(tail) < _TAIL:
            tail = os.pread(fd, min(_TAIL, size), size - min(_TAIL, size))
        self._lines, self._tail = lines, tail
        self._seen = found.st_ino, size, found.st_mtime_ns

    def _replay(self, file: BinaryIO, state: StoreState, header: Header, lines: int) -> tuple[int, int]:
        """Put the lines from here on into a state, cut a torn tail, and return how many lines and bytes there are."""
        snapshot = 1 + header.entries
        start = file.tell()
        while line := file.readline():
            record = unseal(line)
            if record is None:
                break
            lines += 1
            if record.get("line") != lines:
                was = record.get("line", 1)
                raise Corrupt(f"{self.path}, line {lines} was line {was}: restore the file from a backup")
            with state.lock:
                for namespace, one in flushed(record):
                    if isinstance(one, Touched):
                        state.touch(namespace, *one)
                    else:
                        state.append(namespace, one)
            start = file.tell()
        if line and (lines < snapshot or file.read(1)):
            raise Corrupt(f"{self.path}, line {lines + 1} is not what was written: restore the file from a backup")
        if lines < snapshot:
            raise Corrupt(f"{self.path} ends after line {lines} of {snapshot}: restore it from a backup")
        if line:
            self._set_aside(start)
        self._sync(file.fileno())  # a process that was killed may have written without syncing
        self._in_doubt = self._in_doubt or self._lock.read().startswith(_DOUBT)
        return lines, start

    def _set_aside(self, start: int) -> None:
        try:
            aside = set_aside(self.path, start)
        except (OSError, OutcomeUnknown):
            self._doubt()
            raise
        _log.warning("%s ended in a line that was not written whole, which is kept in %s", self.path, aside)

    def _open(self) -> int:
        return os.open(private_file(self.path), os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)

    def _adopt(self, fd: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def _follow(self, header: Header) -> None:
        """Append from here on to the file that this process has just put in place."""
        self._adopt(self._open())
        self._header = header
        self._mark(1 + header.entries, os.fstat(self._fd).st_size)
