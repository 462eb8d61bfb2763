"""What PostgreSQL and the way to it refuse: a mistake is named with what is missing, an outage is one.

An outage is a connection that was refused or reset, a timeout, a name that cannot be looked up for now, and what a
server says while it starts, stops or is full (SQLSTATE 08, 53300, 57P01 to 57P03). Everything else that keeps a
connection from being made is somebody's mistake: it does not go away by waiting, and nothing may take the place of the
store.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from dgent.exceptions import AccessRefused, BackendUnavailable, DgentError, InvalidSettings, ReadOnly, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ROLE: Final = re.compile(r"://([^:@/?#]+)(?::[^@]*)?@")
_DATABASE: Final = re.compile(r"://[^/?#]*/([^?#]+)")
_DENIED: Final = re.compile(r'permission denied for (?P<kind>[a-z ]+) "?(?P<name>[A-Za-z_][\w$]*)')
_OWNER: Final = re.compile(r"must be owner of (?P<kind>[a-z ]+) (?P<name>[A-Za-z_][\w$]*)")
_PARAMETER: Final = re.compile(r'parameter:? "?(?P<name>[A-Za-z_][\w.]*)')
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")
_WRITES: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|TRUNCATE|MERGE|COPY)\b", re.IGNORECASE)
_IN_RECOVERY: Final = "during recovery"
_UNKNOWN_NAME: Final = frozenset(
    {socket.EAI_NONAME, socket.EAI_FAMILY, *([socket.EAI_NODATA] if hasattr(socket, "EAI_NODATA") else [])}
)
_NETWORK: Final = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETDOWN}
    | {errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.ESHUTDOWN}
    | {errno.EAGAIN}  # a full backlog of a Unix socket
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_GONE: Final = "{what} does not answer: check that it runs and can be reached, and the URL"
_FOUND: Final = {
    "primary": "each that answers is a standby, is the primary down?",
    "read-write": "each that answers can only be read, is the primary down, or default_transaction_read_only on?",
    "standby": "each that answers is a primary, are the standbys down, or is their host not in the URL?",
    "read-only": "each that answers takes writes, are the standbys down, or is their host not in the URL?",
}
"""What servers are that are not as target_session_attrs asks."""
_PASSING_TLS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def quoted(name: str) -> str:
    """Return an identifier as SQL writes it."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


class Names(NamedTuple):
    """What a URL says of the role and the database, for messages; `what` is the URL without its password."""

    role: str
    database: str

    @classmethod
    def of(cls, what: str) -> Names:
        """Read them."""
        role, database = _ROLE.search(what), _DATABASE.search(what)
        return cls(
            quoted(unquote(role[1])) if role else "the role of the URL",
            quoted(unquote(database[1])) if database else "the database",
        )


def missing_right(texts: Iterable[tuple[str, str]], what: str) -> DgentError:
    """Return what SQLSTATE 42501 means. `texts` are the server's messages, each with the statement that it refused.

    Of the server's words only identifiers are taken. Where they are in another language the answer is general.
    """
    role = Names.of(what).role

    for text, statement in texts:
        if found := _DENIED.match(text):
            return _denied(found["kind"], quoted(found["name"]), statement, what)
        if found := _OWNER.match(text):
            kind, name = found["kind"].upper(), quoted(found["name"])
            return AccessRefused(
                f"{what}: {role} does not own the {found['kind']} {name}: run `ALTER {kind} {name} OWNER TO {role}` as "
                "its owner, or do this as that role"
            )
    return AccessRefused(
        f"{what}: {role} lacks a right (SQLSTATE 42501). What it needs: `GRANT USAGE, CREATE ON SCHEMA ... TO {role}`, "
        f"and `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ... TO {role}`"
    )


def _denied(kind: str, name: str, statement: str, what: str) -> DgentError:
    role, database = Names.of(what)
    if kind == "schema":
        rights = "USAGE, CREATE" if not statement or "CREATE" in statement.upper() else "USAGE"
        why = " (since PostgreSQL 15 nobody else may by default)" if name == "public" and "CREATE" in rights else ""
        return AccessRefused(
            f"{what}: {role} may not make tables in the schema {name}{why}: run `GRANT {rights} ON SCHEMA {name} TO "
            f"{role}` as its owner, or set KGENTS_DATABASE_SCHEMA to a schema of its own"
        )
    if kind == "database":
        return AccessRefused(
            f"{what}: {role} may not connect to the database {database} or make a schema in it: run `GRANT CONNECT, "
            f"CREATE ON DATABASE {database} TO {role}` as its owner"
        )
    if kind in {"table", "view", "sequence"}:
        if kind != "sequence" and _WRITES.search(statement):
            return ReadOnly(no_grant(what, name))
        rights = "USAGE, SELECT ON SEQUENCE" if kind == "sequence" else "SELECT ON"
        return AccessRefused(f"{what}: {role} may not read {name}: run `GRANT {rights} {name} TO {role}` as its owner")
    return AccessRefused(f"{what}: {role} has no right to the {kind} {name}: grant it, or use a role that has it")


def no_grant(what: str, table: str) -> str:
    """Return why a table cannot be written, and what to type."""
    role = Names.of(what).role
    return (
        f"{what} can be read, but {role} may not write {table}: run `GRANT INSERT, UPDATE, DELETE ON {table} TO "
        f"{role}` as its owner, or use a role that has these rights"
    )


