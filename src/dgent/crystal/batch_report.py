"""What a long run over many crystals tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from dgent.exceptions import InvalidInput, UpgradeError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SHOWN: Final = 20
"""How many ids a report names."""


@dataclass(slots=True)
class BatchReport:
    """How many cannot be taken along: `failures` are the first of them, by id, with the reason."""

    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def attempt(self, id: str, work: Callable[[], T], *, strict: bool) -> T | None:
        """Return what the work gives, or None where it is refused: that is noted here, or raised if `strict`.

        Raises:
            InvalidInput, UpgradeError: the class that the work raised; the message names the id.
        """
        try:
            return work()
        except (InvalidInput, UpgradeError) as error:
            if strict:
                error.args = (f"{id!r}: {error}; nothing was written",)
                raise
            self.failed += 1
            if len(self.failures) < SHOWN:
                self.failures[id] = str(error)
            return None
