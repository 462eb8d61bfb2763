"""The one input check of every backend and every entry point: what is refused, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from dgent.error_messages import called
from dgent.exceptions import InvalidDatum, InvalidInput, InvalidNamespace, InvalidQuery

if TYPE_CHECKING:
    from types import UnionType

T = TypeVar("T")

ID_BYTES: Final = 2000
KEY_BYTES: Final = 2400
"""Of a namespace and an id together, and of a stream and a writer: a row of a PostgreSQL index holds 2 704 bytes, and
some hold numbers beside them."""
ID_LENGTH: Final = 512
"""Characters in an indexed column of a typed table."""
HELD_ID_BYTES: Final = 4 * ID_LENGTH
"""Of the longest id that a store may hold: ids were once measured in characters."""
LONGEST: Final = 1e12  # seconds: some thirty thousand years


def check_key(id: Any, field: str = "id") -> str:
    """Return an id of any length, that a store may be asked for: a row of several key columns may have a longer one.

    Raises:
        InvalidDatum: says which rule was broken.
    """
    if problem := _text_problem(id, math.inf):
        raise InvalidDatum(f"{field} {problem}")
    return id if type(id) is str else str.__str__(id)


def check_id(id: Any, field: str = "id") -> str:
    """Return an id that every store can keep: 1 to 2,000 bytes of UTF-8, no NUL, no lone surrogates.

    Raises:
        InvalidDatum: says which rule was broken.
    """
    if problem := _text_problem(id, ID_BYTES):
        raise InvalidDatum(f"{field} {problem}")
    return id if type(id) is str else str.__str__(id)


def check_held_id(id: Any, field: str = "id") -> str:
    """Return an id that a store may hold: once they were measured in characters, of which 512 have up to 2,048 bytes.

    Raises:
        InvalidDatum: no store has ever taken it.
    """
    if problem := _text_problem(id, HELD_ID_BYTES):
        raise InvalidDatum(f"{field} {problem}")
    return id if type(id) is str else str.__str__(id)


def check_row_id(id: Any) -> str:
    """Return an id that a row of a typed table can have, too.

    Raises:
        InvalidDatum: says which rule was broken.
    """
    if len(check_id(id)) > ID_LENGTH:
        raise InvalidDatum(f"id has {len(id):,} characters, and a row's has 1 to {ID_LENGTH}")
    return id if type(id) is str else str.__str__(id)


def check_fits(namespace: str, id: str, field: str = "id") -> None:
    """Refuse an id, or a parent, that does not fit into every index together with its namespace; both were checked.

    Raises:
        InvalidDatum: it does not.
    """
    together = utf8_size(namespace) + utf8_size(id)
    if together > KEY_BYTES:
        raise InvalidDatum(
            f"{field} and namespace have {together:,} bytes together, and {KEY_BYTES:,} fit into an index: shorten one"
        )


def utf8_size(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def check_time(value: object, field: str = "created_at") -> float:
    """Return a finite number of seconds as a float; there is one zero, because SQLite keeps one.

    Raises:
        InvalidDatum: the value is not a finite number, or outside the years 1 to 9999.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidDatum(f"{field} is Unix seconds in UTC, not {type(value).__name__}: use datetime.timestamp()")
    if not -62_135_596_800 <= value < 253_402_300_800:  # also false for NaN
        raise InvalidDatum(f"{field} is not a time between the years 1 and 9999, in Unix seconds")
    return float(value) + 0.0


def check_namespace(namespace: str) -> str:
    """Return the namespace if every store can keep it: segments joined by `/`, none of them empty, `.` or `..`.

    It has less than 2,400 bytes, so that an id fits beside it: see `check_fits`.

    Raises:
        InvalidNamespace: says which rule was broken.
    """
    if problem := _text_problem(namespace, KEY_BYTES - 1):
        raise InvalidNamespace(f"namespace {problem}")
    for segment in namespace.split("/"):
        if segment in {"", ".", ".."}:
            raise InvalidNamespace(f"namespace {namespace!r} has the segment {segment!r}: use names joined by single /")
    return namespace if type(namespace) is str else str.__str__(namespace)


def _text_problem(text: object, longest: float) -> str | None:
    if not isinstance(text, str):
        return f"is {type(text).__name__}, not str"
    if not text:
        return "is empty"
    if type(text) is not str and not _is_its_text(text):
        return f"is {type(text).__name__}, which is written or compared as something else than its text: pass its value"
    if problem := unstorable(text):
        return problem
    size = utf8_size(text)
    return f"has {size:,} bytes in UTF-8, and may have {longest:,}: shorten it" if size > longest else None


def _is_its_text(text: str) -> bool:
    """Tell whether a class of its own acts as the text that a database keeps of it: a str that is an Enum does not."""
    plain = str.__str__(text)
    return f"{text}" == plain and text == plain and hash(text) == hash(plain)


def unstorable(text: str) -> str | None:
    """Return why a database cannot keep a text, or None."""
    if "\0" in text:
        return "holds a NUL character, which PostgreSQL cannot store: remove it or encode it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not Unicode text"
    return None


