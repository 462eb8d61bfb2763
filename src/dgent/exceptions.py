"""Every error that D-gent raises, in one tree.

    DgentError
    ├── InvalidInput (ValueError)           what was passed is refused; nothing was read or written
    │   ├── InvalidDatum                    an id, a content, a time or metadata that no store takes
    │   ├── InvalidNamespace                a namespace that no store takes
    │   ├── InvalidQuery                    a filter, an order or a limit that means nothing
    │   │   └── InvalidCursor               a cursor of another query, or a damaged one
    │   ├── InvalidPath                     an agent path that cannot be read
    │   ├── InvalidRow                      content that does not fit the columns of a table
    │   ├── InvalidFile                     an import file that is not what it should be
    │   ├── InvalidAgent (TypeError)        no agent, no logic, or no source of events
    │   ├── InvalidState                    a state that would not come back as it was
    │   ├── InvalidFocus (TypeError)        an optic that does not fit the value
    │   ├── InvalidSchema                   a contract, a version or a migration that cannot be one
    │   ├── InvalidCheckpoint               a checkpoint that is not signed by whom it should be, or of another log
    │   ├── InvalidKey                      a key file that others can read, or that holds no ed25519 key
    │   ├── InvalidCrystal                  a value or data that does not fit the contract of its schema
    │   ├── LimitExceeded                   larger, deeper or longer than the settings allow
    │   └── CausalCycle                     a parent that descends from its own child
    ├── NotFound (LookupError)
    │   ├── DatumNotFound
    │   ├── TableNotFound
    │   ├── PathNotFound
    │   ├── FocusNotFound                   what a lens looks at is not there
    │   ├── FunctorNotFound
    │   └── SchemaNotFound
    ├── Conflict                            somebody else was first; load again, then try again
    │   ├── VersionConflict                 put(expect=n) met another version
    │   │   └── StateConflict               ... each time that the logic was run
    │   ├── HeadConflict                    append(expect_head=) met a log that ends elsewhere
    │   └── IntegrityViolation              a foreign key, a check or a unique column said no
    ├── PermissionDenied (PermissionError)  the umwelt does not grant this
    ├── CapabilityMissing                   this backend cannot do that, and says so
    ├── FluxBusy (RuntimeError)             a flux that flows already
    ├── FluxStopped                         the flux was stopped before it came to this event
    ├── NoEventLoop (RuntimeError)          asyncio does not run here
    ├── WrongLoop (InvalidStateError)       a call that would wait for the event loop that it runs on
    ├── ReentrantInvoke (RuntimeError)      an agent invoked by itself, which would wait for itself
    ├── UpgradeError                        a crystal that cannot be brought to the version of its schema
    │   ├── CrystalTooNew                   a newer version of the code wrote it
    │   ├── UpgradeGap                      no migration leads on from its version
    │   └── UpgradeFailed                   a migration raised, or made what the contract does not take
    ├── InvalidSettings (ValueError)        a setting, an environment variable or a URL is wrong
    ├── MigrationError
    │   ├── SchemaOutdated                  the database is older than this code: upgrade it
    │   ├── SchemaTooNew                    the database is newer than this code: upgrade D-gent
    │   └── DowngradeRefused                a downgrade outside of development
    └── StorageError                        the machine, the disk, the server or the file
        ├── BackendUnavailable (ConnectionError)
        │   ├── UnknownBackend              a backend name that nobody registered
        │   └── NoBackendAvailable          none of those to choose from answers
        ├── StorageTimeout (TimeoutError)   a bounded wait came to its end; nothing was written
        │   └── DeliveryPending             writes that waited for this store are still on their way to it
        ├── AccessRefused (PermissionError)  a server refuses the login, or its role lacks a right
        ├── DiskFull (OSError)
        ├── DiskError (OSError)             the device failed to read or to write
        ├── ResourceExhausted (OSError)     no memory or no file descriptor is left
        ├── ReadOnly (OSError)              a file, a folder or a server that cannot be written
        ├── Corrupt                         stored bytes are not what was written
        ├── StoreError                      the causal substrate: logs and generations
        │   ├── ChainBroken                 an entry of a log was changed, moved, taken out or cut off
        │   ├── MalformedRow                a stored value has a form that it cannot have
        │   └── NonMonotonicGeneration      a generation was asked to move back
        ├── StoreClosed                     used after close(), or in a forked child
        ├── TransactionOpen (RuntimeError)  a call beside the transaction that is open around it
        ├── RolledBack (RuntimeError)       a transaction that was undone inside of its block
        └── OutcomeUnknown                  the answer to a commit was lost; look, or repeat a put

A message says what happened, to what, and what to do next. It holds no password, and no value out of a driver's error.
"""

