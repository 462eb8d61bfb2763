"""What a program has seen of the first store of its chain: where each namespace stood, and writes of unknown outcome.

By this it is told later whose a version is that stands where a write that waited is to go.
"""

# `note`            on whatever thread commits
# everything else   on a loop, between two awaits: no cancel comes in
#
# There is no lock: of two notes at once the lower one may stay, and then a version counts as somebody else's that is
# not, which loses nothing.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dgent.delivery import digest_of

if TYPE_CHECKING:
    from dgent.datum import Datum
    from dgent.memory.change import Change, OnChange

MOST: Final = 4096
"""Of so many ids writes of unknown outcome are remembered, the last ones; of each id so many as `EACH` says."""

EACH: Final = 8


class ObservedSeq:
    """The highest seq of a namespace that was seen; every view of a router shares it.

    `is_new` says that nobody has looked where the namespace stands.
    """

    __slots__ = ("is_new", "seq")

    def __init__(self) -> None:
        self.seq, self.is_new = 0, True

    def note(self, seq: int) -> None:
        """Take note of the seq of a version."""
        self.seq = max(self.seq, seq)


class ObservedVersions:
    """What was seen of every namespace of a store.

    `unknown` has the digests of this program's writes whose outcome nobody knows, by namespace and id.
    """

    def __init__(self) -> None:
        self.unknown: dict[tuple[str, str], tuple[str, ...]] = {}
        self._by_namespace: dict[str, ObservedSeq] = {}

    def of(self, namespace: str) -> ObservedSeq:
        """Return what was seen of a namespace."""
        return self._by_namespace.setdefault(namespace, ObservedSeq())

    def note(self, change: Change) -> None:
        """Take note of what this program has committed."""
        self.of(change.namespace).note(change.seq)

    def noting(self, tell: OnChange | None) -> OnChange:
        """Return what a store calls on each of its commits: it is noted, then told."""

        def on_change(change: Change) -> None:
            self.note(change)
            if tell is not None:
                tell(change)

        return on_change

    def doubt(self, namespace: str, id: str, datum: Datum | None) -> None:
        """Remember a write, a delete where the datum is None, of which nobody knows whether it is in."""
        before = self.unknown.pop((namespace, id), ())
        self.unknown[namespace, id] = (*before, digest_of(datum))[-EACH:]
        while len(self.unknown) > MOST:
            del self.unknown[next(iter(self.unknown))]

    def settle(self, namespace: str, id: str) -> None:
        """Forget what was in doubt of an id: an answer has shown which version it has."""
        self.unknown.pop((namespace, id), None)
