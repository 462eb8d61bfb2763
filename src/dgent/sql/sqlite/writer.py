"""The connection that writes a SQLite file: it commits in groups, and vouches for the files that it commits into."""

# Everything here runs under the lock between processes, by whoever holds this process's write lock (`write_lease`): the
# writer's thread, but for `may_begin`, which is asked on the thread of a caller whose transaction begins there, and
# `close`, when the writer's thread has ended. No cancel reaches it. A COMMIT passes five points:
#
# check    the names are those of the files that are open, and nobody else wrote into the file
# COMMIT   SQLite writes and syncs its log; once in a while it also puts the log into the file
# settle   the names are still those; what a checkpoint made of the file is noted for the next process
# vacuum   if one of the units asks for it: the file is written anew, and the log is cut
# answer   to everybody whose unit was in it
#
# Where COMMIT itself fails with an error of the disk it may be in (`errors.in_doubt`): its callers hear OutcomeUnknown,
# that is noted in the lock's file, and this connection is closed. The next one, of whichever process, first puts the
# log into the file and cuts it; until that succeeds nothing is written.

from __future__ import annotations

import copy
import math
import sqlite3
import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from dgent.exceptions import Corrupt, DgentError, StorageTimeout
from dgent.runtime.batch_worker import Job, complete
from dgent.sql.errors import translate
from dgent.sql.runner import then_vacuum
from dgent.sql.sqlite.engine import close, close_last, commit, cut_log, files_of, prepare, wrap
from dgent.sql.sqlite.readers import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from dgent.settings import Settings


class GroupCommitWriter:
    """Commits units of work, each whole or not at all, to a file that is made on first use.

    Attributes:
        files: what lies there.
        lock: the one between processes.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.files = files_of(path, settings)
        self.lock = self.files.lock
        self._what, self._settings = str(path), settings
        self._connection: Connection | None = None
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the file was opened, and made if it was not there."""
        return self._connection is not None

    def open(self) -> Connection:
        """Return the connection to the file that was opened first; the lock is held.

        Raises:
            Corrupt: one of the files was removed, replaced, or written by somebody else.
            BackendUnavailable: a commit failed, and the file could not be made safe since.
            StorageTimeout: a commit failed, and the file could not be made safe since.
        """
        if self.files.in_doubt:
            self._drop()
        if self._connection is None:
            driver = prepare(self.files, self._settings)
            driver.set_progress_handler(lambda: time.monotonic() > self._until, 100 * STEPS)
            self._connection = wrap(driver)
        self.check()
        return self._connection

    def check(self) -> None:
        """Make sure of the files; what is in a `-wal` that was removed is saved."""
        try:
            self.files.check()
        except Corrupt:
            self._save_log()
            raise

    def may_begin(self) -> bool:
        """Tell whether a transaction may begin without more ado; the lock is held."""
        with suppress(Corrupt):
            self.files.check()
            return self.is_open and not self.files.in_doubt
        return False

    def commit(self, run: Callable[[], object]) -> None:
        """Run the COMMIT of any connection of this process."""
        commit(run, self.files)

    def commit_together(self, groups: list[list[Job]]) -> None:
        """Run groups of jobs, each in a savepoint, commit once, and answer every caller."""
        jobs = list(chain.from_iterable(groups))
        try:
            with self.lock:
                connection = self.open()
                driver: Any = connection.connection.dbapi_connection
                driver.execute("BEGIN IMMEDIATE")
                try:
                    self._run_groups(connection, driver, groups)
                    commit(partial(driver.execute, "COMMIT"), self.files)  # cached; driver.commit() plans it anew
                    if vacuums := [job for job in jobs if job.task is then_vacuum]:
                        self._vacuum(driver, vacuums)
                except BaseException:
                    with suppress(sqlite3.Error):
                        driver.execute("ROLLBACK")
                    raise
        except BaseException as error:  # every caller hears of it
            ours = translate(error, self._what)
            for job in jobs:
                job.error = job.error or copy.copy(ours) or error
        complete(jobs)

    def close(self) -> None:
        """Close the connection, the last of this process: SQLite checkpoints if it is the last of all."""
        connection, self._connection = self._connection, None
        with ExitStack() as held:
            if connection is not None:
                with suppress(DgentError, OSError):  # another process that keeps the lock will checkpoint
                    held.enter_context(self.lock)
                close_last(self.files, lambda: close(connection))
        self.files.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close_last(self.files, lambda: close(connection))

    def _save_log(self) -> None:
        """Put a log that nobody will find any more into the file, while this connection still has it."""
        if self._connection is not None and self.files.log_is_gone and not self.files.overwritten:
            driver: Any = self._connection.connection.dbapi_connection
            self.files.begin()
            with suppress(sqlite3.Error):
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self.files.note()
            self.files.end()

    def _vacuum(self, driver: sqlite3.Connection, jobs: list[Job]) -> None:
        """Write the file anew and cut its log; who asked for it hears what is in the way.

        SQLite overwrites what is deleted, but not the copies that it left where it moved rows from page to page.
        """
        self._until = math.inf
        try:
            driver.execute("PRAGMA temp_store=FILE")  # for as long as this takes: the copy is as large as the file
            commit(partial(driver.execute, "VACUUM"), self.files)
            late = f"{self._what}: it is erased, but somebody reads for too long for the -wal to be cut: vacuum again"
            wrong: Exception | None = None if cut_log(driver, self.files) else StorageTimeout(late)
        except Exception as error:
            wrong = translate(error, self._what) or error
        driver.execute("PRAGMA temp_store=MEMORY")
        for job in jobs:
            job.error = wrong

    def _run_groups(self, connection: Connection, driver: sqlite3.Connection, groups: list[list[Job]]) -> None:
        self._until = time.monotonic() + self._settings.command_timeout
        if len(groups) == 1:  # the transaction is its savepoint
            _run_group(connection, groups[0])
            return
        for group in groups:
            driver.execute("SAVEPOINT unit")
            try:
                _run_group(connection, group)
            except Exception as error:
                if not driver.in_transaction:  # SQLite rolled all of it back, as it does when the disk is full
                    raise
                driver.execute("ROLLBACK TO unit")
                for job in group:
                    job.error = translate(error, self._what) or error
            driver.execute("RELEASE unit")


def grouped(jobs: list[Job]) -> list[list[Job]]:
    """Split into units of work, each alone, and runs of jobs that share a batch key and their work."""
    groups: list[list[Job]] = []
    for job in jobs:
        before = groups[-1][0] if groups else None
        if before is None or job.batch_key is None or (job.batch_key, job.task) != (before.batch_key, before.task):
            groups.append([])
        groups[-1].append(job)
    return groups


def _run_group(connection: Connection, group: list[Job]) -> None:
    first = group[0]
    if first.batch_key is None:
        first.result = first.task(connection)
        return
    for job, result in zip(group, first.task(connection, [job.item for job in group]), strict=True):
        if isinstance(result, Exception):
            job.error = result
        else:
            job.result = result
