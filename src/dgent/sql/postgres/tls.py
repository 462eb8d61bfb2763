"""TLS where the home of this user cannot be entered: asyncpg looks for certificates there and fails.

Then what it looks for is not there, and the modes of libpq are spoken here, over the files that the URL names.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dgent.exceptions import InvalidSettings
from dgent.settings import home, of_libpq

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.sql.postgres.url_options import Target

_VERIFYING: Final = frozenset({"verify-ca", "verify-full"})
_REJECTED: Final = "rejected SSL upgrade"


def home_is_closed() -> bool:
    """Tell whether this user may not look into the home that the environment names."""
    folder = home()
    try:
        if folder is not None:
            (folder / ".postgresql" / "postgresql.key").stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


async def connect_without_home(connect: Callable[..., Awaitable[Any]], target: Target, **named: Any) -> Any:
    """Open a connection of asyncpg without a look at the home.

    Raises:
        InvalidSettings: a mode that verifies needs a root, which the URL does not name.
    """
    mode = str(target.url.query.get("sslmode") or of_libpq("PGSSLMODE") or "prefer")
    if "passfile" not in target.url.query and not of_libpq("PGPASSFILE"):
        named["passfile"] = Path(os.devnull, "none")
    if mode in {"disable", "allow"} or (mode == "prefer" and _is_local(target)):
        return await connect(target.dsn, ssl=False, **named)
    try:
        return await connect(target.dsn, ssl=_context(target, mode), **named)
    except ConnectionError as error:
        if mode != "prefer" or _REJECTED not in str(error):
            raise
    return await connect(target.dsn, ssl=False, **named)


def _is_local(target: Target) -> bool:
    host = str(target.url.host or target.url.query.get("host") or of_libpq("PGHOST") or "/")
    return all(each.startswith("/") for each in host.split(","))


def _context(target: Target, mode: str) -> ssl.SSLContext:
    root, cert, key = (_file(target, name) for name in ("sslrootcert", "sslcert", "sslkey"))
    if mode in _VERIFYING and root is None:
        raise InvalidSettings(
            f"sslmode={mode} in the database URL needs sslrootcert there: the home of this user cannot be entered"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_NONE if root is None or mode == "prefer" else ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if root is not None:
        context.load_verify_locations(cafile=root)
    if cert is not None:
        context.load_cert_chain(cert, key, str(target.url.query.get("sslpassword", "")))
    return context


def _file(target: Target, name: str) -> str | None:
    found = target.url.query.get(name) or of_libpq(f"PG{name.upper()}")
    return str(found) if found else None
