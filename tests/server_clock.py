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


@dataclass(frozen=True)
class ServerClock:
    """Makes the server of a database show a time, to connections that are opened from the first time on.

    PostgreSQL looks into `pg_catalog` first unless the path names it; here it is named last.
    """

    url: str

    def follow(self, clock: Callable[[], float] | None) -> None:
        """Show what a clock shows that a test moves; any other lets the server's go as it does."""
        if isinstance(clock, ManualClock) and self not in clock.followers:
            self(clock())
            clock.followers.append(self)

    def __call__(self, now: float) -> None:
        """Show this time."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            if connection.execute("SELECT to_regclass('public.the_time')").fetchone() == (None,):
                name = sql.Identifier(connection.info.dbname)
                connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog").format(name))
                connection.execute(_SET_UP)
            connection.execute("UPDATE public.the_time SET now = %s", [now])
