"""The versions of one namespace in the order of their commits, held in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from dgent.change_page import ChangePage, ChangeRecord, change_page
from dgent.operations import read_note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.memory.inmemory.namespace_state import StoredVersion


class CommitLog:
    """Every version that is held, tombstones too. What is erased is taken out when the log is next read."""

    def __init__(self) -> None:
        self._versions: list[StoredVersion] = []
        self._erased: set[int] = set()

    def append(self, stored: StoredVersion) -> None:
        """Take the version of the next commit."""
        self._versions.append(stored)

    def replace(self, stored: StoredVersion) -> None:
        """Put a version that was touched into the place of the one with its seq."""
        self._versions[bisect_left(self._versions, stored.seq, key=lambda each: each.seq)] = stored

    def erase(self, seqs: Iterable[int]) -> None:
        """Forget the versions with these seqs."""
        self._erased.update(seqs)

    @property
    def versions(self) -> list[StoredVersion]:
        """All of them, in the order of seq; do not change the list."""
        if self._erased:
            self._versions = [stored for stored in self._versions if stored.seq not in self._erased]
            self._erased.clear()
        return self._versions

    def seq_at(self, time: float) -> int:
        """Return the seq of the last version stored at or before a time; 0 before all."""
        at = bisect_right(self.versions, time, key=lambda stored: stored.stored_at)
        return self.versions[at - 1].seq if at else 0

    def changes(self, after_seq: int, until: int | None, limit: int) -> ChangePage:
        """Return a page of the versions with `after_seq < seq <= until`."""
        first = bisect_right(self.versions, after_seq, key=lambda stored: stored.seq)
        behind = self.versions[first : first + limit + 1]
        found = [_change(stored) for stored in behind if until is None or stored.seq <= until]
        return change_page(found, after_seq, limit)


def _change(stored: StoredVersion) -> ChangeRecord:
    author, reason = read_note(stored.note)
    return ChangeRecord(stored.id, stored.version, stored.seq, stored.stored_at, stored.datum, author, reason)
