"""What a store is asked to write, and what that led to."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self, TypeAlias

import orjson

from dgent.datum import Datum
from dgent.error_messages import called
from dgent.exceptions import InvalidDatum, InvalidInput
from dgent.jsonvalue import canonical_metadata
from dgent.validation import as_list, check_expect, check_key, check_optional_text, check_ttl

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


class _WithoutDatum:
    """What an operation about an id alone has in the place of a datum and its time to live."""

    __slots__ = ()

    @property
    def datum(self) -> None:
        """Nothing: only a put has a datum."""
        return


class _Delete(NamedTuple):
    id: str
    expect: int | None
    author: str | None
    reason: str | None


class Delete(_WithoutDatum, _Delete):
    """An id to append a tombstone to, the version that must be live, and who deletes it and why, for its history.

    Raises:
        InvalidDatum: one of them is none. How long an id may be is for the store to say.
        InvalidInput: the author or the reason is no text, or one that no store keeps.
    """

    __slots__ = ()

    def __new__(cls, id: str, expect: int | None = None, author: str | None = None, reason: str | None = None) -> Self:
        """Check what everybody who writes it relies on."""
        check_optional_text("author", author)
        check_optional_text("reason", reason)
        return tuple.__new__(cls, (check_key(id), check_expect(expect), author, reason))

    @property
    def ttl(self) -> None:
        """Nothing: a tombstone stays."""
        return

    @property
    def needs_live(self) -> bool:
        """Whether what it does depends on the live datum."""
        return self.expect is not None

    @property
    def note(self) -> str:
        """The author and the reason as the metadata of the tombstone, canonical JSON."""
        told = {"author": self.author, "reason": self.reason}
        return canonical_metadata({name: text for name, text in told.items() if text is not None})


def read_note(note: str) -> tuple[str | None, str | None]:
    """Return the author and the reason that the metadata of a tombstone tell."""
    if note == "{}":
        return None, None
    told = orjson.loads(note)
    return told.get("author"), told.get("reason")


class _Purge(NamedTuple):
    id: str
    expect: int | None


class Purge(_WithoutDatum, _Purge):
    """An id of which every version is to be erased for good, and the version that must be live.

    Raises:
        InvalidDatum: one of them is none.
    """

    __slots__ = ()

    def __new__(cls, id: str, expect: int | None = None) -> Self:
        """Check what everybody who writes it relies on."""
        return tuple.__new__(cls, (check_key(id), check_expect(expect)))

    @property
    def ttl(self) -> None:
        """Nothing: nothing is left."""
        return

    @property
    def needs_live(self) -> bool:
        """Whether it depends on what is stored now: it does, since nothing of that may be left when it answers."""
        return True


class _Touch(NamedTuple):
    id: str
    ttl: float | None
    expect: int | None


class Touch(_WithoutDatum, _Touch):
    """An id whose live datum is to expire after `ttl` seconds, or to stay where that is None; what must be live.

    Raises:
        InvalidDatum: one of them is none.
    """

    __slots__ = ()

    def __new__(cls, id: str, ttl: float | None, expect: int | None = None) -> Self:
        """Check what everybody who writes it relies on."""
        if isinstance(ttl, str):
            raise InvalidDatum(f"ttl is {ttl!r}: use seconds above 0, or None to let it stay for good")
        return tuple.__new__(cls, (check_key(id), check_ttl(ttl), check_expect(expect)))

    @property
    def needs_live(self) -> bool:
        """Whether what it does depends on the live datum, beyond whether there is one."""
        return self.expect is not None


Operation: TypeAlias = Put | Delete | Purge | Touch


class Outcome(NamedTuple):
    """What an operation led to.

    Attributes:
        datum: the live one after a put, None after all others.
        changed: whether a put or a delete appended anything, a purge erased anything, a touch found a live datum.
        version: of what was appended; 0 where nothing was.
        seq: the same.
        erased: how many versions a purge erased.
    """

    datum: Datum | None
    changed: bool
    version: int = 0
    seq: int = 0
    erased: int = 0


def checked_operations(operations: Any) -> list[Operation]:
    """Return operations as a list.

    Raises:
        InvalidInput: one of them is none.
    """
    listed: list[Operation] = as_list(operations, "operations")
    for one in listed:
        if not isinstance(one, Operation):
            raise InvalidInput(
                f"{called(one)} is no operation: pass Put(datum), Delete(id), Purge(id) or Touch(id, ttl)"
            )
    return listed
