"""What became of a COMMIT whose answer was lost: the server is asked by the id of the transaction."""

from __future__ import annotations

from typing import Any, Final

from dgent.exceptions import OutcomeUnknown

IN_THE_FUTURE: Final = "22023"
"""What a server says of an id that it has not given out, or not again since a crash."""
UNKNOWN: Final = (
    "the connection to {what} was lost while it committed, and what became of it cannot be known: look whether "
    "the write is in; a put may simply be repeated"
)
_STATUS: Final = "SELECT pg_xact_status($1::text::xid8), stats_reset::text FROM pg_stat_bgwriter"
_END: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = $1::text::xid8::xid"


async def is_committed(driver: Any, xid: str, life: str, *, seconds: float, what: str) -> bool | None:
    """Tell whether a transaction was committed; if it still runs, end it and answer None: ask again.

    `life` is when the server began to count, at the time of the transaction: after a crash an id is given out again.

    Raises:
        OutcomeUnknown: nobody can tell.
    """
    status, now = await driver.fetchrow(_STATUS, xid, timeout=seconds)
    if status == "in progress" and now == life:
        await driver.execute(_END, xid, timeout=seconds)
        return None
    if status is None or (status == "committed" and now != life):
        raise OutcomeUnknown(UNKNOWN.format(what=what))
    return bool(status == "committed")
