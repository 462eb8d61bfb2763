"""What a chain alone cannot show, a tail cut off or a log begun anew, shows against a head that was signed before."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import Integer, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert

from dgent.causal.fingerprint import SIZE, Fingerprint
from dgent.causal.hash_chain import FORMATS
from dgent.causal.head import HASH_SIZE, START, Head
from dgent.causal.keys import is_signed
from dgent.causal.log_tables import checkpoints as table
from dgent.causal.writer_log import LIMIT, check_place
from dgent.exceptions import ChainBroken, InvalidCheckpoint, InvalidDatum, MalformedRow
from dgent.sql.statement import Statement
from dgent.validation import check_limit, check_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

    from dgent.causal.keys import SigningKey
    from dgent.causal.writer_log import WriterLog

VERSION: Final = 1
"""Of the JSON and of what is signed, whose context names it as well."""
_CONTEXT: Final = b"dgent 2026-11 checkpoint v1"
_SIGNATURE_SIZE: Final = 64
_SIZES: Final = {"hash": HASH_SIZE, "public_key": SIZE, "signature": _SIGNATURE_SIZE}
_TYPES: Final = {
    "version": int, "format": str, "stream": str, "writer": str, "seq": int, "hash": str, "count": int,
    "public_key": str, "signature": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a log ended when somebody signed it: so many entries, up to `seq`, whose hash is `hash`.

    Its form is checked when it is made; whether the signature holds, by `check_signature`.

    Attributes:
        format: how the log is chained.
        hash: the `content_hash` of the entry at `seq`, 32 bytes.
        count: how many entries the log had. It has no gaps, so this is `seq`.
        public_key: of who signed it, 32 bytes.
        signature: ed25519, 64 bytes, over `message`.

    Raises:
        InvalidCheckpoint: a field is not what it can be.
    """

    format: str
    stream: str
    writer: str
    seq: int
    hash: bytes
    count: int
    public_key: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidCheckpoint(f"a checkpoint of the format {self.format!r:.80}, which this version does not know")
        try:
            check_place(self.stream, self.writer)
        except InvalidDatum as error:
            raise InvalidCheckpoint(f"a checkpoint: {error}") from None
        if type(self.seq) is not int or not 1 <= self.seq < 2**63:
            raise InvalidCheckpoint("the seq of a checkpoint is a whole number from 1 to 2**63 - 1")
        if type(self.count) is not int or self.count != self.seq:
            raise InvalidCheckpoint("the count of a checkpoint is its seq, because a log has no gaps")
        for name, size in _SIZES.items():
            value = getattr(self, name)
            if type(value) is not bytes or len(value) != size:
                raise InvalidCheckpoint(f"the {name} of a checkpoint is {size} bytes")

    @property
    def head(self) -> Head:
        """Where the log ended."""
        return Head(self.seq, self.hash)

    @property
    def signer(self) -> Fingerprint:
        """Who signed it, if the signature holds."""
        return Fingerprint.from_ed25519_pubkey(self.public_key)

    @property
    def message(self) -> bytes:
        """What is signed: a context and every field, each preceded by its length in 8 bytes, numbers in 8 bytes."""
        texts = (self.format.encode(), self.stream.encode(), self.writer.encode())
        count, seq = self.count.to_bytes(8, "big"), self.seq.to_bytes(8, "big")
        parts = (_CONTEXT, *texts, seq, self.hash, count, self.public_key)
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)

    def check_signature(self, expected: Fingerprint | None = None) -> None:
        """Check that it was signed by whose public key it names, and, if one is given, that this is who is expected.

        Raises:
            InvalidCheckpoint: it was not.
            CapabilityMissing: `cryptography` is not installed.
        """
        if expected is not None and self.signer != expected:
            raise InvalidCheckpoint(f"{self._what} was signed by {self.signer}, not by {expected}")
        if not is_signed(self.public_key, self.signature, self.message):
            raise InvalidCheckpoint(f"the signature of {self._what} does not hold: it was changed")

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object, bytes in lower-case hex."""
        fields = {name: value.hex() if type(value) is bytes else value for name, value in asdict(self).items()}
        return {"version": VERSION, **fields}

    def to_json(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote, however it was laid out since; the signature is not checked.

        Raises:
            InvalidCheckpoint: no such JSON, an unknown field, a field missing or given twice, a wrong type or size.
        """
        try:
            fields: Any = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            raise InvalidCheckpoint("a checkpoint is a JSON object that names each field once") from None
        if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != _TYPES:
            raise InvalidCheckpoint(f"a checkpoint has exactly these fields: {', '.join(_TYPES)}, of the right types")
        if fields.pop("version") != VERSION:
            raise InvalidCheckpoint("a checkpoint of another version: upgrade D-gent")
        fields.update({name: _bytes(name, fields[name]) for name in _SIZES})
        return cls(**fields)

    @property
    def _what(self) -> str:
        return f"the checkpoint of {self.writer!r} in {self.stream!r} at seq {self.seq}"


