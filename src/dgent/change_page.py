"""What a store answers who asks what changed: versions of all ids in the order of their commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from dgent.page import check_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.datum import Datum
    from dgent.page import Damaged


class ChangeRecord(NamedTuple):
    """One commit of a namespace: a version of an id, or that it was deleted.

    Attributes:
        id: which datum it is about.
        version: of what was put, or of the tombstone.
        seq: its place among the commits of the namespace.
        stored_at: when, in Unix seconds by the store's clock.
        datum: what was put; None where it was deleted.
        author: who deleted it, if that was said.
        reason: why it was deleted, if that was said.
    """

    id: str
    version: int
    seq: int
    stored_at: float
    datum: Datum | None
    author: str | None = None
    reason: str | None = None


class ChangePage(list[ChangeRecord]):
    """A list of changes that knows how to go on.

    Attributes:
        seq: pass it as `after_seq` for what comes behind this page, now or later.
        more: whether something comes behind it already.
        damaged: what would stand on this page, if it were whole. What is damaged behind the last whole version of all
            is named again until another one comes.
    """

    __slots__ = ("damaged", "more", "seq")

    def __init__(
        self, changes: Iterable[ChangeRecord], seq: int, *, more: bool = False, damaged: tuple[Damaged, ...] = ()
    ) -> None:
        super().__init__(changes)
        self.seq, self.more, self.damaged = seq, more, damaged

    def whole(self) -> Self:
        """Return the page, if nothing was left out of it: what copies or changes all that it reads asks for that.

        Raises:
            Corrupt: something was; the message names the first.
        """
        check_whole(self.damaged)
        return self


def change_page(found: list[ChangeRecord], after_seq: int, limit: int) -> ChangePage:
    """Return a page of up to `limit` of these changes; one more than that means that there is more."""
    kept = found[:limit]
    return ChangePage(kept, kept[-1].seq if kept else after_seq, more=len(found) > limit)
