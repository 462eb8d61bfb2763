"""What one write or one read may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgent.exceptions import LimitExceeded
from dgent.validation import check_limit

if TYPE_CHECKING:
    from dgent.datum import Datum


@dataclass(frozen=True, slots=True)
class Limits:
    """What one write or one read may cost; the settings hold an instance.

    Sizes are in bytes, `max_page` is the largest `limit` that a caller may ask for, and `max_chain` the longest chain
    that is read into memory.
    """

    max_content: int = 64 * 2**20
    max_metadata: int = 64 * 2**10
    max_page: int = 10_000
    max_chain: int = 250_000

    def admit(self, datum: Datum) -> None:
        """Refuse a datum that is too large.

        Raises:
            LimitExceeded: names the datum, its size and the setting.
        """
        if len(datum.content) > self.max_content:
            raise LimitExceeded(
                f"the content of {datum.id!r} has {len(datum.content):,} bytes, the limit is {self.max_content:,}: "
                "raise the setting max_content, or store a reference to it"
            )
        metadata_size = len(datum.metadata_json.encode())
        if metadata_size > self.max_metadata:
            raise LimitExceeded(
                f"the metadata of {datum.id!r} have {metadata_size:,} bytes, the limit is "
                f"{self.max_metadata:,}: raise the setting max_metadata, or put them into the content"
            )

    def admit_note(self, id: str, note: str) -> None:
        """Refuse an author and a reason of a delete that are too large.

        Raises:
            LimitExceeded: names the id, their size and the setting.
        """
        size = len(note.encode())
        if size > self.max_metadata:
            raise LimitExceeded(
                f"the author and the reason for the delete of {id!r} have {size:,} bytes, the limit is "
                f"{self.max_metadata:,}: shorten them, or raise the setting max_metadata"
            )

    def page(self, limit: int) -> int:
        """Return a limit that a caller may ask for.

        Raises:
            InvalidQuery: it is negative or no integer.
            LimitExceeded: it is above `max_page`.
        """
        if check_limit(limit) > self.max_page:
            raise LimitExceeded(
                f"limit is {limit:,}, the largest page has {self.max_page:,}: follow page.cursor instead, or raise the "
                "setting max_page"
            )
        return limit
