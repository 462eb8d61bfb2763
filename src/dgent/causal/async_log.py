"""The logs of a database for a program with an event loop: the verbs of `WriterLog`, awaited; and `follow`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from dgent.causal.checkpoint import agree, check, check_both, check_signer, in_order, latest, places, save, signed
from dgent.causal.doorbell import CommitEvent, Doorbell
from dgent.causal.follow import FollowedLog, follow
from dgent.causal.hash_chain import FORMATS, OWN, Entries, Entry
from dgent.causal.head import START, Head, Position, position
from dgent.causal.log_tables import TABLES
from dgent.causal.writer_log import LIMIT, Batch, WriterLog, check_names, check_payload, check_place
from dgent.exceptions import CapabilityMissing, InvalidInput, InvalidQuery
from dgent.runtime.callbacks import call_all
from dgent.sql.runner import SHORT
from dgent.sql.sql_store import SqlStore
from dgent.sql.transaction import FEW
from dgent.validation import as_list

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from dgent.causal.checkpoint import Checkpoint
    from dgent.causal.fingerprint import Fingerprint
    from dgent.causal.keys import SigningKey
    from dgent.sql import Database

After: TypeAlias = "Mapping[str, Position] | Position | None"


AT_ONCE: Final = 4000
"""Entries that `verify` recomputes in one call: a few milliseconds."""


class AsyncLog(SqlStore):
    """The logs of one format in a database, or in one transaction of it: see `joined`.

    Appends that wait at the same time go in one call. What was appended rings the doorbell once it is committed; an
    append whose caller was cancelled may be in without a ring. Errors are those of the same verbs of `WriterLog`.
    """

    def __init__(self, database: Database, doorbell: Doorbell | None = None) -> None:
        super().__init__(database, TABLES, may_be_absent=True)
        self.doorbell = doorbell or Doorbell()
        self._logs = {name: WriterLog(format, database.settings.limits) for name, format in FORMATS.items()}
        self._log = self._logs[OWN.name]

    @property
    def format(self) -> str:
        """How entries are chained: "dgent/1", or that of the crate, "agent-store/1"."""
        return self._log.format.name

    def within(self, format: str) -> Self:
        """Return the logs of another format, which have tables of their own.

        Raises:
            InvalidInput: there is no such format.
        """
        if format not in self._logs:
            raise InvalidInput(f"no log has the format {format!r:.80}: use {' or '.join(self._logs)}")
        other = copy.copy(self)
        other._log = self._logs[format]  # a copy of this class
        return other

    async def append(self, stream: str, writer: str, payload: bytes, *, expect_head: Position | None = None) -> Entry:
        """Add an entry behind the last one of a writer in a stream, and return it.

        With `expect_head`, a `Head` or a seq, it is appended only if the log ends there; 0 for an empty one.

        Raises:
            InvalidDatum: stream or writer are no text, longer than 2,400 bytes together, or the payload is no bytes.
            LimitExceeded: the payload is larger than the setting `max_content`.
            OutcomeUnknown: the answer to the commit was lost: look whether the entry is in.
            HeadConflict: the log ends elsewhere than at `expect_head`.
        """
        return (await self._append(Batch(stream, writer, [payload], expect_head)))[0]

    async def append_many(
        self, stream: str, writer: str, payloads: Iterable[bytes], *, expect_head: Position | None = None
    ) -> list[Entry]:
        """Add entries in order, next to each other, all or none, and return them.

        Raises:
            InvalidDatum: as for `append`.
            LimitExceeded: as for `append`.
            OutcomeUnknown: as for `append`.
            HeadConflict: as for `append`.
        """
        return await self._append(Batch(stream, writer, as_list(payloads, "payloads"), expect_head))

    async def head(self, stream: str, writer: str) -> Head:
        """Return where the log of a writer in a stream ends."""
        return await self._read(lambda connection: self._log.head(connection, stream, writer), short=True)

    async def entries(self, stream: str, writer: str, *, after: Position = 0, limit: int = LIMIT) -> Entries:
        """Return the entries behind a position, in order; `damaged` names the others: see `WriterLog.entries`."""
        self._check_page(limit)
        return await self._read(
            lambda connection: self._log.entries(connection, stream, writer, after=after, limit=limit),
            short=limit <= SHORT,
        )

    async def merged(self, stream: str, *, after: Mapping[str, Position] | None = None, limit: int = LIMIT) -> Entries:
        """Return entries of all writers behind a position: each writer's in order, the writers' by turns."""
        self._check_page(limit)
        return await self._read(lambda connection: self._log.merged(connection, stream, after=after, limit=limit))

    async def streams(self) -> list[str]:
        """Return the streams that have an entry, sorted."""
        return await self._read(self._log.streams)

    async def writers(self, stream: str) -> list[str]:
        """Return the writers that have an entry in a stream, sorted."""
        return await self._read(lambda connection: self._log.writers(connection, stream))

    async def verify(
        self,
        stream: str,
        writer: str,
        *,
        against: Checkpoint | None = None,
        since: Checkpoint | None = None,
        trusted: Iterable[Fingerprint] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Head:
        """Recompute the chain of a writer in a stream, see that it holds what was signed, and return where it ends.

        A log that has no entry ends at seq 0, as for `head`: whoever expects one looks at the seq, or passes `against`.
        It reads some at a time, each time for itself, so that no long transaction holds up others. `progress` gets how
        many they were, on the event loop. Checkpoints are as for `checkpoint.verify`.

        Raises:
            ChainBroken: names the first seq that is not what was written, or signed.
            InvalidCheckpoint: a checkpoint is of another log, or was not signed by whom it should be.
        """
        check_both(since, against, self._log, stream, writer, trusted)
        head = START
        if since is not None:
            head = agree(await self._at(stream, writer, since.seq), since)
        if against is not None:
            head = agree(await self._verify(stream, writer, head, against.seq, progress), against)
        return await self._verify(stream, writer, head, None, progress)

    async def sign(
        self,
        stream: str,
        writer: str,
        key: SigningKey,
        *,
        against: Checkpoint | None = None,
        since: Checkpoint | None = None,
        trusted: Iterable[Fingerprint] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Checkpoint:
        """Verify a log, sign where it ends, and keep the checkpoint here: see `checkpoint.sign`.

        Keep its JSON elsewhere as well, and pass that as `against` the next time: who can change this database, or puts
        an old backup of it in place, takes the checkpoint out with what was signed.

        Raises:
            ChainBroken: as for `checkpoint.sign`; nothing is signed.
            InvalidCheckpoint: as for `checkpoint.sign`; nothing is signed.
        """
        check_signer(writer, key.fingerprint, [key.fingerprint])
        newest, older = in_order(since, against, await self.latest(stream, writer, key.fingerprint))
        whom = [key.fingerprint, *trusted]
        for each in older:
            check(each, self._log, stream, writer, whom)
            agree(await self._at(stream, writer, each.seq), each)
        head = await self.verify(stream, writer, against=newest, since=since, trusted=whom, progress=progress)
        made = signed(self.format, stream, writer, head, key)
        await self._write(lambda connection: save(connection, made))
        return made

    async def latest(self, stream: str, writer: str, signer: Fingerprint | None = None) -> Checkpoint | None:
        """Return the last checkpoint that is kept here, of one signer or of any; its signature is not checked."""
        return await self._read(lambda connection: latest(self._log, connection, stream, writer, signer), short=True)

    async def signed_places(self) -> list[tuple[str, str]]:
        """Return the stream and the writer of each log that has a checkpoint here, whether anything is left of it."""
        return await self._read(partial(places, self._log))

    def follow(self, stream: str, *, writer: str | None = None, after: After = None) -> AsyncGenerator[Entry, None]:
        """Iterate over the entries of a stream: those that are there, then those that come, without an end.

        Each entry comes once, each writer's in order, also those of writers that are new and of other processes. Who
        leaves goes on from the `head` of the last entry of each writer: nothing is missed, and a log that went back
        meanwhile is an error. A seq alone is a position, too; then what was exchanged below it is not noticed. Where
        the database goes out of reach, it waits, with a warning in the log, until it is back.

        Args:
            stream: whose entries.
            writer: only this one's.
            after: where to begin: a `Head` or a seq, if a writer is named; else by writer, and the others at 1.

        Raises:
            InvalidDatum: an argument means nothing.
            InvalidQuery: an argument means nothing.
            CapabilityMissing: this is a transaction, which would have to stay open.
            BackendUnavailable: the database did not answer the first time.
            StorageTimeout: the database did not answer the first time.
            ChainBroken: an entry was taken out, or the log is not the one that was seen.
            MalformedRow: what stands there is no entry.
            StoreClosed: the database was closed meanwhile.
        """
        if self.is_joined:
            raise CapabilityMissing("a transaction cannot be followed: follow storage.log, outside of it")
        check_names(stream)
        committed = self.joined(self.database)  # also where it is asked within a transaction
        return follow(committed, self.doorbell, FollowedLog(self._log, stream, writer), _position(writer, after))

    async def _at(self, stream: str, writer: str, seq: int) -> Head:
        return await self._read(lambda connection: self._log.at(connection, stream, writer, seq), short=True)

    async def _verify(
        self, stream: str, writer: str, head: Head, until: int | None, progress: Callable[[int], None] | None
    ) -> Head:
        while until is None or head.seq < until:
            bound = head.seq + AT_ONCE if until is None else min(until, head.seq + AT_ONCE)
            found = await self._read(partial(self._log.verify, stream=stream, writer=writer, since=head, until=bound))
            if progress is not None and found != head:
                progress(found.seq - head.seq)
            head = found
            if head.seq < bound:
                break
        return head

    async def _append(self, batch: Batch) -> list[Entry]:
        check_place(batch.stream, batch.writer)
        for payload in batch.payloads:
            check_payload(payload, self.database.settings.limits)
        if batch.expect_head is not None:
            position(batch.expect_head, "expect_head")
        if len(batch.payloads) <= FEW:
            entries = await self._write_each(self._log.append_each, batch, ("log", self._log.format.name))
        else:
            stream, writer, payloads, expect = batch
            entries = await self._write(
                lambda connection: self._log.append_many(connection, stream, writer, payloads, expect_head=expect)
            )
        self._after_commit(lambda: self._ring(entries))
        return entries

    def _ring(self, entries: list[Entry]) -> None:
        call_all(partial(self.doorbell.ring, CommitEvent.of(entry)) for entry in entries)

    def _check_page(self, limit: int) -> None:
        self.database.settings.limits.page(limit)


def _position(writer: str | None, after: After) -> dict[str, Head]:
    if writer is not None:
        check_names(writer)
    if isinstance(after, Mapping):
        found = {each: position(seen) for each, seen in after.items()}
        return found if writer is None else {writer: found.get(writer, START)}
    if after is None:
        return {}
    if writer is None:
        raise InvalidQuery("after is a position of one writer: name it, or give a mapping from writers to positions")
    return {writer: position(after)}