def sign(
    log: WriterLog,
    connection: Connection,
    stream: str,
    writer: str,
    key: SigningKey,
    *,
    against: Checkpoint | None = None,
    since: Checkpoint | None = None,
    trusted: Iterable[Fingerprint] = (),
    progress: Callable[[int], None] | None = None,
) -> Checkpoint:
    """Verify a log, also against the last checkpoint of this key that is kept here, and sign where it ends.

    Pass the last one that was exported as `against`: an old backup of the database has forgotten with the entries that
    they were signed. With `since`, of this key or of one that is trusted, only the entries behind it are recomputed.
    The result is not kept: `save` it here, and its JSON where who can change the database cannot.

    Raises:
        ChainBroken: the log is damaged, or is not the one that was signed before; nothing is signed.
        InvalidCheckpoint: the log is empty, or only another key may sign it.
    """
    check_signer(writer, key.fingerprint, [key.fingerprint])
    whom = [key.fingerprint, *trusted]
    newest, older = in_order(since, against, latest(log, connection, stream, writer, key.fingerprint))
    for each in older:
        check(each, log, stream, writer, whom)
        agree(log.at(connection, stream, writer, each.seq), each)
    head = verify(log, connection, stream, writer, against=newest, since=since, trusted=whom, progress=progress)
    return signed(log.format.name, stream, writer, head, key)


def signed(format: str, stream: str, writer: str, head: Head, key: SigningKey) -> Checkpoint:
    """Return the checkpoint of a head that was verified.

    Raises:
        InvalidCheckpoint: the log is empty.
    """
    if head.hash is None:
        raise InvalidCheckpoint(f"the log of {writer!r} in {stream!r} is empty: there is nothing to sign")
    unsigned = Checkpoint(format, stream, writer, head.seq, head.hash, head.seq, key.public, bytes(_SIGNATURE_SIZE))
    return replace(unsigned, signature=key.sign(unsigned.message))


def in_order(since: Checkpoint | None, *given: Checkpoint | None) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """Return the newest of some checkpoints, if it is not older than where the verification begins, and the others.

    What passes through the newest need only be looked up at the others.
    """
    known = sorted((each for each in given if each is not None), key=lambda each: each.seq)
    if not known or (since is not None and known[-1].seq < since.seq):
        return None, known
    return known[-1], known[:-1]


def verify(
    log: WriterLog,
    connection: Connection,
    stream: str,
    writer: str,
    *,
    against: Checkpoint | None = None,
    since: Checkpoint | None = None,
    trusted: Iterable[Fingerprint] = (),
    progress: Callable[[int], None] | None = None,
) -> Head:
    """Recompute a log, see that it holds what was signed, and return where it ends: seq 0 where there is no entry.

    A writer that is a fingerprint has to have signed the checkpoints himself; for others `trusted` says who may.

    The log must have passed through `against`. With `since` only the entries behind that are recomputed: those up to
    there are taken for what they were when it was signed. `progress` is told how many were, page by page.

    Raises:
        ChainBroken: names the first seq that is wrong: changed, moved, cut off, or forked.
        InvalidCheckpoint: a checkpoint is of another log, or was not signed by whom it should be; nothing was read.
    """
    check_both(since, against, log, stream, writer, trusted)
    head = START if since is None else agree(log.at(connection, stream, writer, since.seq), since)
    if against is not None:
        found = log.verify(connection, stream, writer, since=head, until=against.seq, progress=progress)
        head = agree(found, against)
    return log.verify(connection, stream, writer, since=head, progress=progress)


