"""What a query answers: a page of datums, or of names, that knows how to go on, and what is damaged on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from dgent.datum import Datum
from dgent.exceptions import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Damaged(NamedTuple):
    """A stored version that is not what was written. What it says of itself cannot be trusted.

    Attributes:
        id: as it is stored.
        version: as it is stored.
        reason: what is wrong with it.
        content: the bytes that are stored, for whoever wants to save what can be saved.
    """

    id: str
    version: int
    reason: str
    content: bytes = b""


class Page(list[Datum]):
    """A list of datums that knows how to go on.

    Attributes:
        cursor: pass it to the same call for the next page; None means the end.
        damaged: what would stand on this page, if it were whole.
    """

    __slots__ = ("cursor", "damaged")

    def __init__(
        self,
        datums: Iterator[Datum] | list[Datum] = (),  # type: ignore[assignment]
        cursor: str | None = None,
        damaged: tuple[Damaged, ...] = (),
    ) -> None:
        super().__init__(datums)
        self.cursor, self.damaged = cursor, damaged

    def whole(self) -> Self:
        """Return the page, if nothing was left out of it: what copies or changes all that it reads asks for that.

        Raises:
            Corrupt: something was; the message names the first.
        """
        check_whole(self.damaged)
        return self


def check_whole(damaged: tuple[Damaged, ...]) -> None:
    """Raise Corrupt if anything was left out of a page; the message names the first."""
    if damaged:
        id, version, reason, _ = damaged[0]
        raise Corrupt(
            f"version {version} of {id!r:.200} is not what was written ({reason}), and {len(damaged) - 1:,} "
            "more are not: restore them from a backup, or purge them"
        )


class KeyPage(list[str]):
    """A list of ids, segments or namespaces that knows how to go on.

    Attributes:
        cursor: pass it to the same call for the next page; None means the end.
    """

    __slots__ = ("cursor",)

    def __init__(
        self,
        names: Iterable[str] = (),
        cursor: str | None = None,
    ) -> None:
        super().__init__(names)
        self.cursor = cursor
