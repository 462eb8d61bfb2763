"""What messages of errors are made of, wherever they are raised."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError


MOST_NAMES: Final = 12
UPGRADE: Final = (
    "run `kg db upgrade`, or `await storage.run_migrations()`; in a checkout `alembic upgrade head` does the same"
)
"""What to do about a schema that is older than the code, from wherever that is seen."""


def called(value: object) -> str:
    """Name a value for a message, without showing more than its type where it could be long or private."""
    if isinstance(value, type):
        return value.__name__
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def nearest(name: str, names: Iterable[str], nothing: str = "") -> str:
    """Return the end of a message about an unknown name: those like it, or those that there are, or `nothing`."""
    among = sorted(names)
    found = difflib.get_close_matches(name, among, n=1, cutoff=0.8)  # surely that one
    found = found or difflib.get_close_matches(name, among, n=3, cutoff=0.6)
    if found:
        return f": did you mean {' or '.join(found)}?"
    if len(among) == 1:
        return f": there is only {among[0]}"
    more = ", ..." if len(among) > MOST_NAMES else ""
    return f": there are {', '.join(among[:MOST_NAMES])}{more}" if among else nothing


def wrong_at(error: ValidationError) -> str:
    """Return where a value does not fit its type, and why, without the value: "is wrong at tags.0: ..."."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"is wrong at {where}: {first['msg']}" if where else f"is wrong: {first['msg']}"


def version_refused(id: str, expected: int, actual: int) -> str:
    """Return the message about a live version that is not the one that was expected; 0 is none."""
    found = f"version {actual} is live" if actual else "nothing is live"
    wanted = f"version {expected}" if expected else "no version"
    return f"{id!r}: expected {wanted}, but {found}: get it again and retry"


def head_refused(stream: str, writer: str, expected: str, actual: str) -> str:
    """Return the message about a log that does not end where it was expected to; both as `Head` writes them."""
    end = f"the log of {writer!r} in {stream!r} ends at {actual}"
    return f"{end}, and was expected to end at {expected}: read what is new in it, and retry"


def row_refused(table: str | None, columns: tuple[str, ...], kind: str | None, constraint: str | None) -> str:
    """Return the message about a row that a constraint refused, as far as the database says which."""
    rule = f"a {kind} constraint" if kind else "a constraint"
    named = f" {constraint!r}" if constraint else ""
    of = f" of {table}" if table else ""
    on = f" ({', '.join(columns)})" if columns else ""
    return f"{rule}{named}{of}{on} refused the row"