def consistent(
    log: WriterLog,
    connection: Connection,
    older: Checkpoint,
    newer: Checkpoint,
    *,
    trusted: Iterable[Fingerprint] = (),
    progress: Callable[[int], None] | None = None,
) -> None:
    """Check that a log leads from one checkpoint to another; only what lies between them is recomputed.

    Raises:
        ChainBroken: it does not; names the first seq that is wrong.
        InvalidCheckpoint: as for `verify`, or the newer one is the older.
    """
    stream, writer, whom = older.stream, older.writer, list(trusted)
    for each in (older, newer):
        check(each, log, stream, writer, whom)
    if newer.seq < older.seq:
        raise InvalidCheckpoint(f"the newer checkpoint is at seq {newer.seq}, the older one at {older.seq}: exchange")
    head = agree(log.at(connection, stream, writer, older.seq), older)
    agree(log.verify(connection, stream, writer, since=head, until=newer.seq, progress=progress), newer)


def save(connection: Connection, checkpoint: Checkpoint) -> None:
    """Keep a checkpoint in the database; again is once.

    Raises:
        InvalidCheckpoint: its signature does not hold, or its signer signed another hash for the same seq.
    """
    checkpoint.check_signature()
    place = (checkpoint.stream, checkpoint.writer, checkpoint.format)
    hashes = (checkpoint.hash, checkpoint.public_key, checkpoint.signature)
    if _SAVE.run(connection, *place, checkpoint.seq, str(checkpoint.signer), *hashes):
        return
    kept = _LATEST.row(connection, *place, checkpoint.seq, str(checkpoint.signer))
    if kept is None or tuple(kept[2:]) != hashes:
        raise InvalidCheckpoint(f"{checkpoint.signer} signed seq {checkpoint.seq} twice, with two hashes: do not trust")


def latest(
    log: WriterLog, connection: Connection, stream: str, writer: str, signer: Fingerprint | None = None
) -> Checkpoint | None:
    """Return the checkpoint of the highest seq that is kept, of one signer or of any; the signature is not checked.

    Raises:
        MalformedRow: a stored value has a form that it cannot have.
    """
    whose = None if signer is None else str(signer)
    row = _LATEST.row(connection, stream, writer, log.format.name, 2**63 - 1, whose)
    return None if row is None else _checkpoint(log, stream, writer, row)


def checkpoints(
    log: WriterLog, connection: Connection, stream: str, writer: str, *, after: int = 0, limit: int = LIMIT
) -> list[Checkpoint]:
    """Return the checkpoints behind a seq that are kept, in order; the signatures are not checked.

    Raises:
        MalformedRow: as for `latest`.
        InvalidQuery: `after` or `limit` mean nothing.
    """
    check_limit(limit)
    behind = check_version(after, "after")
    rows = _BEHIND.rows(connection, stream, writer, log.format.name, behind, min(limit, 2**31))
    return [_checkpoint(log, stream, writer, row) for row in rows]


def places(log: WriterLog, connection: Connection) -> list[tuple[str, str]]:
    """Return the stream and the writer of each log that has a checkpoint here, even if nothing is left of it."""
    return [(row[0], row[1]) for row in _PLACES.rows(connection, log.format.name)]


