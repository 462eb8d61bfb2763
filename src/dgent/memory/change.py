"""What a backend says after a commit that changed something."""

# The thread that has the answer of a commit calls its listener: that of the caller's loop, or a JSONL file's own, which
# meanwhile keeps other processes out. Nothing is awaited in `announce`, so no cancel comes between two changes.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from dgent.operations import Delete, Operation, Outcome, Purge, Put, Touch
from dgent.runtime.callbacks import call_all

Kind: TypeAlias = Literal["put", "delete", "purge", "touch", "erase"]
_KINDS: Final[Mapping[type[Any], Kind]] = {Put: "put", Delete: "delete", Purge: "purge", Touch: "touch"}


@dataclass(frozen=True, slots=True)
class Change:
    """A pointer to what changed, without the payload.

    Attributes:
        id: of the datum; after an erasure how the ids began, empty where everything went.
        version: of the datum or the tombstone that was appended; 0 for a purge, a touch or an erasure, which append
            nothing.
        seq: the same.
    """

    kind: Kind
    namespace: str
    id: str
    version: int = 0
    seq: int = 0


OnChange: TypeAlias = Callable[[Change], None]
"""Is called after the commit, once per change and in the order of the commits, on the thread that committed: it must be
quick and safe between threads."""


def changes_of(namespace: str, operations: Sequence[Operation], outcomes: Sequence[Outcome]) -> list[Change]:
    """Return what operations changed. A touch counts: no seq moves by it, so nobody else would hear of it."""
    return [
        Change(_KINDS[type(operation)], namespace, operation.id, outcome.version, outcome.seq)
        for operation, outcome in zip(operations, outcomes, strict=True)
        if outcome.changed
    ]


def announce(on_change: OnChange | None, changes: Iterable[Change]) -> None:
    """Tell of changes; what the listener raises is logged, because the write is in already."""
    if on_change is not None:
        call_all(partial(on_change, change) for change in changes)
