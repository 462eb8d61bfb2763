"""What the options in a PostgreSQL URL mean: each is kept, mapped, or refused by its name.

libpq refuses what it does not know, and so does this; other tools write options of their own into the same URL, which
are understood where they mean something here. A setting of the server goes into `options`, as libpq wants it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from dgent.exceptions import InvalidSettings
from dgent.settings import of_libpq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL

    from dgent.settings import Settings

PLANS: Final = 512
"""How many plans of statements a connection keeps, unless the URL says otherwise."""

_KEPT: Final = frozenset(
    {"host", "port", "user", "password", "dbname", "database", "passfile", "service", "sslmode", "sslcert", "sslkey"}
    | {"sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version"}
    | {"ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib", "options", "application_name"}
)
_HARMLESS: Final = frozenset(
    {"async_fallback", "fallback_application_name", "gssdelegation", "keepalives", "keepalives_count"}
    | {"keepalives_idle", "keepalives_interval", "load_balance_hosts", "sslcompression", "sslsni", "tcp_user_timeout"}
)
"""Options that change nothing here: the driver has none of it, or it is always done."""
_WEAKER: Final[Mapping[str, frozenset[str]]] = {
    "channel_binding": frozenset({"prefer", "disable"}),
    "gssencmode": frozenset({"prefer", "disable"}),
    "client_encoding": frozenset({"utf8", "utf-8", "unicode", "auto"}),
    "require_auth": frozenset(),
}
"""Options that the driver cannot keep, with the values that ask for nothing."""
_ELSEWHERE: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("pool_size", "max_overflow", "connection_limit", "max_connections", "min_size", "max_size"), "pool_size"
    ),
    "pool_timeout": "pool_timeout",
    "timeout": "connect_timeout",
    **dict.fromkeys(("command_timeout", "socket_timeout", "statement_timeout"), "command_timeout"),
    **dict.fromkeys(("schema", "currentSchema", "search_path"), "database_schema"),
}
"""What other tools keep in the URL and we in a setting."""
_MAPPED: Final = ("connect_timeout", "pgbouncer", "prepared_statement_cache_size", "ssl", "statement_cache_size")
_TLS_FILES: Final = ("sslcert", "sslcrl", "sslkey", "sslrootcert")
_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ATTRIBUTES: Final = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
_TRUTH: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_NAMES: Final = re.compile(r"[A-Za-z_][\w-]{0,62}")
_OF_THE_SERVER: Final = re.compile(r"(?:-c\s*|--)([\w.-]+)=")


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how to speak with it.

    Attributes:
        url: what is left for the driver to read, with libpq's names.
        settings: ours, with what the URL says of them.
        where: what tells it apart from other servers, without a password: role, host, port, database, schema.
        plans: how many plans of statements a connection keeps.
        pooled: a pooler in between gives each transaction another connection, so that nothing outlives one.
    """

    url: URL
    settings: Settings
    where: str
    plans: int = PLANS
    pooled: bool = False

    @property
    def dsn(self) -> str:
        """The URL as the driver reads it. It holds the password."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @property
    def server_settings(self) -> frozenset[str]:
        """The names of the server's own settings that the URL states in `options`."""
        return frozenset(name.replace("-", "_") for name in _OF_THE_SERVER.findall(str(self.url.query.get("options"))))


def read_url(url: URL, settings: Settings) -> Target:
    """Return what a URL means.

    Raises:
        InvalidSettings: an option is unknown, belongs elsewhere, or has a value that cannot be; the message names it.
    """
    given = {name: _one(name, value) for name, value in url.query.items()}
    for name, value in given.items():
        _check(name, value)
    if "ssl" in given:  # SQLAlchemy's name for it
        given.setdefault("sslmode", given["ssl"])
    _check_tls(given)
    sizes = [
        _number(name, given[name])
        for name in ("statement_cache_size", "prepared_statement_cache_size")
        if name in given
    ]
    plans = min([*sizes, PLANS])
    left = url.set(query={name: value for name, value in given.items() if name in _KEPT})
    return Target(
        url=left,
        settings=_timed(settings, given.get("connect_timeout")),
        where=_where(left, settings.database_schema),
        plans=plans,
        pooled=_truth("pgbouncer", given.get("pgbouncer", "false")) or not plans,
    )


