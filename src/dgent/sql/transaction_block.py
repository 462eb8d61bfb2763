"""Who ends the transaction of a block: the block alone, not a session, a connection or a statement inside of it.

A repository that commits for itself composes, as in SQLAlchemy's `join_transaction_mode="rollback_only"`: its
`commit()` flushes, its `begin()` is a savepoint, its `rollback()` undoes the innermost `storage.transaction()`, and its
`close()` lets go of its objects.
"""

# a block      who sets it                                          what it means
# begun        the connection, at BEGIN                             it is open; there is no second one
# committing   its transaction, around the commit                   who else would commit undoes it instead
# committed    the connection, when COMMIT was answered             an error that comes after it takes nothing back
# undone       whatever ended it within: `session.rollback()`, a    nothing begins in it anew, so that what comes later
#              flush that failed, a connection that was let go of   is not committed without what came before
# over         the end of the block, by a cancel or an error, too   its session closes
#
# All of that is set on the event loop of the block, without a lock; only COMMIT itself may run on another thread
# meanwhile, and the block waits for it.
#
# What waits for the commit waits in the order of the statements. A savepoint, whoever said it, marks how many there
# were, and a rollback to it drops what came behind the mark: what it undoes is not reported as committed.

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from dgent.exceptions import InvalidQuery, RolledBack, StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import SessionTransaction

_UNDONE: Final = (
    "this transaction was rolled back inside of its block, so nothing of it is kept, and nothing more is taken: let an "
    "error leave the block, and run what may fail alone in a storage.transaction() or session.begin_nested() within it"
)
_NOT_HERE: Final = (
    "a connection does not commit the transaction of a block, so all of it is rolled back: the end of the block "
    "commits, and session.commit() flushes until then"
)
_UNFLUSHED: Final = (
    "the session was closed with changes that are not flushed, so the whole transaction is rolled back: flush() or "
    "commit() before, or expunge what is not wanted"
)
_CONTROL: Final = (
    "{word} is not run inside of a transaction of ours, which ends with its block: leave the block to commit, raise an "
    "error to roll back, and run what may fail alone in session.begin_nested()"
)


class Block:
    """How far the transaction of one block is.

    Attributes:
        savepoints: those of the transactions that are nested in it, the innermost last.
        innermost: that transaction, or its own.
        callbacks: what waits for its commit.
    """

    __slots__ = (
        "_marks",
        "begun",
        "callbacks",
        "committed",
        "committing",
        "innermost",
        "over",
        "savepoints",
        "undone",
    )

    def __init__(self) -> None:
        self.begun = self.committing = self.committed = self.undone = self.over = False
        self.savepoints: list[SessionTransaction] = []
        self.innermost: object = None
        self.callbacks: list[Callable[[], None]] = []
        self._marks: list[tuple[str, int]] = []

    def check(self) -> None:
        """Raise if it was undone, or if the innermost savepoint was.

        Raises:
            RolledBack: it was.
        """
        if self.undone or (self.savepoints and not self.savepoints[-1].is_active):
            raise undone()

    def mark(self, word: str, name: str) -> None:
        """Take notice that a savepoint was made, released or gone back to."""
        if word == "SAVEPOINT":
            self._marks.append((name, len(self.callbacks)))
            return
        known = [at for at, (other, _) in enumerate(self._marks) if other == name]
        if known and word == "ROLLBACK":
            del self._marks[known[-1] + 1 :]
            del self.callbacks[self._marks[-1][1] :]
        elif known:
            del self._marks[known[-1] :]

    def refuse_commit(self) -> None:
        """Raise unless it is the block that commits.

        Raises:
            RolledBack: somebody else would.
        """
        if not self.committing:
            self.undone = True
            raise RolledBack(_NOT_HERE)


def undone() -> RolledBack:
    """Return the error that says that a block was rolled back."""
    return RolledBack(_UNDONE)


def ended() -> StoreClosed:
    """Return the error for what is asked of a block that is over."""
    return StoreClosed("this transaction has ended: open another with storage.transaction()")


