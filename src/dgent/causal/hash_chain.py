"""An entry of a log, and the two ways in which its hash covers what came before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from blake3 import blake3

from dgent.causal.head import HASH_SIZE, Head
from dgent.causal.log_tables import agent_store_log, own_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Table

    from dgent.page import Damaged

_CONTEXT: Final = "dgent 2026-11 writer log v1"
_NONE: Final = bytes(HASH_SIZE)

Hasher: TypeAlias = "Callable[[int, bytes | None, bytes], bytes]"
"""Makes the hash of an entry from its seq, the hash before it, and its payload."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log: `seq` counts from 1 for each stream and writer; hashes have 32 bytes.

    `prev_hash` is the hash of the entry before it, None for the first. `format` names how `content_hash` was made.
    """

    stream: str
    writer: str
    seq: int
    prev_hash: bytes | None
    content_hash: bytes
    payload: bytes
    format: str

    @property
    def head(self) -> Head:
        """Where who has read this entry goes on: the position behind it."""
        return Head(self.seq, self.content_hash)


class Entries(list[Entry]):
    """Some entries of a stream, in order. Go on behind the last of them.

    Attributes:
        damaged: what would stand among them, if it were whole, with the writer as `id` and the seq as `version`.
    """

    __slots__ = ("damaged",)

    def __init__(self, entries: Iterable[Entry] = (), damaged: tuple[Damaged, ...] = ()) -> None:
        super().__init__(entries)
        self.damaged = damaged


class Format(NamedTuple):
    """A kind of chain: where its entries lie, and what makes the hashes of one stream and writer."""

    name: str
    table: Table
    hasher: Callable[[str, str], Hasher]


@lru_cache(1024)  # a key costs as much as the hash of a short entry
def _dgent(stream: str, writer: str) -> Hasher:
    """Cover stream and writer, each after its length, as the key, and the seq, so that an entry cannot be moved."""
    start = blake3(derive_key_context=_CONTEXT)
    for text in (stream.encode(), writer.encode()):
        start.update(len(text).to_bytes(8, "big") + text)
    key = start.digest()

    def hash_of(seq: int, prev: bytes | None, payload: bytes) -> bytes:
        return blake3(b"".join((seq.to_bytes(8, "big"), prev or _NONE, payload)), key=key).digest()

    return hash_of


def _agent_store(stream: str, writer: str) -> Hasher:
    """Cover the hash before, or nothing, and the payload: after `agent-store`, whose entries can change their log."""

    def hash_of(seq: int, prev: bytes | None, payload: bytes) -> bytes:
        return blake3(payload if prev is None else prev + payload).digest()

    return hash_of


OWN: Final = Format("dgent/1", own_log, _dgent)
AGENT_STORE: Final = Format("agent-store/1", agent_store_log, _agent_store)
FORMATS: Final = {each.name: each for each in (OWN, AGENT_STORE)}


def chained(
    format: Format, stream: str, writer: str, seq: int, prev: bytes | None, payloads: Iterable[bytes]
) -> list[Entry]:
    """Return the entries that payloads become behind one, given by its seq and its hash: 0 and None for the start."""
    hash_of = format.hasher(stream, writer)
    found = []
    for payload in payloads:
        seq += 1
        own = hash_of(seq, prev, payload)
        found.append(Entry(stream, writer, seq, prev, own, payload, format.name))
        prev = own
    return found