def _one(name: str, value: str | tuple[str, ...]) -> str:
    """Return the value of an option; several hosts and ports are a list, as libpq writes it."""
    if isinstance(value, str):
        return value
    if name in {"host", "port"}:
        return ",".join(value)
    raise InvalidSettings(f"the option {_named(name)} stands twice in the database URL: leave out one of the two")


def _check(name: str, value: str) -> None:
    if name in _ELSEWHERE:
        setting = _ELSEWHERE[name]
        raise InvalidSettings(
            f"the option {name} does not belong into the database URL: take it out, and set KGENTS_{setting.upper()} "
            f"({setting}) instead"
        )
    if name in _WEAKER and value.lower() not in _WEAKER[name]:
        known = " or ".join(sorted(_WEAKER[name]))
        raise InvalidSettings(
            f"the option {name} in the database URL asks for what the driver cannot do: "
            + (f"say {known}, or leave it out" if known else "leave it out")
        )
    if name not in _KEPT and name not in _HARMLESS and name not in _WEAKER and name not in _MAPPED:
        near = difflib.get_close_matches(name, [*_KEPT, *_MAPPED, *_HARMLESS], 1)
        raise InvalidSettings(
            f"the option {_named(name)} in the database URL is unknown"
            + (f" (is {near[0]} meant?)" if near else "")
            + ": those of libpq are known; a setting of the server is written options=-c%20name%3Dvalue"
        )
    if name == "target_session_attrs" and value not in _ATTRIBUTES:
        raise InvalidSettings(f"target_session_attrs in the database URL is one of {', '.join(_ATTRIBUTES)}")
    if name == "port" and not all(part.isascii() and part.isdigit() for part in value.split(",")):
        raise InvalidSettings("port in the database URL is a number, or one for each host, joined by commas")


def _check_tls(given: Mapping[str, str]) -> None:
    mode = given.get("sslmode", "prefer")
    if mode not in _MODES:
        raise InvalidSettings(f"sslmode in the database URL is {', '.join(_MODES[:-1])} or {_MODES[-1]}")
    for name in _TLS_FILES:
        if name in given and not Path(given[name]).is_file():
            raise InvalidSettings(f"{name} in the database URL names a file that is not there: give its whole path")


def _timed(settings: Settings, connect_timeout: str | None) -> Settings:
    """Return settings with the URL's own limit; libpq takes 0 for no limit, which we never wait without."""
    if connect_timeout is None or not (seconds := _number("connect_timeout", connect_timeout)):
        return settings
    return settings.model_copy(update={"connect_timeout": float(min(seconds, 3600))})


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise InvalidSettings(f"{name} in the database URL is a whole number from 0")
    return int(value)


def _truth(name: str, value: str) -> bool:
    found = _TRUTH.get(value.lower())
    if found is None:
        raise InvalidSettings(f"{name} in the database URL is true or false")
    return found


def _named(name: str) -> str:
    """Return the name of an option for people, unless it may be anything, such as a password at a wrong place."""
    return name if _NAMES.fullmatch(name) else "with a name that none can have"


def _where(url: URL, schema: str | None) -> str:
    """Return the place of a store, which what the environment adds to the URL is part of."""
    query = url.query

    def said(name: str, given: object, variable: str, default: str = "") -> str:
        return str(given or query.get(name) or of_libpq(variable) or default)

    user = said("user", url.username, "PGUSER")
    host = said("host", url.host, "PGHOST", "localhost")
    port = said("port", url.port, "PGPORT", "5432")
    database = said("dbname", url.database or query.get("database"), "PGDATABASE", user)
    service = said("service", None, "PGSERVICE")
    more = {"service": service, "schema": schema or "", "options": str(query.get("options") or "")}
    options = "&".join(f"{name}={quote(value)}" for name, value in more.items() if value)
    place = f"postgresql://{quote(user)}@{quote(host, safe=',:')}:{port}/{quote(database)}"
    return f"{place}?{options}" if options else place
