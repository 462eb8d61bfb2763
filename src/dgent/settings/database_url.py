"""Database URLs, each in one form: with the driver that D-gent uses, and for SQLite with an absolute path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from dgent.error_messages import called
from dgent.exceptions import InvalidSettings
from dgent.settings import sqlite_url

_TWO_ATS = (
    "the database URL cannot be read: it holds more than one @. An @ in a user name or password is written %40, and so "
    "is one in any other part"
)
_BEFORE_QUERY = re.compile(r"[^:]*://(?:[^:/]*(?::[^@]*)?@)?[^?]*\??")
"""As SQLAlchemy reads it: a question mark before the @ is one of the password."""
_NAME = re.compile(r"[A-Za-z_][\w-]{0,62}")
_SCHEME = re.compile(r"(file|(sqlite|postgres|postgresql)(\+\w+)?):")


def parse_url(value: str | URL | None, base: Path | None = None) -> URL | None:
    """Return a database URL with the driver that D-gent uses; what was returned is returned as it is.

    `postgresql://` and `postgres://` are read as `postgresql+asyncpg://`. `sqlite://` and `file:` URIs are read as
    `sqlite+aiosqlite://` with an absolute path; a relative one is below `base`, by default the working directory.

    Raises:
        InvalidSettings: it is no URL, one of another database, or one with an option that is not known. The message
            shows no password.
    """
    if value is None:
        return value
    url = value if isinstance(value, URL) else _read(value)
    _check(url)
    backend = url.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+asyncpg")
    if backend == "sqlite":
        return sqlite_url.normal(url, base)
    raise InvalidSettings(f"the database URL names {backend!r}: D-gent runs on sqlite and postgresql")


def shown(url: URL) -> str:
    """Return a URL as text for people: without its password, and of a server's options only where they lead."""
    if url.query and url.get_backend_name() != "sqlite":
        url = url.set(query={name: value if name in {"host", "port"} else "..." for name, value in url.query.items()})
    return url.render_as_string(hide_password=True)


def checked_path(path: str | os.PathLike[str], instead: str) -> Path:
    """Return the absolute path of a file of data, where a path is meant and nothing else.

    Raises:
        InvalidSettings: it is a URL, a name that SQLite takes for a database in memory, or no path at all. The message
            says what to use, `instead` for memory.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or "\0" in name:
        raise InvalidSettings(f"{called(path)} is no path of a file: a path is text without NUL")
    if name in {"", ":memory:"}:
        raise InvalidSettings(f"{name!r} is no path: for a store in memory use {instead}")
    if _SCHEME.match(name):
        raise InvalidSettings(
            f"a path is wanted here, not a URL ({name.partition(':')[0]}:...): write the path of the file, or give the "
            "URL to Settings.load(database_url=...)"
        )
    return sqlite_url.absolute(name)


def _read(value: str) -> URL:
    if isinstance(value, str) and value.startswith("file:"):
        return URL.create("sqlite", database=value)
    if isinstance(value, str) and value.count("@") > 1 and not value.startswith("sqlite"):
        raise InvalidSettings(_TWO_ATS)  # where the password ends is not known, nor what may be shown
    try:
        url = make_url(value)
    except (ArgumentError, ValueError, TypeError):
        raise InvalidSettings(
            "the database URL cannot be read: write sqlite:////absolute/path.db or postgresql://user@host/name"
        ) from None
    query = _BEFORE_QUERY.sub("", value, count=1)
    for name, given in parse_qsl(query, keep_blank_values=True):  # make_url drops those without a value
        if not given:
            raise _no_value(name)
    return url


def _check(url: URL) -> None:
    if "@" in (url.host or ""):
        raise InvalidSettings(_TWO_ATS)
    for name, value in url.query.items():
        if not value:
            raise _no_value(name)


def _no_value(name: str) -> InvalidSettings:
    """Return the error of an option, whose name is shown unless it may be anything."""
    which = repr(name) if _NAME.fullmatch(name) else "with a name that none can have"
    return InvalidSettings(f"the option {which} in the database URL has no value: give it one, or leave it out")


def of_libpq(variable: str) -> str:
    """Return what the environment says where a PostgreSQL URL does not, such as PGHOST: the driver reads it, too."""
    return os.environ.get(variable, "")


def home() -> Path | None:
    """Return the home of this user, where drivers look for certificates; None if it is not known."""
    try:
        return Path.home()
    except RuntimeError:
        return None
