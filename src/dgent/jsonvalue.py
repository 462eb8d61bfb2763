"""JSON values: their canonical form, paths into them, and when two are equal."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from dgent.exceptions import InvalidDatum, InvalidQuery
from dgent.validation import check_mapping, check_query_text, unstorable

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

MAX_DEPTH: Final = 32
MAX_PATH: Final = 1000
MISSING: Final = object()
"""What a path leads to that leads nowhere; it equals nothing."""

_INT64: Final = range(-(2**63), 2**63)
_STEP: Final = re.compile(
    r"""\[(?:(?P<index>-?\d{1,9})|(?P<quoted>"(?:[^"\\]|\\.)*"))\]|(?P<dot>\.)?(?P<name>[^.\[\]"]+)"""
)


def canonical_metadata(metadata: Mapping[str, Any]) -> str:
    """Return metadata as canonical JSON: sorted keys, no spaces.

    Raises:
        InvalidDatum: it is not a JSON object, or holds what not every store can keep (NUL, NaN, integers over 64 bits,
            lone surrogates, more than 32 levels); the message names the path.
    """
    return canonical_json(dict(metadata), "metadata") if check_mapping(metadata) else "{}"


def canonical_json(value: Any, where: str) -> str:
    """Return a JSON value in canonical form, or raise InvalidDatum naming the path that every store cannot keep."""
    _check_json(value, where, 0)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _check_json(value: Any, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        if problem := unstorable(value):
            raise InvalidDatum(f"{path} {problem}")
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise InvalidDatum(f"{path[:200]} is nested deeper than {MAX_DEPTH} levels")
        _check_container(value, path, depth)
    elif kind is int:
        if value not in _INT64:
            raise InvalidDatum(f"{path} is an integer over 64 bits: store it as text")
    elif kind is float:
        if not math.isfinite(value):
            raise InvalidDatum(f"{path} is {value!r}, which JSON cannot hold")
    elif kind is not bool and value is not None:
        raise InvalidDatum(f"{path} is {kind.__name__}, which is not JSON: use str, int, float, bool, None, list, dict")


def _check_container(value: dict[Any, Any] | list[Any], path: str, depth: int) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{path}[{index}]", depth + 1)
        return
    for key, item in value.items():
        if type(key) is not str:
            raise InvalidDatum(f"{path} has the key {key!r}, which is {type(key).__name__}, not str")
        if problem := unstorable(key):
            raise InvalidDatum(f"a key of {path} {problem}")
        _check_json(item, f"{path}.{key}", depth + 1)


def parse_path(text: str) -> tuple[str | int, ...]:
    """Read `user.address[0].city` or `a["b.c"]` into its steps: str for a key, int for an index.

    Raises:
        InvalidQuery: the text is not a path; the message shows where it stops being one.
    """
    check_query_text("a path", text)
    if not isinstance(text, str) or len(text) > MAX_PATH:
        raise InvalidQuery(f"a path is a text of up to {MAX_PATH:,} characters")
    return _steps(text)


@lru_cache(maxsize=1024)
def _steps(text: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None or (step["name"] is not None and (step["dot"] is None) != (at == 0)):
            break
        at = step.end()
        if step["index"] is not None:
            steps.append(int(step["index"]))
        else:
            steps.append(step["name"] if step["quoted"] is None else _unquote(text, step["quoted"]))
    if not steps or at < len(text):
        raise InvalidQuery(f'{text[:200]!r} is not a path at character {at + 1}: write a.b[0].c or a["b.c"]')
    return tuple(steps)


def _unquote(text: str, quoted: str) -> str:
    try:
        name: str = orjson.loads(quoted)
    except orjson.JSONDecodeError:
        raise InvalidQuery(f"{text[:200]!r}: {quoted[:80]} is not a quoted name") from None
    check_query_text("a path", name)
    return name


def follow(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what the path leads to in a JSON value, or `MISSING`."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step, MISSING) if isinstance(value, dict) else MISSING
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def comparable(value: Any, where: str = "value") -> str:
    """Return canonical JSON in which 1 and 1.0 are the same text and true and 1 are not.

    Raises:
        InvalidDatum: the value is not JSON.
    """
    return canonical_json(_integral(value), where)


def comparable_or_none(value: Any) -> str | None:
    """Return `comparable(value)`, or None for a stored JSON value that metadata could not hold."""
    try:
        return comparable(value)
    except InvalidDatum:
        return None


def stored_comparable(value: Any) -> str | None:
    """Return `comparable_or_none(value)`, in a tenth of its time for the text or integer that a value mostly is."""
    if type(value) is str or type(value) is int:
        return orjson.dumps(value).decode()
    return comparable_or_none(value)


def _integral(value: Any, depth: int = 0) -> Any:
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value < 2**63:
        return int(value)
    if depth > MAX_DEPTH:  # canonical_json refuses it in a moment; until then it must not overflow the stack
        return value
    if isinstance(value, dict):
        return {key: _integral(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_integral(item, depth + 1) for item in value]
    return value