def takes_no_writes(what: str, *, recovering: bool | None) -> str:
    """Return why a server takes no writes, and what to do. `recovering` is None where it is not known."""
    if recovering:
        return (
            f"{what} is a standby, which can only be read: name the primary in the URL, or target_session_attrs=primary"
        )
    role, database = Names.of(what)
    perhaps = "" if recovering is False else ", or it is a standby"
    return (
        f"{what} can only be read: default_transaction_read_only is on{perhaps}: run "
        f"`ALTER DATABASE {database} SET default_transaction_read_only = off` (or `ALTER ROLE {role} ...`)"
    )


def read_only(texts: Iterable[tuple[str, str]], what: str) -> ReadOnly:
    """Return what SQLSTATE 25006 means."""
    return ReadOnly(takes_no_writes(what, recovering=True if any(_IN_RECOVERY in text for text, _ in texts) else None))


def no_schema(_: Iterable[tuple[str, str]], what: str) -> InvalidSettings:
    """Return what SQLSTATE 3F000 means."""
    return InvalidSettings(
        f"{what}: search_path names no schema that is there: run `CREATE SCHEMA ...` for the one that the URL "
        f"(options=-c search_path=...) names, or by default {Names.of(what).role} or the database; or set "
        "KGENTS_DATABASE_SCHEMA, which is made"
    )


_KNOWN: Final[Mapping[str, Callable[[Iterable[tuple[str, str]], str], DgentError]]] = {
    "3F000": no_schema,
    "42501": missing_right,
    "25006": read_only,
}


def refused(state: str, texts: Iterable[tuple[str, str]], what: str) -> DgentError:
    """Return what a server's refusal of a connection means."""
    role, database = Names.of(what)
    if state == "28P01":
        return AccessRefused(f"{what} refused the login: the password of {role} in the URL is wrong, or there is none")
    if state.startswith("28"):
        return AccessRefused(
            f"{what} refused the login of {role} (SQLSTATE {state}): check the user in the URL, that the role is there "
            f"and may log in (`ALTER ROLE {role} LOGIN`), and that pg_hba.conf lets it in from here"
        )
    if state in {"3D000", "57P04"}:
        return InvalidSettings(
            f"{what} has no database {database}: run `CREATE DATABASE {database}`, or check the name in the URL"
        )
    if state in _KNOWN:
        return _KNOWN[state](texts, what)
    for text, _ in texts:
        if state in {"42704", "22023", "42602", "08P01"} and (found := _PARAMETER.search(text)):
            return _wrong_parameter(found["name"], state, what)
    if state.startswith("08") or state in {"53300", "57P01", "57P02", "57P03"}:
        return BackendUnavailable(_GONE.format(what=what))
    if state.startswith("53"):
        return ResourceExhausted(f"{what} has no resources left (SQLSTATE {state}): see the log of the server")
    return InvalidSettings(
        f"{what} refused the connection with SQLSTATE {state}: check the URL, and see the log of the server"
    )


def not_as_asked(text: str, what: str) -> DgentError:
    """Return what it means that servers answer and none is as target_session_attrs says; `text` is the driver's."""
    asked = next((name for name in _FOUND if f"'{name}'" in text), None)
    wanted, found = ("", "check that one is") if asked is None else (f"={asked}", _FOUND[asked])
    return BackendUnavailable(f"no server of {what} is what target_session_attrs{wanted} asks for: {found}")


def _wrong_parameter(name: str, state: str, what: str) -> DgentError:
    if state == "08P01":
        return InvalidSettings(
            f"{what} is a pooler, which does not pass on the parameter {name}: say pgbouncer=true in the URL, or "
            "connect to the server itself"
        )
    return InvalidSettings(f"{what} does not take the parameter {name} that the URL states: check its name and value")


def unreachable(error: OSError, what: str) -> DgentError:
    """Return what the operating system says of the way to a server means."""
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or "the handshake failed"
        kind = BackendUnavailable if isinstance(error, _PASSING_TLS) else InvalidSettings
        return kind(f"no TLS with {what} ({reason}): check sslmode and sslrootcert in the URL")
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):  # asyncpg's words; no class for it
        return InvalidSettings(
            f"{what} offers no TLS, which sslmode in the URL asks for: turn it on in the server, or, if you trust the "
            "network between, say sslmode=prefer"
        )
    if isinstance(error, socket.gaierror):
        if error.errno in _UNKNOWN_NAME:
            return InvalidSettings(f"the host in {what} is unknown: check its name in the URL")
        return BackendUnavailable(
            f"the name of the host in {what} cannot be looked up now: check the DNS of this machine"
        )
    if error.errno in _EXHAUSTED:
        return ResourceExhausted(f"no connection to {what}: no file descriptor or no memory is left on this machine")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return AccessRefused(
            f"this user may not connect to the socket of {what}: check the mode of its folder, and "
            "unix_socket_permissions of the server"
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG} and not _folder_is_there(what):
        return InvalidSettings(f"the folder of the socket in {what} is not there: check host in the URL")
    return BackendUnavailable(_GONE.format(what=what))


def _folder_is_there(what: str) -> bool:
    """Tell whether the folder of a Unix socket is: then only the server is missing."""
    found = re.search(r"[?&]host=([^&]+)", what)
    return found is None or any(Path(folder).is_dir() for folder in unquote(found[1]).split(","))


def is_of_the_network(error: OSError) -> bool:
    """Tell whether it is about a connection and not about a file."""
    return isinstance(error, ConnectionError | socket.gaierror | ssl.SSLError) or error.errno in _NETWORK
