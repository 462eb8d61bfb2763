"""Calling back after the fact: what is committed stays committed, whatever a listener does."""

# Callbacks run one after the other on the thread that has the answer of the commit: that of the caller's loop, but for
# a JSONL file its writer's, under the lock between processes. Nothing is awaited, so no cancel comes between two of
# them; a CancelledError that one raises is logged as any error.

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log: Final = logging.getLogger("dgent")


def call_all(callbacks: Iterable[Callable[[], object]]) -> None:
    """Call every one, whatever another raises, which is logged: the commit that they hear of stands.

    On the program's main thread KeyboardInterrupt and SystemExit are raised after the last of them. On any other they
    would end no program, and only take its answer from whoever waits for that thread.
    """
    ends: BaseException | None = None
    for callback in callbacks:
        try:
            callback()
        except (Exception, CancelledError):  # of a future that it looked at: nobody cancels a plain function
            _log.exception("a callback failed after a commit, which stands: %r", callback)
        except BaseException as error:
            _log.exception("a callback would end the program after a commit, which stands: %r", callback)
            ends = ends or error
    if ends is not None and threading.current_thread() is threading.main_thread():
        raise ends