def follow_savepoints(target: Engine | Connection, block_of: Callable[[Connection], Block | None]) -> None:
    """Let blocks take notice of what runs on the connections of an engine, or on one."""

    @event.listens_for(target, "after_cursor_execute")
    def on_execute(connection: Connection, cursor: object, sql: str, *_: object) -> None:
        found = _SAVEPOINT.match(sql)
        block = block_of(connection) if found is not None else None
        if found is not None and block is not None:
            block.mark(found[1].upper(), found[2].strip('"').lower())


class _BlockSyncSession(Session):
    """A session that leaves the end of its transaction to the block."""

    def __init__(self, *args: Any, block: Block, **named: Any) -> None:
        super().__init__(*args, expire_on_commit=False, close_resets_only=False, **named)
        self.block = block

    def commit(self) -> None:
        """Flush; the block commits at its end."""
        if self.block.committing:
            super().commit()
        else:
            self.flush()

    def begin(self, nested: bool = False) -> SessionTransaction:  # noqa: ARG002, FBT001, FBT002, RUF100  # SQLAlchemy's
        """Begin a savepoint: the transaction is open already."""
        return super().begin(nested=True)

    def rollback(self) -> None:
        """Undo the innermost `storage.transaction()`, which then ends with RolledBack unless an error leaves it."""
        if self.block.savepoints:
            self.block.savepoints[-1].rollback()
        else:
            super().rollback()

    def close(self) -> None:
        """Let go of the objects; the transaction stays open."""
        if self.block.over:
            super().close()
        else:
            self._let_go()

    def reset(self) -> None:
        """Let go of the objects; the transaction stays open."""
        self.close()

    def _let_go(self) -> None:
        if self.new or self.deleted or any(map(self.is_modified, self.dirty)):
            self.rollback()
            raise RolledBack(_UNFLUSHED)
        self.expunge_all()


class BlockSession(AsyncSession):
    """A session inside of the transaction of a block."""

    sync_session_class = _BlockSyncSession

    @property
    def block(self) -> Block:
        """The block of its transaction."""
        found: Block = self.sync_session.block  # type: ignore[attr-defined]  # it is a `_BlockSyncSession`
        return found

    async def end(self) -> None:
        """Undo what the block did not commit, and release the connection."""
        self.block.over = True
        await self.close()


_SKIPPED: Final = re.compile(r"(?:\s|;|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_ENDS: Final = re.compile(
    r"(COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|ROLLBACK(?!(?:\s+(?:WORK|TRANSACTION))?\s+TO\b))\b",
    re.IGNORECASE,
)
_LITERAL: Final = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/""", re.DOTALL
)
_SAVEPOINT: Final = re.compile(
    rf"""{_SKIPPED.pattern}(SAVEPOINT|RELEASE|ROLLBACK)(?:\s+(?:WORK|TRANSACTION))?(?:\s+TO)?(?:\s+SAVEPOINT)?\s+("[^"]*"|\w+)""",
    re.IGNORECASE | re.DOTALL,
)
_ATOMIC: Final = re.compile(r"\bBEGIN\s+ATOMIC\b", re.IGNORECASE)


@lru_cache(maxsize=512)
def control_in(sql: str, *, several: bool = False) -> str | None:
    """Return the word of SQL that would begin or end a transaction, or None. A savepoint is none.

    With `several` the text may hold several statements, else only the first one counts.
    """
    for statement in [sql, *(_statements(sql) if several and ";" in sql else ())]:
        start: Any = _SKIPPED.match(statement)  # it matches the empty text
        found = _ENDS.match(statement, start.end())
        if found is not None:
            return found[1].upper()
    return None


def refused(word: str) -> InvalidQuery:
    """Return the error for SQL that would begin or end a transaction by this word."""
    return InvalidQuery(_CONTROL.format(word=word))


def _statements(sql: str) -> list[str]:
    """Split what a server may take as several statements, without what stands in quotes; a body in SQL is one."""
    bare = _LITERAL.sub(" ", sql)
    return [] if _ATOMIC.search(bare) else bare.split(";")