from __future__ import annotations

import copyreg

from dgent.error_messages import head_refused, row_refused, version_refused


class DgentError(Exception):
    """Base of every error of this library."""

    def __reduce__(self) -> tuple[object, ...]:
        # Not made anew from `args`, which is the message: the constructors of some take the parts of it instead.
        return copyreg.__newobj__, (type(self), *self.args), {**vars(self), "args": self.args}  # type: ignore[attr-defined]


class InvalidInput(DgentError, ValueError):
    """What was passed is refused; nothing was read or written."""


class InvalidDatum(InvalidInput):
    """An id, a content, a time or metadata that no store takes."""


class InvalidNamespace(InvalidInput):
    """A namespace that no store takes."""


class InvalidQuery(InvalidInput):
    """A filter, an order or a limit that means nothing."""


class InvalidCursor(InvalidQuery):
    """A cursor that belongs to another query, or was damaged on its way."""


class InvalidPath(InvalidInput):
    """An agent path that cannot be read."""


class InvalidRow(InvalidInput):
    """Content that does not fit the columns of a table."""

    def __init__(self, table: str, field: str | None, reason: str) -> None:
        self.table, self.field, self.reason = table, field, reason
        where = f"{table}.{field}" if field else table
        super().__init__(f"{where}: {reason}")


class InvalidFile(InvalidInput):
    """An import file that is not what it should be."""


class InvalidAgent(InvalidInput, TypeError):
    """What was passed is no agent, no logic, or no source of events."""


class InvalidState(InvalidInput):
    """A state that cannot be stored, or would not come back as it was."""


class InvalidFocus(InvalidInput, TypeError):
    """An optic that does not fit the value that it was given."""


class InvalidSchema(InvalidInput):
    """A contract, a version or a migration that no schema can have."""


class InvalidCrystal(InvalidInput):
    """A value, or stored data, that does not fit the contract of its schema."""


class InvalidCheckpoint(InvalidInput):
    """A checkpoint whose signature does not hold, or that is of another log."""


class InvalidKey(InvalidInput):
    """A key file that others can read, that is there already, or that holds no ed25519 key."""


class LimitExceeded(InvalidInput):
    """Larger, deeper or longer than the settings allow."""


class CausalCycle(InvalidInput):
    """A parent that descends from its own child."""


class NotFound(DgentError, LookupError):
    """What was asked for is not there."""


class DatumNotFound(NotFound):
    """No live datum has this id."""


class TableNotFound(NotFound):
    """No registered table has this name."""


class PathNotFound(NotFound):
    """No path leads there."""


class FocusNotFound(NotFound):
    """What a lens looks at is not there."""


class FunctorNotFound(NotFound):
    """No functor has this name."""


class SchemaNotFound(NotFound):
    """No schema has this name, or is for this type."""


class Conflict(DgentError):
    """Somebody else was first."""


class VersionConflict(Conflict):
    """The live version is not the one that was expected. Attributes: `id`, `expected` and `actual` (0 means absent)."""

    def __init__(self, id: str, expected: int, actual: int) -> None:
        self.id, self.expected, self.actual = id, expected, actual
        super().__init__(version_refused(id, expected, actual))


class StateConflict(VersionConflict):
    """Another writer was first each of the `attempts` times that the logic was run; the state is as it was left."""

    def __init__(self, id: str, expected: int, actual: int, attempts: int) -> None:
        super().__init__(id, expected, actual)
        self.attempts = attempts
        problem = f"other writers were first {attempts} times; at last version {expected} was read and {actual} found"
        self.args = (f"{id!r}: {problem}: let fewer write one state, or allow more attempts",)


class HeadConflict(Conflict):
    """A log ends elsewhere than expected. Attributes: `stream`, `writer`, `expected` and `actual`, each a `Head`."""

    def __init__(self, stream: str, writer: str, expected: object, actual: object) -> None:
        self.stream, self.writer, self.expected, self.actual = stream, writer, expected, actual
        super().__init__(head_refused(stream, writer, str(expected), str(actual)))


class IntegrityViolation(Conflict):
    """A foreign key, a check or a unique column refused the row.

    Attributes:
        table: that refused it, or None where the database does not say, as SQLite for a foreign key.
        columns: by their names, as far as the database says them.
        kind: "unique", "foreign key", "check", "not null" or "type"; None for another rule.
        constraint: its name, or None.
    """

    def __init__(
        self,
        table: str | None = None,
        columns: tuple[str, ...] = (),
        kind: str | None = None,
        constraint: str | None = None,
    ) -> None:
        self.table, self.columns, self.kind, self.constraint = table, columns, kind, constraint
        super().__init__(row_refused(table, columns, kind, constraint))


