"""What a backend says after a commit that changed something."""

# The thread that has the answer of a commit calls its listener: that of the caller's loop, or a JSONL file's own, which
# meanwhile keeps other processes out. Nothing is awaited in `announce`, so no cancel comes between two changes.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from dgent.runtime.callbacks import call_all


@dataclass(frozen=True, slots=True)
class Change:
    """A pointer to what changed, without the payload.

    Attributes:
        id: of the datum; after an erasure how the ids began, empty where everything went.
        version: of the datum or the tombstone that was appended; 0 for a purge or an erasure, which append nothing.
        seq: the same.
    """

    kind: Literal["put", "delete", "purge", "erase"]
    namespace: str
    id: str
    version: int = 0
    seq: int = 0


OnChange: TypeAlias = Callable[[Change], None]
"""Is called after the commit, once per change and in the order of the commits, on the thread that committed: it must be
quick and safe between threads."""


def announce(on_change: OnChange | None, changes: Iterable[Change]) -> None:
    """Tell of changes; what the listener raises is logged, because the write is in already."""
    if on_change is not None:
        call_all(partial(on_change, change) for change in changes)