def check_both(
    since: Checkpoint | None,
    against: Checkpoint | None,
    log: WriterLog,
    stream: str,
    writer: str,
    trusted: Iterable[Fingerprint],
) -> None:
    """Refuse checkpoints by which a log cannot be verified, with InvalidCheckpoint."""
    whom = list(trusted)
    for each in (since, against):
        if each is not None:
            check(each, log, stream, writer, whom)
    if since is not None and against is not None and against.seq < since.seq:
        raise InvalidCheckpoint("the checkpoint to compare with is older than the one to begin at: see `consistent`")


def check(checkpoint: Checkpoint, log: WriterLog, stream: str, writer: str, trusted: list[Fingerprint]) -> None:
    """Refuse a checkpoint of another log, or of who may not sign this one."""
    if (checkpoint.format, checkpoint.stream, checkpoint.writer) != (log.format.name, stream, writer):
        what = f"{checkpoint.writer!r} in {checkpoint.stream!r}, {checkpoint.format}"
        raise InvalidCheckpoint(f"a checkpoint of another log ({what}) says nothing of {writer!r} in {stream!r}")
    check_signer(writer, checkpoint.signer, trusted)
    checkpoint.check_signature()


def check_signer(writer: str, signer: Fingerprint, trusted: list[Fingerprint]) -> None:
    """Refuse who may not sign the log of a writer, with InvalidCheckpoint."""
    own = Fingerprint.from_hex(writer)
    if own is not None and signer != own:
        raise InvalidCheckpoint(f"{signer} may not sign the log of {writer}: its writer is who does")
    if own is None and signer not in trusted:
        raise InvalidCheckpoint(f"nobody said that {signer} is trusted with the log of {writer!r}: pass `trusted`")


def agree(found: Head, signed: Checkpoint) -> Head:
    """Return where a log stood, if that is what was signed.

    Raises:
        ChainBroken: it is not.
    """
    if found.seq < signed.seq:
        reason = f"the tail was cut off: the log ends before it, and {signed.signer} signed it up to seq {signed.seq}"
        raise ChainBroken(signed.stream, signed.writer, found.seq + 1, reason)
    if found != signed.head:
        reason = f"the log was forked, here or before: {signed.signer} signed another hash"
        raise ChainBroken(signed.stream, signed.writer, signed.seq, reason)
    return found


def _checkpoint(log: WriterLog, stream: str, writer: str, row: Any) -> Checkpoint:
    seq, signer, hash, public_key, signature = row
    try:
        found = Checkpoint(log.format.name, stream, writer, seq, hash, seq, public_key, signature)
    except InvalidCheckpoint as error:
        raise MalformedRow(f"a row of dgent_checkpoints is no checkpoint: {error}") from None
    if str(found.signer) != signer:
        raise MalformedRow(f"a row of dgent_checkpoints names another signer than its key: {signer!r:.80}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _bytes(name: str, text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if value.hex() != text:  # one spelling for each value
        raise InvalidCheckpoint(f"the {name} of a checkpoint is lower-case hex")
    return value


_c = table.c
_here = (_c.stream == bindparam("in_stream"), _c.writer == bindparam("of_writer"), _c.format == bindparam("form"))
_of = select(_c.seq, _c.signer, _c.hash, _c.public_key, _c.signature).where(*_here)
_whose = func.coalesce(bindparam("whose", type_=Text()), _c.signer)
_LATEST: Final = Statement(
    _of.where(_c.seq <= bindparam("until"), _c.signer == _whose).order_by(_c.seq.desc(), _c.signer).limit(1),
    "in_stream of_writer form until whose",
)
_BEHIND: Final = Statement(
    _of.where(_c.seq > bindparam("after")).order_by(_c.seq, _c.signer).limit(bindparam("most", type_=Integer)),
    "in_stream of_writer form after most",
)
_PLACES: Final = Statement(
    select(_c.stream, _c.writer).where(_c.format == bindparam("form")).distinct().order_by(_c.stream, _c.writer), "form"
)
_SAVE: Final = Statement(
    insert(table)
    .values({column.name: bindparam(column.name, type_=column.type) for column in _c})
    .on_conflict_do_nothing(index_elements=list(table.primary_key.columns)),
    " ".join(column.name for column in _c),
)
