"""What a URL says of a SQLite file, in one form: an absolute path, and options that are known.

    sqlite:///notes.db                                sqlite+aiosqlite:////here/notes.db
    sqlite:///~/notes.db                              sqlite+aiosqlite:////home/ada/notes.db
    file:/srv/notes.db?mode=ro                        sqlite+aiosqlite:////srv/notes.db?mode=ro
    sqlite:///file:/srv/notes.db?immutable=1&uri=true sqlite+aiosqlite:////srv/notes.db?mode=ro&immutable=1
    sqlite:////scratch?vfs=memdb                      as it is: what `StorageProvider.create_minimal()` opens, in memory

SQLAlchemy has decoded the path of a URL; that of a `file:` URI is decoded here, as SQLite does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy.engine import URL

from dgent.exceptions import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVER: Final = "sqlite+aiosqlite"
_YES, _NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_KNOWN: Final = "mode=ro, mode=rw (the file must be there), mode=rwc (the default) and immutable=1"
_ELSEWHERE: Final = {"timeout": "set busy_timeout instead", "cache": "D-gent shares no cache between connections"}
_IN_MEMORY: Final = (
    "a SQLite database in memory ends with its connection: name a file, or use StorageProvider.create_minimal() for "
    "both tracks in memory, MemoryBackend() for agent memory alone"
)


def normal(url: URL, base: Path | None = None) -> URL:
    """Return a URL of SQLite in its one form; a relative path is below `base`, by default the working directory.

    Raises:
        InvalidSettings: it names a host, a database without a file, or an option that is not known.
    """
    if url.host or url.username or url.port:
        raise InvalidSettings(
            "the SQLite URL names a host: write sqlite:///relative.db with three slashes or sqlite:////absolute.db"
        )
    name, options = url.database or "", _single(url.query)
    if name.startswith("file:"):
        name, more = _uri(name)
        options = {**more, **options}
    if options.get("vfs") == "memdb" and name.startswith("/") and set(options) <= {"vfs", "uri"}:
        return URL.create(DRIVER, database=name, query={"vfs": "memdb"})
    if name in {"", ":memory:"} or options.get("mode") == "memory":
        raise InvalidSettings(_IN_MEMORY)
    return URL.create(DRIVER, database=str(absolute(name, base)), query=_checked(options))


def absolute(name: str, base: Path | None = None) -> Path:
    """Return the absolute path of a file: `~` is the home, a relative path is below `base` or the working directory.

    Raises:
        InvalidSettings: it holds a NUL, or what it is relative to is not there.
    """
    if "\0" in name:
        raise InvalidSettings("a path holds no NUL")
    try:
        path = Path(name).expanduser()
        return (path if base is None else base / path).absolute()
    except RuntimeError:
        raise InvalidSettings("the home directory of that user is not known: write ./~ for a name like that") from None
    except FileNotFoundError:
        raise InvalidSettings("the working directory is gone: change to another, or write absolute paths") from None


def _single(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    options = {}
    for name, value in query.items():
        if not isinstance(value, str):
            raise InvalidSettings(f"the SQLite URL has the option {name!r} more than once")
        options[name] = value
    return options


def _uri(text: str) -> tuple[str, dict[str, str]]:
    """Return the path and the options of a `file:` URI."""
    try:
        parts = urlsplit(text)
    except ValueError:
        raise InvalidSettings("the file: URI cannot be read: write file:/absolute/path.db") from None
    if parts.netloc not in {"", "localhost"}:
        raise InvalidSettings("the file: URI names a host: write file:/absolute/path.db")
    return unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True))


def _checked(options: dict[str, str]) -> dict[str, str]:
    """Return the options that are not the default, in one spelling."""
    for name in options:
        if name not in {"mode", "immutable", "uri"}:
            hint = f" ({_ELSEWHERE[name]})" if name in _ELSEWHERE else ""
            raise InvalidSettings(f"the SQLite URL has the option {name!r}, which is not known{hint}: {_KNOWN} are")
    mode, immutable = options.get("mode"), options.get("immutable", "0").lower()
    if mode not in {None, "ro", "rw", "rwc"} or immutable not in _YES | _NO:
        wrong = "immutable" if immutable not in _YES | _NO else "mode"
        raise InvalidSettings(f"the SQLite URL has a value of {wrong!r} that is not known: {_KNOWN} are")
    if immutable in _NO:
        return {"mode": mode} if mode in {"ro", "rw"} else {}
    if mode in {"rw", "rwc"}:
        raise InvalidSettings(f"the SQLite URL says immutable=1 and mode={mode}: what does not change is mode=ro")
    return {"mode": "ro", "immutable": "1"}
