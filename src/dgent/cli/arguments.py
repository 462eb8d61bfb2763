"""Read what people type: content, key=value, times."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from dgent.cli.command import misused
from dgent.exceptions import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dgent.operations import TTL

_SIGNS: Final = {"!=": "$ne", "<": "$lt", "<=": "$le", ">": "$gt", ">=": "$ge"}
_COMPARISON: Final = re.compile(
    r"""((?:\["(?:[^"\\]|\\.)*"\]|(?!!=)[^=<>])+)(!=|<=|>=|=|<|>)(.*)""",  # a quoted name may have any sign
    re.DOTALL,
)


def content(word: str, limit: int) -> bytes:
    """Return a content: `-` is stdin, `@file` is that file, anything else is the text itself.

    At most one byte more than `limit` is read, so that the store can refuse it.

    Raises:
        NotFound: there is no such file.
        InvalidInput: the text is no Unicode.
    """
    if word == "-":
        return sys.stdin.buffer.read(limit + 1)
    if word.startswith("@"):
        return _file(Path(word[1:]), limit + 1)
    try:
        return word.encode()
    except UnicodeEncodeError:
        raise InvalidInput("that content is not UTF-8 text: pass it on stdin, as -") from None


def text(word: str, limit: int) -> str:
    """Return a content that is text.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no UTF-8.
    """
    try:
        return content(word, limit).decode()
    except UnicodeDecodeError:
        raise InvalidInput("that content is not UTF-8 text: `kg memory put` takes bytes") from None


def _file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        raise NotFound(f"{path}: there is no such file; for a text that starts with @ use stdin") from None


def assignments(words: Iterable[str], *, typed: bool) -> dict[str, Any]:
    """Return what `key=value` and JSON objects say; with `typed` a value that is JSON is read as such."""
    found: dict[str, Any] = {}
    for word in words:
        if word.startswith("{"):
            found.update(_object(word))
            continue
        key, sign, value = word.partition("=")
        if not sign or not key:
            misused(f"{word!r} is neither key=value nor a JSON object")
        found[key] = _json_or_text(value) if typed else value
    return found


def where(words: Iterable[str]) -> dict[str, Any]:
    """Return what comparisons, `path=value` with any sign, and JSON objects say together: all have to hold."""
    found = [_object(word) if word.startswith("{") else _comparison(word) for word in words]
    return found[0] if len(found) == 1 else {"$and": found} if found else {}


def _comparison(word: str) -> dict[str, Any]:
    parts = _COMPARISON.fullmatch(word)
    if parts is None:
        misused(f"{word!r} is neither path=value, with =, !=, <, <=, > or >=, nor a JSON object")
    path, sign, value = parts.groups()
    compared = _json_or_text(value)
    return {path: compared if sign == "=" else {_SIGNS[sign]: compared}}


def _object(word: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(word)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        misused(f"{word!r} starts like a JSON object and is none")
    return found


def _json_or_text(value: str) -> Any:
    try:
        return orjson.loads(value)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return value


def page(limit: int, most: int, onward: str = "--cursor") -> int:
    """Return how many of a list to show: as many as a page may hold."""
    if not 0 <= limit <= most:
        misused(f"--limit is {limit:,}, not 0 to {most:,}: go on with {onward}, or raise the setting max_page")
    return limit


def life(word: str | None) -> TTL:
    """Return a time to live: seconds, or keep."""
    if word is None:
        return None
    try:
        return "keep" if word == "keep" else float(word)
    except ValueError:
        misused(f"{word!r} is no time to live: write seconds, or keep")


def moment(word: str | None) -> float | None:
    """Return a time: Unix seconds, or ISO 8601, in UTC where it names no zone."""
    if word is None:
        return None
    try:
        return float(word)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(word)
    except ValueError:
        misused(f"{word!r} is no time: write 2026-01-31, 2026-01-31T08:15:00Z or Unix seconds")
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