def check_mapping(metadata: object) -> Mapping[str, Any]:
    """Return metadata that are a mapping, or raise InvalidDatum."""
    if not isinstance(metadata, Mapping):
        raise InvalidDatum(f"metadata is {type(metadata).__name__}, not a mapping")
    return metadata


def check_content(content: Any) -> bytes:
    """Return a content, or raise InvalidDatum if it is not bytes."""
    if not isinstance(content, bytes):
        raise InvalidDatum(f"content is {type(content).__name__}, not bytes: encode it, or use Datum.create(data=)")
    return content if type(content) is bytes else bytes(memoryview(content))


def check_limit(limit: object, field: str = "limit") -> int:
    """Return a limit that is a whole number from 0.

    Raises:
        InvalidQuery: it is negative or no integer.
    """
    if type(limit) is not int or not 0 <= limit < 2**63:
        shown = limit if isinstance(limit, int) and abs(limit) < 2**63 else type(limit).__name__
        raise InvalidQuery(f"{field} is {shown}: use a whole number from 0")
    return limit


def check_query_text(name: str, value: object) -> None:
    """Refuse what a query looks for if no stored text is like it; None is no condition.

    Raises:
        InvalidQuery: it is no text, or holds a NUL or a lone surrogate.
    """
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidQuery(f"{name} is {type(value).__name__}, not str")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidQuery(f"{name} holds a NUL or a lone surrogate, which no stored text does")


def check_expect(expect: int | None) -> int | None:
    """Return `expect` if it is None or a whole number from 0 that a column holds, else raise InvalidDatum."""
    if expect is not None and (type(expect) is not int or not 0 <= expect < 2**63):
        shown = expect if isinstance(expect, int) and abs(expect) < 2**63 else called(expect)
        raise InvalidDatum(f"expect is {shown}: use the version that must be live, 0 for none")
    return expect


def check_version(version: int | None, field: str = "version") -> int | None:
    """Return a version if it is None or an integer, brought into the range that a column is compared with.

    Raises:
        InvalidQuery: it is no integer.
    """
    if version is None:
        return None
    if type(version) is not int:
        raise InvalidQuery(f"{field} is {version!r}: use a whole number from 1")
    return max(0, min(version, 2**62))


def check_seq(seq: object, field: str) -> int:
    """Return a seq, or any integer that a column is compared with, else raise InvalidQuery."""
    if type(seq) is not int or not abs(seq) < 2**63:
        raise InvalidQuery(f"{field} is an integer of 64 bits")
    return seq


def check_ttl(ttl: float | Literal["keep"] | None) -> float | Literal["keep"] | None:
    """Return `ttl` if it is None, "keep" or a positive, finite number of seconds, else raise InvalidDatum."""
    if ttl is None:
        return None
    if isinstance(ttl, str) and ttl == "keep":
        return "keep"
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < LONGEST:
        raise InvalidDatum(f"ttl is {ttl!r}: use seconds above 0, 'keep' for what the live one has, or leave it out")
    return float(ttl)


def as_list(values: Iterable[T], what: str) -> list[T]:
    """Return many values as a list.

    Raises:
        InvalidDatum: there is but one, or a text, which is many by accident.
    """
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
        raise InvalidDatum(f"the {what} are {type(values).__name__}: pass a list of them")
    return [*values]


def check_text(name: str, value: object, *, blank: bool = False) -> str:
    """Return text that both tracks can keep.

    Raises:
        InvalidInput: it is no text, holds a NUL or a lone surrogate, or is blank and may not be.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {type(value).__name__}, not text")
    if not blank and not value.strip():
        raise InvalidInput(f"{name} is blank")
    problem = unstorable(value) if type(value) is str else f"is {type(value).__name__}: pass its value, as str"
    if problem:
        raise InvalidDatum(f"{name} {problem}")
    return value


def check_optional_text(name: str, value: object) -> str | None:
    """Return text that both tracks can keep, or None."""
    return None if value is None else check_text(name, value, blank=True)


def check_tags(tags: str | Iterable[str]) -> list[str]:
    """Return tags as they came, each once; one text is one tag."""
    given = [tags] if isinstance(tags, str) else tags
    return list(dict.fromkeys(check_text("a tag", tag) for tag in given))


def check_moment(name: str, moment: datetime | None, default: datetime) -> datetime:
    """Return an aware datetime, `default` where there is none."""
    if moment is None:
        return default
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidInput(f"{name} is an aware datetime, such as datetime.now(UTC); {moment!r} is not")
    return moment


def check_share(name: str, value: object, low: float = 0.0) -> float:
    """Return a finite number between `low` and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1:
        raise InvalidInput(f"{name} is a number from {low:g} to 1; {value!r:.40} is not")
    return float(value)


def check_kind(value: object, kind: type[Any] | UnionType, instead: str) -> None:
    """Refuse a value that is of another type; `instead` says what to pass.

    Raises:
        InvalidInput: it is.
    """
    if not isinstance(value, kind):
        raise InvalidInput(f"{called(value)} is not what belongs here: {instead}")