class PermissionDenied(DgentError, PermissionError):
    """The umwelt does not grant this."""


class CapabilityMissing(DgentError):
    """This backend cannot do that; its `Capabilities` say so."""


class FluxBusy(DgentError, RuntimeError):
    """A flux that flows already was started again."""


class FluxStopped(DgentError):
    """The flux was stopped before it came to this event."""


class NoEventLoop(DgentError, RuntimeError):
    """What needs the event loop of asyncio was called where none runs, or another kind does, such as trio's."""


class ReentrantInvoke(DgentError, RuntimeError):
    """An agent was invoked from inside of itself, where it would wait for its own end."""


class UpgradeError(DgentError):
    """A crystal that cannot be brought to the version of its schema; it stays as it was stored."""


class CrystalTooNew(UpgradeError):
    """A newer version of the code wrote this crystal."""


class UpgradeGap(UpgradeError):
    """No migration leads on from the version of this crystal."""


class UpgradeFailed(UpgradeError):
    """A migration raised, or made data that the contract does not take."""


class InvalidSettings(DgentError, ValueError):
    """A setting, an environment variable or a URL is wrong."""


class MigrationError(DgentError):
    """The schema could not be brought to where the code needs it; it is as it was."""


class SchemaOutdated(MigrationError):
    """The database is older than this code."""


class SchemaTooNew(MigrationError):
    """The database is newer than this code."""


class DowngradeRefused(MigrationError):
    """A downgrade was asked for outside of development."""


class StorageError(DgentError):
    """The machine, the disk, the server or the file failed."""


class BackendUnavailable(StorageError, ConnectionError):
    """The backend does not answer: an outage. What it holds is not lost, only out of reach."""


class UnknownBackend(BackendUnavailable):
    """No backend has this name."""


class NoBackendAvailable(BackendUnavailable):
    """None of the backends to choose from answers."""


class StorageTimeout(StorageError, TimeoutError):
    """A bounded wait came to its end before anything was written."""


class DeliveryPending(StorageTimeout):
    """Of what waited for `store` (a name), `waiting` writes are on their way, so that it cannot answer for all yet."""

    def __init__(self, store: str, waiting: int) -> None:
        self.store, self.waiting = store, waiting
        super().__init__(f"{waiting:,} writes are still on their way to {store}: try again when they are in")


class AccessRefused(StorageError, PermissionError):
    """A server refuses the login, or its role lacks a right; the message has the GRANT that is missing."""


class DiskFull(StorageError, OSError):
    """There is no space left; what was acknowledged is safe, this write is not in."""


class DiskError(StorageError, OSError):
    """The device failed to read or to write; it may come right, and nothing takes its place meanwhile."""


class ResourceExhausted(StorageError, OSError):
    """No memory or no file descriptor is left; it may come right, and nothing takes its place meanwhile."""


class ReadOnly(StorageError, OSError):
    """The file, the folder or the server cannot be written."""


class Corrupt(StorageError):
    """Stored bytes are not what was written."""


class StoreError(StorageError):
    """The causal substrate: logs and generations."""


class ChainBroken(StoreError):
    """A log was changed, moved or cut off. Attributes: `stream`, `writer`, `seq` of the first wrong entry, `reason`."""

    def __init__(self, stream: str, writer: str, seq: int, reason: str) -> None:
        self.stream, self.writer, self.seq, self.reason = stream, writer, seq, reason
        super().__init__(f"the log of {writer!r} in {stream!r} is broken at seq {seq}: {reason}")


class MalformedRow(StoreError):
    """A stored value has a form that it cannot have."""


class NonMonotonicGeneration(StoreError):
    """A generation was asked to move back. Attributes: `key`, `current` and `attempted`."""

    def __init__(self, key: str, current: int, attempted: int) -> None:
        self.key, self.current, self.attempted = key, current, attempted
        super().__init__(f"the generation {key!r} is at {current} and never moves back to {attempted}")


class StoreClosed(StorageError):
    """The store was closed, or was opened in another process before a fork."""


class TransactionOpen(StorageError, RuntimeError):
    """A call beside the transaction that is open around it, which would wait for it, or not see what it wrote."""


class RolledBack(StorageError, RuntimeError):
    """A transaction was undone inside of its block, which therefore commits nothing of it."""


class OutcomeUnknown(StorageError):
    """The answer to a commit was lost: it is in, or not. Repeat an equal put; look first for what is not idempotent."""


def __getattr__(name: str) -> type[Exception]:
    """Return WrongLoop, which is one of asyncio's too: what needs no loop need not wait for the import of that."""
    if name == "WrongLoop":
        from dgent.wrong_loop import WrongLoop  # noqa: PLC0415

        return WrongLoop
    raise AttributeError(name)
