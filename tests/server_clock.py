"""The clock of a PostgreSQL server in the hand of a test, which gives a database its own functions for the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from dgent.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

_SET_UP = """
CREATE TABLE public.the_time (now float8 NOT NULL);
INSERT INTO public.the_time VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT to_timestamp(now) FROM public.the_time';
CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT to_timestamp(now) FROM public.the_time'
"""

_connections: dict[str, psycopg.Connection] = {}  # by the URL of the database, until the test is over


@dataclass(frozen=True)
class ServerClock:
    """Makes the server of a database show a time, to connections that are opened from the first time on.

    PostgreSQL looks into `pg_catalog` first unless the path names it; here it is named last. All clocks of one database
    share a connection, which `release` closes.
    """

    url: str

    def follow(self, clock: Callable[[], float] | None) -> None:
        """Show what a clock shows that a test moves; any other lets the server's go as it does."""
        if isinstance(clock, ManualClock) and self not in clock.followers:
            self(clock())
            clock.followers.append(self)

    def __call__(self, now: float) -> None:
        """Show this time."""
        self._connection().execute("UPDATE public.the_time SET now = %s", [now])

    def _connection(self) -> psycopg.Connection:
        if (open := _connections.get(self.url)) is None:
            open = _connections[self.url] = psycopg.connect(self.url, autocommit=True)
            name = sql.Identifier(open.info.dbname)
            open.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog").format(name))
            open.execute(_SET_UP)
        return open


def release(url: str) -> None:
    """Close the connection to a database that is about to go; there may be none."""
    if (open := _connections.pop(url, None)) is not None:
        open.close()
