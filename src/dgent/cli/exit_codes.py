"""What a script learns from `kg`: one exit code for each kind of end, and one line on stderr for each error."""

from __future__ import annotations

from enum import IntEnum

from dgent.exceptions import (
    BackendUnavailable,
    ChainBroken,
    Conflict,
    Corrupt,
    DgentError,
    InvalidQuery,
    MalformedRow,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    StorageTimeout,
)


class ExitCode(IntEnum):
    """How a command ended; `docs/cli.md` says the same to people."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    PERMISSION = 5
    UNAVAILABLE = 6
    CORRUPT = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_CODES: tuple[tuple[type[DgentError], ExitCode], ...] = (
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.CONFLICT),
    (PermissionDenied, ExitCode.PERMISSION),
    (BackendUnavailable, ExitCode.UNAVAILABLE),
    (StorageTimeout, ExitCode.UNAVAILABLE),
    (OutcomeUnknown, ExitCode.UNAVAILABLE),
    (Corrupt, ExitCode.CORRUPT),
    (ChainBroken, ExitCode.CORRUPT),
    (MalformedRow, ExitCode.CORRUPT),
    (InvalidQuery, ExitCode.USAGE),
    (DgentError, ExitCode.FAILED),
)


def exit_code(error: DgentError) -> ExitCode:
    """Return the code that an error ends a command with."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def explained(error: DgentError) -> str:
    """Return what happened and what to do, in the words of this command line."""
    text = str(error) or type(error).__name__
    return f"{text}; here: --write or --purge" if isinstance(error, PermissionDenied) else text


def warned(text: str) -> str:
    """Return a warning in the words of this command line: it has no page, and other verbs."""
    return text.replace(
        "page.damaged names them; restore or purge them",
        "the list names them, with --json what is left of their bytes, too; restore a backup, or erase a datum with "
        "`kg memory purge ID`",
    )
