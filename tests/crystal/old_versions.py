"""Marks of three versions, as three generations of a program wrote them, and what they must be in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from dgent.crystal import Schema, Schemas
from dgent.datum import Datum


@dataclass(frozen=True)
class Mark:
    action: str
    n: int
    tags: tuple[str, ...]


def from_1(data: dict[str, Any]) -> dict[str, Any]:
    return {"action": data["did"], "n": data["n"]}


def from_2(data: dict[str, Any]) -> dict[str, Any]:
    data["tags"] = (f"n{data['n'] % 5}", "upgraded")
    return data


MARK = Schema("law.mark", 3, Mark, {1: from_1, 2: from_2})
KNOWN = Schemas([MARK])


def datum(n: int, version: int) -> Datum:
    """Return mark number n as a version of the program wrote it: an id, a time, a cause and labels of its own."""
    content: dict[str, Any] = {"did": f"act {n}", "n": n} if version == 1 else {"action": f"act {n}", "n": n}
    if version == 3:
        content["tags"] = [f"n{n % 5}", "upgraded"]
    metadata: dict[str, Any] = {"schema": "law.mark", "author": f"a{n % 3}", "source": "test", "extra": {"n": n}}
    if version == 3:
        metadata["tags"] = content["tags"]
    if version > 1 or n % 2:
        metadata["schema_version"] = version  # a crystal without one is of version 1
    return Datum(f"m{n:04}", orjson.dumps(content), 1000.0 + n // 2, f"m{n - 1:04}" if n else None, metadata)


def mark(n: int) -> Mark:
    return Mark(f"act {n}", n, (f"n{n % 5}", "upgraded"))


def version_of(n: int) -> int:
    return (1, 1, 2, 3, 1)[n % 5]
