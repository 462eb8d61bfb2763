"""What is asked to be erased for good, and what went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dgent.exceptions import InvalidInput
from dgent.query import Query
from dgent.validation import check_kind

_WHAT: Final = "pass prefix= for the ids that begin with it, or everything=True for all of the namespace"


@dataclass(frozen=True, slots=True)
class Erasure:
    """Which datums are to go, seen from a namespace.

    Attributes:
        prefix: how their ids begin; None for all, and the name of the namespace with them.
        below: also those in the namespaces under it: "a/b" is under "a".
    """

    prefix: str | None
    below: bool = False

    def reaches(self, home: str, namespace: str) -> bool:
        """Tell whether a namespace is concerned, if this was said of `home`."""
        return namespace == home or (self.below and namespace.startswith(f"{home}/"))

    def takes(self, id: str) -> bool:
        """Tell whether an id of such a namespace is to go."""
        return self.prefix is None or id.startswith(self.prefix)


def checked_erasure(prefix: Any, everything: Any, below: Any) -> Erasure:
    """Return what the arguments of `erase` say.

    Raises:
        InvalidInput: they do not say what is to go, or contradict each other.
    """
    check_kind(everything, bool, "everything is True or False")
    check_kind(below, bool, "below is True or False")
    if everything and prefix is not None:
        raise InvalidInput(f"either a prefix or everything is erased: {_WHAT}")
    if everything:
        return Erasure(None, below)
    wanted = Query(prefix=prefix).prefix
    if not wanted:  # an empty one may be a variable that nobody filled
        raise InvalidInput(f"nothing says what is to be erased: {_WHAT}")
    return Erasure(wanted, below)


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure took.

    Attributes:
        versions: how many versions went, tombstones included.
        ids: how many ids they had.
        namespaces: in how many namespaces they were.
        queued: how many writes went that waited for a store elsewhere, or were set aside.
        pending: the name of the store elsewhere in which it has yet to be done, before anything else is delivered to
            it; empty where nothing is left to do. What goes there is not counted.
    """

    versions: int = 0
    ids: int = 0
    namespaces: int = 0
    queued: int = 0
    pending: str = ""

    def __add__(self, other: Erased) -> Erased:
        """Return what both took."""
        return Erased(
            self.versions + other.versions,
            self.ids + other.ids,
            self.namespaces + other.namespaces,
            self.queued + other.queued,
            self.pending or other.pending,
        )
