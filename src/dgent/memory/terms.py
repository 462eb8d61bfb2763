"""What a live datum can be found by without a scan: hashes of the scalar paths of its metadata.

A term is 64 bits of BLAKE3 over a path and a value. Two values may share one, so whatever an index finds is checked
against the query itself: an inverted index in a portable table, after the idea of PostgreSQL's GIN `jsonb_path_ops`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import orjson
from blake3 import blake3

from dgent.query import Query, comparable_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMBER: Final = "[]"


@lru_cache(maxsize=8192)
def term(path: tuple[str | int, ...], value: str) -> int:
    """Return the term of a path of names and a value in comparable JSON."""
    return int.from_bytes(blake3(orjson.dumps([path, value])).digest(8), "big", signed=True)


def terms_of(metadata_json: str) -> set[int]:
    """Return the terms of metadata: each scalar below nested objects, and each member of `tags`."""
    if metadata_json == "{}":
        return set()
    metadata: dict[str, Any] = orjson.loads(metadata_json)
    found = {term(path, value) for path, value in _scalars(metadata, ())}
    tags = metadata.get("tags")
    if isinstance(tags, list):
        found |= {tag_term(tag) for tag in tags if isinstance(tag, str)}
    return found


def tag_term(tag: str) -> int:
    """Return the term of one tag."""
    return term(("tags", _MEMBER), orjson.dumps(tag).decode())


def terms_for(query: Query) -> list[int]:
    """Return the terms that every match of a query has."""
    found = [tag_term(tag) for tag in sorted(query.tags)]
    if query.schema is not None:
        found.append(term(("schema",), orjson.dumps(query.schema).decode()))
    if query.author is not None and query.author != "system":  # "system" also means that there is none
        found.append(term(("author",), orjson.dumps(query.author).decode()))
    return found + [term(path, value) for root, path, value in query.conditions if _has_term(root, path, value)]


def covers(query: Query) -> bool:
    """Tell whether terms stand for all that a query asks of the metadata and the content."""
    return query.author != "system" and all(_has_term(*condition) for condition in query.conditions)


def _has_term(root: str, path: tuple[str | int, ...], value: str) -> bool:
    return root == "metadata" and value[0] not in "{[" and all(isinstance(step, str) for step in path)


def _scalars(value: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _scalars(item, (*path, name))
        elif not isinstance(item, list) and (text := comparable_or_none(item)) is not None:
            yield (*path, name), text
