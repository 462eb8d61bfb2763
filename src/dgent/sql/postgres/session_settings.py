"""What holds in a session with PostgreSQL: stated when it is opened, or, behind a pooler, in each transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dgent.sql.postgres.url_options import Target

GRACE: Final = 2.0
"""Seconds that the client waits beyond the server's own limit, so that the server's answer comes first."""
REPORT: Final = "SELECT set_config('application_name', 'dgent ' || pg_current_xact_id()::text, true)"
"""Tells the client the id of its transaction, without a result to read: as the connection's application_name."""
PREPARE: Final = f"PREPARE dgent_begin AS {REPORT}"
"""Run once in each session, unless a pooler changes it behind our back."""
BEGIN: Final = "BEGIN; EXECUTE dgent_begin"
IDLE: Final = "idle_in_transaction_session_timeout"
"""The server's setting that ends a transaction in which nothing is asked."""
_LONGEST: Final = 2**31 - 1
"""Milliseconds that the server can wait: 24 days."""
_MAKE_SCHEMA: Final = """DO $do$ BEGIN
    IF to_regnamespace({name}) IS NULL THEN EXECUTE {command}; END IF;
EXCEPTION WHEN duplicate_schema OR unique_violation THEN NULL;  -- another connection was first
END $do$"""


def session_settings(target: Target) -> dict[str, str]:
    """Return the server's settings that a session has; what the URL says in `options` wins where it may."""
    settings = target.settings
    needed = {
        "application_name": str(target.url.query.get("application_name", "dgent")),
        "default_transaction_isolation": "read committed",
        "timezone": "UTC",
    }
    if settings.database_schema is not None:  # alone: what is not in it is not there, and never somebody else's
        needed["search_path"] = _identifier(settings.database_schema)
    sensible = {
        "statement_timeout": milliseconds(settings.command_timeout),
        IDLE: milliseconds(settings.transaction_timeout + GRACE),
        "tcp_keepalives_idle": "60",
        "jit": "off",  # its compiler costs 100 ms where a recursive query is estimated too high
    }
    return needed | {name: value for name, value in sensible.items() if name not in target.server_settings}


def opening_settings(target: Target) -> dict[str, str]:
    """Return what is said when a session is opened: all of it, or what a pooler takes."""
    settings = session_settings(target)
    return {"application_name": settings["application_name"]} if target.pooled else settings


def local_settings(target: Target) -> str:
    """Return the statements that make these settings hold until the end of a transaction, and no longer."""
    found = session_settings(target)
    del found["application_name"], found["default_transaction_isolation"], found["tcp_keepalives_idle"]
    values = {name: value if name == "search_path" else _literal(value) for name, value in found.items()}
    return "; ".join(f"SET LOCAL {name} = {value}" for name, value in values.items())


def begin(target: Target) -> str:
    """Return what opens a transaction and reports its id, in one round trip."""
    return f"BEGIN; {local_settings(target)}; {REPORT}" if target.pooled else BEGIN


def begin_reading(target: Target) -> str:
    """Return what opens a transaction that only reads, and has no id."""
    return f"BEGIN READ ONLY; {local_settings(target)}" if target.pooled else "BEGIN READ ONLY"


def make_schema(name: str) -> str:
    """Return what makes a schema that is not there, in one round trip; one that is there needs no right."""
    identifier = _identifier(name)
    return _MAKE_SCHEMA.format(name=_literal(identifier), command=_literal(f"CREATE SCHEMA {identifier}"))


def milliseconds(seconds: float) -> str:
    """Return a time as the server takes it."""
    return str(int(max(1, min(seconds * 1000, _LONGEST))))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("$", "\\x24")  # no `$do$` in the middle of it
    return f"E'{escaped}'"
