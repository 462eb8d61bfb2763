"""What a store is asked to write, and what that led to."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self, TypeAlias

from dgent.datum import Datum
from dgent.error_messages import called
from dgent.exceptions import InvalidDatum, InvalidInput
from dgent.validation import as_list, check_expect, check_key, check_ttl

TTL: TypeAlias = float | Literal["keep"] | None
"""How long a datum lives: seconds from now, what is left of the live one's time, or for good."""


class _Put(NamedTuple):
    datum: Datum
    expect: int | None
    ttl: TTL


class Put(_Put):
    """A datum to append, the version that must be live, and how long it lives.

    Raises:
        InvalidDatum: one of them is none.
    """

    __slots__ = ()

    def __new__(cls, datum: Datum, expect: int | None = None, ttl: TTL = None) -> Self:
        """Check what everybody who writes it relies on."""
        if not isinstance(datum, Datum):
            raise InvalidDatum(f"{called(datum)} is not a Datum: make one with Datum.create(...)")
        if expect is not None:
            check_expect(expect)
        return tuple.__new__(cls, (datum, expect, None if ttl is None else check_ttl(ttl)))

    @property
    def id(self) -> str:
        """Which datum it is about."""
        return self.datum.id

    @property
    def needs_live(self) -> bool:
        """Whether what it does depends on the live datum, beyond whether that is the same."""
        return self.expect is not None or self.ttl == "keep"


class _Delete(NamedTuple):
    id: str
    expect: int | None


class Delete(_Delete):
    """An id to append a tombstone to, and the version that must be live.

    Raises:
        InvalidDatum: one of them is none. How long an id may be is for the store to say.
    """

    __slots__ = ()

    def __new__(cls, id: str, expect: int | None = None) -> Self:
        """Check what everybody who writes it relies on."""
        return tuple.__new__(cls, (check_key(id), check_expect(expect)))

    @property
    def datum(self) -> None:
        """Nothing: where a put has its datum, a delete has none."""
        return

    @property
    def ttl(self) -> None:
        """Nothing: a tombstone stays."""
        return

    @property
    def needs_live(self) -> bool:
        """Whether what it does depends on the live datum."""
        return self.expect is not None


Operation: TypeAlias = Put | Delete


class Outcome(NamedTuple):
    """What an operation led to.

    Attributes:
        datum: the live one after a put, None after a delete.
        changed: whether anything was appended.
        version: of what was appended; 0 where nothing was.
        seq: the same.
    """

    datum: Datum | None
    changed: bool
    version: int = 0
    seq: int = 0


def checked_operations(operations: Any) -> list[Operation]:
    """Return operations as a list.

    Raises:
        InvalidInput: one of them is neither a Put nor a Delete.
    """
    listed: list[Operation] = as_list(operations, "operations")
    for one in listed:
        if not isinstance(one, Put | Delete):
            raise InvalidInput(f"{called(one)} is no operation: pass Put(datum) or Delete(id)")
    return listed
