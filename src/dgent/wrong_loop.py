"""The one error that is one of asyncio's, too; `dgent.exceptions` has it as well."""

from __future__ import annotations

import asyncio

from dgent.exceptions import DgentError


class WrongLoop(DgentError, asyncio.InvalidStateError):
    """A call would wait for the event loop that it runs on itself, or for one that does not run."""
