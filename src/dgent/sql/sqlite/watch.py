"""Whether a SQLite file has changed, whoever wrote it: SQLite counts that, and to ask it takes two microseconds.

The time and the size of the log file do not tell it for certain: two commits may fall into one tick of its clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.sql.watch import Watches

if TYPE_CHECKING:
    from collections.abc import Callable


class SQLiteWatches(Watches):
    """Looks at the number that SQLite changes with each commit of another connection; None where it is not known."""

    def __init__(self, every: float, version: Callable[[], int | None]) -> None:
        super().__init__(every)
        self._version = version
        self._seen: int | None = None

    def changed(self) -> bool:
        """Tell whether the number is another than at the last look, or was not to be had."""
        before, self._seen = self._seen, self._version()
        return self._seen is None or self._seen != before
